"""Pages of listings as different stores write them, and what is none."""

from __future__ import annotations

import pytest

from drpilot.domain.objects import Entry, Page
from drpilot.formats.objectlist import MalformedListing, read_page

SPACE = ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def page(*contents: str, top: str = "<IsTruncated>false</IsTruncated>", space: str = SPACE) -> bytes:
    """A page with these objects."""
    return (
        f'<?xml version="1.0"?><ListBucketResult{space}>{top}{"".join(contents)}</ListBucketResult>'.encode()
    )


def row(key: str, size: str = "5", etag: str = "&quot;aa&quot;") -> str:
    """An object as S3 writes it, with an owner whose fields must not be taken for the object's."""
    return (
        f"<Contents><Key>{key}</Key><LastModified>x</LastModified><ETag>{etag}</ETag><Size>{size}</Size>"
        "<Owner><ID>7</ID><Key>no</Key></Owner></Contents>"
    )


def test_keys_are_decoded_where_the_store_says_that_it_encoded_them() -> None:
    """A plus is a space and %2B a plus in an encoded listing; in one that is not, both are themselves."""
    encoded = page(
        row("a%2Bb+c%25%C3%BC"), top="<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
    )
    assert read_page(encoded) == Page((Entry("a+b c%ü", 5, "aa"),))
    assert read_page(page(row("a%2Bb+c &amp; d"), space="")) == Page((Entry("a%2Bb+c & d", 5, "aa"),))


@pytest.mark.parametrize(
    ("top", "following"),
    [
        ("<NextContinuationToken>t/+=</NextContinuationToken>", "t/+="),
        ("<NextMarker>b%2B</NextMarker><EncodingType>url</EncodingType>", "b+"),
        ("<NextMarker>b%2B</NextMarker>", "b%2B"),
        ("<Marker>old</Marker>", "last"),
    ],
)
def test_the_next_page_is_asked_for_as_each_version_wants_it(top: str, following: str) -> None:
    """By its token, by its marker, or, where version 1 gives none, by the last key."""
    found = read_page(page(row("first"), row("last"), top=f"<IsTruncated>true</IsTruncated>{top}"))
    assert found.following == following
    assert [entry.key for entry in found.entries] == ["first", "last"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>sign in</body></html>",
        page(row("a"))[:-20],
        page(row("a", size="")),
        page(row("")),
        page(top="<IsTruncated>true</IsTruncated>"),
        b'<!DOCTYPE x [<!ENTITY e "e">]><ListBucketResult><Name>&e;</Name></ListBucketResult>',
        b"<Error><Code>SlowDown</Code></Error>",
    ],
)
def test_what_is_no_listing_is_never_an_empty_one(body: bytes) -> None:
    """A page that can't be read is an error: taken for an empty bucket it would cost every object."""
    with pytest.raises(MalformedListing):
        read_page(body)
