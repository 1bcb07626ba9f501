"""Bundles in buckets: what goes over the wire, what comes back, and what is left when it fails."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.clouds.site import BotoSite
from drpilot.domain.ports import CloudError
from drpilot.formats import seal
from drpilot.formats.manifest import Manifest, read
from drpilot.transfer import bucket
from drpilot.transfer.bucket import Address, BucketParts, NewBucketBundle
from drpilot.transfer.bundling import Order, Watch, bundle
from drpilot.transfer.newbucket import prepare
from drpilot.transfer.places import Folder, NewFolderBundle
from drpilot.transfer.unbundling import extract, secrets_of
from tests.contract.grounds import opened
from tests.grounds import Answering, Door, Heard, answering, key_file, response
from tests.transfer.craft import ACCOUNT, cloud, make, owner

KEY = "backups/2026/image.manifest.xml"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[BotoSite]:
    """A lab cloud in this process, with a bucket."""
    with opened("lab-inprocess", tmp_path / "cloud") as ground:
        assert prepare(ground.site, "images", create=True, acls=True)
        yield ground.site


@pytest.fixture
def local(tmp_path: Path) -> tuple[Path, Manifest]:
    """A bundle of five parts, one of them empty as euca2ools leaves it, in a folder."""
    (tmp_path / "disk").write_bytes(Chance(5).bits(8 * 40_000).to_bytes(40_000))
    return tmp_path / "bundle", make(tmp_path / "disk", tmp_path / "bundle", part_bytes=10_240)


def put(site: BotoSite, folder: Path, manifest: Manifest, address: Address) -> None:
    data = (folder / "image.manifest.xml").read_bytes()
    sink = NewBucketBundle(site, address)
    bucket.upload(manifest, ("image.manifest.xml", data), Folder(folder, "image"), sink)


def keys(site: BotoSite) -> list[str]:
    """What is in the bucket."""
    return sorted(
        one["Key"] for one in site.call("s3", "ListObjectsV2", {"Bucket": "images"}).get("Contents") or []
    )


def test_up_and_down_again(site: BotoSite, local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """A bundle goes up under a prefix, comes down the same bytes, opens from the bucket, and is deleted whole."""
    folder, manifest = local
    address = Address("images", "backups/2026")
    assert bucket.present(site, address, "image.manifest.xml") is None
    put(site, folder, manifest, address)
    assert keys(site) == sorted([KEY, *(f"backups/2026/{part.name}" for part in manifest.parts)])
    there = Address("images", KEY)
    assert bucket.present(site, address, "image.manifest.xml") == (folder / "image.manifest.xml").read_bytes()
    bucket.download(site, there, NewFolderBundle(tmp_path / "down"))
    ours, theirs = (
        {path.name: path.read_bytes() for path in where.iterdir()} for where in (folder, tmp_path / "down")
    )
    assert ours == theirs
    secrets, _ = secrets_of(manifest, owner(), "key")
    extract(manifest, secrets, BucketParts(site, there, "image"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "disk").read_bytes()
    bucket.delete(site, there)
    assert keys(site) == []


def test_straight_into_the_bucket(site: BotoSite, tmp_path: Path) -> None:
    """A bundle made into a bucket has nothing on this disk, and is the bundle that a folder would hold."""
    (tmp_path / "disk").write_bytes(Chance(6).bits(8 * 60_000).to_bytes(60_000))
    secrets = seal.fresh(Chance(8))
    order = Order("image", ACCOUNT, cloud().public_key(), owner().public_key(), owner(), part_bytes=10_240)
    before = set(tmp_path.iterdir())
    made = bundle(tmp_path / "disk", order, secrets, NewBucketBundle(site, Address("images")), Watch())
    assert set(tmp_path.iterdir()) == before
    same = bundle(tmp_path / "disk", order, secrets, NewFolderBundle(tmp_path / "folder"), Watch())
    assert (made.parts, made.tar_sha1) == (same.parts, same.tar_sha1)
    assert len(keys(site)) == len(made.parts) + 1
    manifest, data = bucket.read_manifest(site, Address("images", "image.manifest.xml"))
    assert manifest == read(data, "m")
    assert manifest.parts == made.parts


def test_a_damaged_object(site: BotoSite, local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """A part that was changed in the bucket is noticed on its way down, and no file is left."""
    folder, manifest = local
    put(site, folder, manifest, Address("images", "backups/2026"))
    spoilt = {"Bucket": "images", "Key": f"backups/2026/{manifest.parts[1].name}", "Body": b"other"}
    site.call("s3", "PutObject", spoilt)
    with pytest.raises(DrpilotError) as refused:
        bucket.download(site, Address("images", KEY), NewFolderBundle(tmp_path / "down"))
    assert refused.value.word == "part-damaged"
    assert manifest.parts[1].name in refused.value.title
    assert list((tmp_path / "down").iterdir()) == []


def test_what_is_missing(site: BotoSite, local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """A bucket, a manifest and a part that are not there have an error of their own."""
    folder, manifest = local
    words = []
    for address in (Address("nowhere", KEY), Address("images", KEY)):
        with pytest.raises(DrpilotError) as refused:
            bucket.download(site, address, NewFolderBundle(tmp_path / "down"))
        words.append(refused.value.word)
    with pytest.raises(DrpilotError) as refused:
        prepare(site, "nowhere", create=False)
    words.append(refused.value.word)
    put(site, folder, manifest, Address("images", "backups/2026"))
    site.call("s3", "DeleteObject", {"Bucket": "images", "Key": f"backups/2026/{manifest.parts[0].name}"})
    with pytest.raises(DrpilotError) as refused:
        bucket.download(site, Address("images", KEY), NewFolderBundle(tmp_path / "down"))
    words.append(refused.value.word)
    assert words == ["bucket-missing", "object-missing", "bucket-missing", "part-missing"]


# -- the wire -------------------------------------------------------------------------------------------------------

OK = response("")


def denied(heard: Heard) -> bytes:
    """S3's refusal (Amazon S3 API reference, error responses)."""
    body = "<Error><Code>AccessControlListNotSupported</Code><Message>The bucket does not allow ACLs</Message></Error>"
    return response(body, 400)


def door(folder: Path, server: Answering) -> BotoSite:
    return Door(server.url, key_file(folder)).open()


def test_what_an_upload_says(local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """Every object is one PUT with the canned ACL and its MD5, no multipart upload, and the manifest comes last."""
    folder, manifest = local
    with answering(lambda heard, number: OK) as server:
        put(door(tmp_path, server), folder, manifest, Address("images", "pre"))
    assert {heard.method for heard in server.heard} == {"PUT"}
    paths = [heard.path for heard in server.heard]
    assert sorted(paths) == sorted(
        [*(f"/images/pre/{part.name}" for part in manifest.parts), "/images/pre/image.manifest.xml"]
    )
    assert paths[-1] == "/images/pre/image.manifest.xml"
    for heard in server.heard:
        name = heard.path.rpartition("/")[2]
        data = (folder / name).read_bytes()
        assert heard.headers["x-amz-acl"] == "aws-exec-read"
        assert heard.headers["content-md5"] == base64.b64encode(hashlib.md5(data).digest()).decode()


def test_parts_in_flight_are_bounded(local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """However slow the cloud, no more than the lanes are under way at once."""
    folder, manifest = local
    assert len(manifest.parts) > bucket.LANES
    lock, going, most = threading.Lock(), 0, 0
    gate = threading.Barrier(bucket.LANES, timeout=30)

    def slow(heard: Heard, number: int) -> bytes:
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
        if number <= bucket.LANES:
            gate.wait()  # the lanes are really used at once
        with lock:
            going -= 1
        return OK

    with answering(slow) as server:
        put(door(tmp_path, server), folder, manifest, Address("images"))
    assert most == bucket.LANES


def test_a_refused_part_is_cleaned_up_after(local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """When one part is refused, no manifest goes up, and the parts that did are deleted again."""
    folder, manifest = local
    bad = manifest.parts[1].name

    def script(heard: Heard, number: int) -> bytes:
        return denied(heard) if heard.method == "PUT" and heard.path.endswith(bad) else OK

    with answering(script) as server:
        with pytest.raises(DrpilotError) as refused:
            put(door(tmp_path, server), folder, manifest, Address("images"))
        assert refused.value.word == "acl-refused"
    put_paths = {heard.path for heard in server.heard if heard.method == "PUT"}
    assert "/images/image.manifest.xml" not in put_paths
    assert {heard.path for heard in server.heard if heard.method == "DELETE"} >= put_paths - {
        f"/images/{bad}"
    }


def test_other_refusals_stay_the_clouds(local: tuple[Path, Manifest], tmp_path: Path) -> None:
    """An error with no meaning of its own here is passed on as it is."""
    folder, manifest = local
    body = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    with answering(lambda heard, number: response(body, 403)) as server, pytest.raises(CloudError) as refused:
        put(door(tmp_path, server), folder, manifest, Address("images"))
    assert refused.value.code == "AccessDenied"


def test_objects_are_fetched_in_ranges(tmp_path: Path) -> None:
    """A large object comes in ranges; an empty one, and a server that ignores ranges, are understood."""
    data = Chance(2).bits(8 * 25_000_000).to_bytes(25_000_000)

    def script(heard: Heard, number: int) -> bytes:
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", heard.headers["range"])
        assert span is not None
        first, last = int(span[1]), min(int(span[2]), len(data) - 1)
        if heard.path.endswith("empty"):
            return response("<Error><Code>InvalidRange</Code></Error>", 416)
        if heard.path.endswith("whole"):
            return response(data[:1000])
        head = response(data[first : last + 1], 206)
        return head.replace(
            b"Content-Type:", f"Content-Range: bytes {first}-{last}/{len(data)}\r\nContent-Type:".encode(), 1
        )

    with answering(script) as server:
        parts = BucketParts(door(tmp_path, server), Address("images", "x.manifest.xml"), "x")
        found = list(parts.part("large"))
        assert b"".join(found) == data
        assert max(len(piece) for piece in found) <= 10_485_760
        assert b"".join(parts.part("empty")) == b""
        assert b"".join(parts.part("whole")) == data[:1000]


def test_addresses() -> None:
    """BUCKET[/KEY] as people write it."""
    assert Address.of("s3://images/a/b.manifest.xml") == Address("images", "a/b.manifest.xml")
    assert Address.of("images/") == Address("images", "")
    assert Address("images", "a/b.manifest.xml").beside("p") == "a/p"
    assert Address("images", "b.manifest.xml").beside("p") == "p"
    assert Address("images", "pre").below("p") == "pre/p"
    assert Address("images").below("p") == "p"
    with pytest.raises(DrpilotError):
        Address.of("/")
