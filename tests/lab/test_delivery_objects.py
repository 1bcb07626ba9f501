"""S3 of the lab, through unchanged boto3: conditions, checksums, ranges, listings, multipart, presigned
URLs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from drpilot.base.clock import ManualClock
from drpilot.lab.cloud import Cloud, Settings
from drpilot.lab.payload import ALGORITHMS, checksum, unframe
from drpilot.lab.refusal import Refusal
from drpilot.lab.wire import Incoming, answer, attach

KEYS = {"AKIDLABHOME": "secret"}
BUCKET = "witness-bucket"


def client(cloud: Cloud, endpoint: str = "http://127.0.0.1:9", **config: Any) -> Any:
    session = boto3.Session("AKIDLABHOME", "secret", region_name=cloud.region)
    options = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, **config)
    made = session.client("s3", endpoint_url=endpoint, config=options)
    attach(made, cloud)
    return made


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    opened = Cloud.open(tmp_path / "home", Settings(keys=KEYS, speed=1000))
    yield opened
    assert opened.errors == []
    opened.close()


@pytest.fixture
def s3(cloud: Cloud) -> Any:
    made = client(cloud)
    made.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": cloud.region})
    return made


def refused(call: Any, *args: Any, **kwargs: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_object_round_trip_keeps_bytes_type_and_metadata(s3: Any) -> None:
    """What was put comes back with its ETag, content type, metadata and checksum."""
    put = s3.put_object(
        Bucket=BUCKET, Key="a/ü b.txt", Body=b"hello", ContentType="text/plain", Metadata={"Who": "me"}
    )
    got = s3.get_object(Bucket=BUCKET, Key="a/ü b.txt")
    assert got["Body"].read() == b"hello"
    assert got["ETag"] == put["ETag"] == f'"{hashlib.md5(b"hello").hexdigest()}"'
    assert (got["ContentType"], got["Metadata"], got["ContentLength"]) == ("text/plain", {"who": "me"}, 5)
    assert got["ChecksumCRC32"] == checksum("ChecksumCRC32", b"hello")
    assert s3.head_object(Bucket=BUCKET, Key="a/ü b.txt")["ETag"] == put["ETag"]


def test_conditional_create_and_replace_are_exact(s3: Any) -> None:
    """If-None-Match creates once; If-Match replaces only what was seen, with 412 and 404 otherwise."""
    first = s3.put_object(Bucket=BUCKET, Key="epoch", Body=b"1", IfNoneMatch="*")["ETag"]
    assert refused(s3.put_object, Bucket=BUCKET, Key="epoch", Body=b"x", IfNoneMatch="*") == (
        "PreconditionFailed",
        412,
    )
    second = s3.put_object(Bucket=BUCKET, Key="epoch", Body=b"2", IfMatch=first)["ETag"]
    assert refused(s3.put_object, Bucket=BUCKET, Key="epoch", Body=b"3", IfMatch=first) == (
        "PreconditionFailed",
        412,
    )
    assert refused(s3.put_object, Bucket=BUCKET, Key="none", Body=b"3", IfMatch=second) == ("NoSuchKey", 404)
    assert s3.get_object(Bucket=BUCKET, Key="epoch")["Body"].read() == b"2"


def test_one_of_many_conditional_writers_wins(cloud: Cloud, s3: Any) -> None:
    """Twenty writers that raise the same ETag at once: one succeeds, and its bytes are the object."""
    etag = s3.put_object(Bucket=BUCKET, Key="epoch", Body=b"0")["ETag"]

    def raise_epoch(number: int) -> int | None:
        try:
            s3.put_object(Bucket=BUCKET, Key="epoch", Body=str(number).encode(), IfMatch=etag)
        except ClientError as error:
            return None if error.response["Error"]["Code"] == "PreconditionFailed" else -number
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(raise_epoch, range(1, 21)) if number is not None]
    assert len(winners) == 1
    assert s3.get_object(Bucket=BUCKET, Key="epoch")["Body"].read() == str(winners[0]).encode()


def test_conditional_reads(s3: Any) -> None:
    """If-Match of another ETag is 412, If-None-Match of the same is 304."""
    etag = s3.put_object(Bucket=BUCKET, Key="k", Body=b"v")["ETag"]
    assert s3.get_object(Bucket=BUCKET, Key="k", IfMatch=etag)["Body"].read() == b"v"
    assert refused(s3.get_object, Bucket=BUCKET, Key="k", IfMatch='"other"')[1] == 412
    assert refused(s3.get_object, Bucket=BUCKET, Key="k", IfNoneMatch=etag)[1] == 304


def test_wrong_digest_is_refused_and_nothing_is_written(s3: Any) -> None:
    """A Content-MD5 or checksum that does not fit the bytes is BadDigest and leaves no object."""
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert refused(s3.put_object, Bucket=BUCKET, Key="k", Body=b"v", ContentMD5=wrong) == ("BadDigest", 400)
    assert refused(s3.put_object, Bucket=BUCKET, Key="k", Body=b"v", ContentMD5="short")[0] == "InvalidDigest"
    for member in ALGORITHMS:
        if member in ("ChecksumSHA512", "ChecksumMD5"):
            continue
        given = {member: checksum(member, b"other")}
        assert refused(s3.put_object, Bucket=BUCKET, Key="k", Body=b"v", **given)[0] == "BadDigest"
        s3.put_object(Bucket=BUCKET, Key=f"fine/{member}", Body=b"v", **{member: checksum(member, b"v")})
    assert refused(s3.head_object, Bucket=BUCKET, Key="k")[1] == 404


def test_crc_values_are_the_published_check_values() -> None:
    """The three CRCs give the check values of their definitions for the text 123456789."""
    assert ALGORITHMS["ChecksumCRC32"](b"123456789").hex() == "cbf43926"
    assert ALGORITHMS["ChecksumCRC32C"](b"123456789").hex() == "e3069283"
    assert ALGORITHMS["ChecksumCRC64NVME"](b"123456789").hex() == "ae8b14860a799888"


def test_framed_upload_over_tls_endpoint(cloud: Cloud, s3: Any) -> None:
    """The aws-chunked body that boto3 sends to an https endpoint is stored without its frames."""
    secure = client(cloud, "https://lab.example.org")
    secure.put_object(Bucket=BUCKET, Key="framed", Body=b"0123456789" * 1000)
    got = s3.get_object(Bucket=BUCKET, Key="framed")
    assert got["Body"].read() == b"0123456789" * 1000
    assert "ContentEncoding" not in got


def test_frames_are_read_to_the_last_byte() -> None:
    """Frames of several chunks with a trailer give data and trailer; a cut body is IncompleteBody."""
    body = b"3\r\nabc\r\n2;chunk-signature=00\r\nde\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"
    assert unframe(body) == (b"abcde", {"x-amz-checksum-crc32": "AAAA"})
    with pytest.raises(Refusal, match="IncompleteBody"):
        unframe(body[:6])


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [("bytes=2-4", 2, 4), ("bytes=6-", 6, 9), ("bytes=-3", 7, 9), ("bytes=8-99", 8, 9)],
)
def test_ranges(s3: Any, wanted: str, first: int, last: int) -> None:
    """A range gives 206, its bytes and Content-Range."""
    data = b"0123456789"
    s3.put_object(Bucket=BUCKET, Key="k", Body=data)
    got = s3.get_object(Bucket=BUCKET, Key="k", Range=wanted)
    assert got["Body"].read() == data[first : last + 1]
    assert got["ContentRange"] == f"bytes {first}-{last}/10"
    assert got["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_range_beyond_the_end_is_refused(s3: Any) -> None:
    """A range that begins beyond the last byte is InvalidRange (416)."""
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"12")
    assert refused(s3.get_object, Bucket=BUCKET, Key="k", Range="bytes=2-") == ("InvalidRange", 416)


def test_listing_pages_prefixes_and_delimiters(s3: Any) -> None:
    """Pages neither repeat nor lose keys, and common prefixes count as keys."""
    keys = sorted([f"logs/{number:02d}" for number in range(7)] + ["a", "b/x", "b/y", "c+d e"])
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    for operation in ("list_objects_v2", "list_objects"):
        pages = s3.get_paginator(operation).paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 3})
        assert [item["Key"] for page in pages for item in page.get("Contents", [])] == keys
        pages = s3.get_paginator(operation).paginate(
            Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": 1}
        )
        shown = [
            item.get("Key") or item["Prefix"]
            for page in pages
            for item in page.get("Contents", []) + page.get("CommonPrefixes", [])
        ]
        assert shown == ["a", "b/", "c+d e", "logs/"]
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="logs/", StartAfter="logs/04")
    assert [item["Key"] for item in listed["Contents"]] == ["logs/05", "logs/06"]


def test_copy_and_delete(s3: Any) -> None:
    """A copy carries bytes and metadata; deleting is idempotent; many keys go in one call."""
    s3.put_object(Bucket=BUCKET, Key="one", Body=b"v", Metadata={"a": "b"})
    s3.copy_object(Bucket=BUCKET, Key="two words", CopySource={"Bucket": BUCKET, "Key": "one"})
    got = s3.get_object(Bucket=BUCKET, Key="two words")
    assert (got["Body"].read(), got["Metadata"]) == (b"v", {"a": "b"})
    missing = {"Bucket": BUCKET, "Key": "nothing"}
    assert refused(s3.copy_object, Bucket=BUCKET, Key="x", CopySource=missing) == ("NoSuchKey", 404)
    s3.delete_object(Bucket=BUCKET, Key="one")
    s3.delete_object(Bucket=BUCKET, Key="one")
    assert refused(s3.delete_bucket, Bucket=BUCKET) == ("BucketNotEmpty", 409)
    s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "two words"}, {"Key": "never"}]})
    s3.delete_bucket(Bucket=BUCKET)
    assert refused(s3.list_objects_v2, Bucket=BUCKET) == ("NoSuchBucket", 404)


def test_multipart_upload(s3: Any) -> None:
    """Parts become one object with the combined ETag; wrong order, etag and size are refused first."""
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="big")["UploadId"]
    parts = [bytes([number]) * (5 * 1024 * 1024 if number < 2 else 100) for number in (1, 2)]
    etags = []
    for number, data in enumerate(parts, 1):
        made = s3.upload_part(Bucket=BUCKET, Key="big", UploadId=upload, PartNumber=number, Body=data)
        etags.append({"PartNumber": number, "ETag": made["ETag"]})
    shown = s3.list_parts(Bucket=BUCKET, Key="big", UploadId=upload)["Parts"]
    assert [part["Size"] for part in shown] == [len(part) for part in parts]
    same = {"Bucket": BUCKET, "Key": "big", "UploadId": upload}
    backwards = {"Parts": etags[::-1]}
    assert refused(s3.complete_multipart_upload, **same, MultipartUpload=backwards)[0] == "InvalidPartOrder"
    wrong = {"Parts": [{**etags[0], "ETag": '"0"'}]}
    assert refused(s3.complete_multipart_upload, **same, MultipartUpload=wrong)[0] == "InvalidPart"
    done = s3.complete_multipart_upload(**same, MultipartUpload={"Parts": etags})
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    assert done["ETag"] == f'"{hashlib.md5(joined).hexdigest()}-2"'
    assert s3.get_object(Bucket=BUCKET, Key="big")["Body"].read() == b"".join(parts)
    assert (
        refused(s3.complete_multipart_upload, **same, MultipartUpload={"Parts": etags})[0] == "NoSuchUpload"
    )


def test_multipart_condition_is_decided_at_completion(s3: Any) -> None:
    """If-None-Match at completion is refused when the key was written meanwhile; abort forgets the parts."""
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="k")["UploadId"]
    made = s3.upload_part(Bucket=BUCKET, Key="k", UploadId=upload, PartNumber=1, Body=b"late")
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"early")
    parts = {"Parts": [{"PartNumber": 1, "ETag": made["ETag"]}]}
    same = {"Bucket": BUCKET, "Key": "k", "UploadId": upload}
    assert refused(s3.complete_multipart_upload, **same, MultipartUpload=parts, IfNoneMatch="*")[1] == 412
    assert s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"][0]["UploadId"] == upload
    s3.abort_multipart_upload(**same)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    assert s3.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"early"


def test_managed_transfer_uses_multipart(s3: Any, tmp_path: Path) -> None:
    """boto3's own transfer manager uploads 17 MiB in parts and downloads the same bytes."""
    data = hashlib.shake_256(b"transfer").digest(17 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    s3.upload_file(str(source), BUCKET, "transfer")
    assert s3.head_object(Bucket=BUCKET, Key="transfer")["ETag"].endswith('-3"')
    s3.download_file(BUCKET, "transfer", str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == data


def test_presigned_urls(cloud: Cloud, s3: Any) -> None:
    """A presigned PUT, HEAD, GET and DELETE each make their one call on their one object until they expire; what is
    changed, late, too long or of version 2 is refused as S3 refuses it, and changes nothing.
    """

    def ask(method: str, url: str, body: bytes = b"") -> Any:
        parts = urlsplit(url)
        return answer(cloud, Incoming(method, parts.path, parts.query, {"host": parts.netloc}, body))

    def signed(call: str, version: str = "s3v4", expires_s: int = 600) -> str:
        made = client(cloud, signature_version=version)
        return str(made.generate_presigned_url(call, {"Bucket": BUCKET, "Key": "p"}, ExpiresIn=expires_s))

    put, head, get, delete = (signed(f"{name}_object") for name in ("put", "head", "get", "delete"))
    assert ask("HEAD", head).status == 404
    assert ask("PUT", put, b"signed").status == 200
    assert ask("HEAD", head).headers["ETag"] == f'"{hashlib.md5(b"signed").hexdigest()}"'
    assert ask("GET", get).body == b"signed"
    refused_as = {
        ("GET", get.replace("/p?", "/q?")): (403, b"SignatureDoesNotMatch"),
        ("PUT", get): (403, b"SignatureDoesNotMatch"),
        ("DELETE", put): (403, b"SignatureDoesNotMatch"),
        ("GET", signed("get_object", expires_s=700_000)): (400, b"AuthorizationQueryParametersError"),
        ("PUT", signed("put_object", "s3")): (400, b"InvalidRequest"),
    }
    for (method, url), (status, code) in refused_as.items():
        reply = ask(method, url, b"other")
        assert (reply.status, code in reply.body) == (status, True), reply.body
    now, cloud.clock = cloud.clock, ManualClock(cloud.clock.now() + timedelta(seconds=601))
    late = ask("PUT", put, b"other")
    cloud.clock = now
    assert (late.status, b"AccessDenied" in late.body, b"Request has expired" in late.body) == (
        403,
        True,
        True,
    )
    assert ask("GET", get).body == b"signed"
    assert ask("DELETE", delete).status == 204
    assert ask("HEAD", head).status == 404


def test_buckets_are_tagged_and_kept_over_a_restart(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    """Buckets, tags and objects are still there when the lab is opened again from its directory."""
    assert refused(s3.get_bucket_tagging, Bucket=BUCKET) == ("NoSuchTagSet", 404)
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"kept")
    again = {"Bucket": BUCKET, "CreateBucketConfiguration": {"LocationConstraint": cloud.region}}
    assert refused(s3.create_bucket, **again) == ("BucketAlreadyOwnedByYou", 409)
    reopened = Cloud.open(tmp_path / "home", Settings(keys=KEYS))
    later = client(reopened)
    assert later.get_bucket_tagging(Bucket=BUCKET)["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert later.get_object(Bucket=BUCKET, Key="k")["Body"].read() == b"kept"
    assert [bucket["Name"] for bucket in later.list_buckets()["Buckets"]] == [BUCKET]
    assert later.get_bucket_location(Bucket=BUCKET)["LocationConstraint"] == cloud.region
    reopened.close()
