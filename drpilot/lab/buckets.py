"""S3 buckets of a lab cloud, and the one door through which objects are written.

A small own part rather than a library: the witness stands or falls with `If-None-Match: *` and `If-Match`
on PutObject being decided and applied in one step, and moto accepts a wrong Content-MD5. Bytes are files
below the cloud's directory, named by their SHA-256: written aside, renamed, and only then named by the
object's row, so that a reader sees the old object or the new one and never a mixture. Sources: Amazon S3
API reference and the user guide's pages on conditional requests.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drpilot.base.clock import rfc3339
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.payload import ALGORITHMS

__all__ = [
    "BUCKETS",
    "OBJECTS",
    "Kept",
    "bucket_row",
    "check_write_conditions",
    "keep_file",
    "object_key",
    "read_object",
    "save_object",
    "wanted_checksum",
]

BUCKETS = "s3_buckets"
OBJECTS = "s3_objects"
_BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

kind(BUCKETS, "bucket")
kind(OBJECTS, "object")

Kept = dict[str, Any]
"""A row of an object: file, size, etag, modified, metadata, headers, checksums, checksum_type, parts."""


def object_key(bucket: str, key: str) -> str:
    """The row key of an object; a bucket's name holds no slash, so the two parts can't be confused."""
    return f"{bucket}/{key}"


def _path(cloud: Cloud, digest: str) -> Path:
    return Path(cloud.store.directory) / "objects" / digest[:2] / digest


def keep_file(cloud: Cloud, data: bytes) -> str:
    """Write `data` below its SHA-256 (hex) and give that; nobody sees it until a row names it.

    Files are never changed or removed, as snapshot blocks are, so that a saved point of the lab stays whole.
    """
    digest = hashlib.sha256(data).hexdigest()
    path = _path(cloud, digest)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{digest}.{threading.get_ident()}")
        aside.write_bytes(data)
        os.replace(aside, path)
    return digest


def read_object(cloud: Cloud, row: Mapping[str, Any]) -> bytes:
    """The bytes that a row names; a file that was lost is InternalError (500), never other bytes."""
    try:
        return _path(cloud, str(row["file"])).read_bytes()
    except FileNotFoundError:
        raise Refusal("InternalError", "We encountered an internal error. Please try again.", 500) from None


def bucket_row(cloud: Cloud, params: Mapping[str, Any]) -> dict[str, Any]:
    """The bucket of a request, or NoSuchBucket (404); ExpectedBucketOwner is checked as S3 does."""
    row = cloud.table(BUCKETS).get(params["Bucket"])
    if row is None:
        raise Refusal("NoSuchBucket", "The specified bucket does not exist", 404)
    if params.get("ExpectedBucketOwner") not in (None, cloud.account):
        raise Refusal("AccessDenied", "Access Denied", 403)
    return row


def check_write_conditions(params: Mapping[str, Any], present: Mapping[str, Any] | None) -> None:
    """If-None-Match and If-Match of a write: 412 PreconditionFailed, 404 NoSuchKey without a thing to match.

    Called with the cloud's lock held, together with the write itself, so that of two writers one wins.
    """
    if params.get("IfNoneMatch"):
        if params["IfNoneMatch"] != "*":
            raise Refusal(
                "NotImplemented", "A header you provided implies functionality that is not implemented", 501
            )
        if present is not None:
            raise Refusal(
                "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
            )
    if params.get("IfMatch"):
        if present is None:
            raise Refusal("NoSuchKey", "The specified key does not exist.", 404)
        if params["IfMatch"] not in ("*", present["etag"], present["etag"].strip('"')):
            raise Refusal(
                "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
            )


def wanted_checksum(params: Mapping[str, Any]) -> str | None:
    """The model member of `ChecksumAlgorithm` (`CRC32` -> `ChecksumCRC32`), None when none is asked for."""
    algorithm = params.get("ChecksumAlgorithm")
    if not algorithm:
        return None
    member = f"Checksum{algorithm}"
    if member not in ALGORITHMS:
        raise Refusal("InvalidRequest", f"The lab does not compute {algorithm}.", 501)
    return member


def save_object(cloud: Cloud, params: Mapping[str, Any], data: bytes, kept: Kept) -> Kept:
    """Decide the conditions of a write and apply it in one step; gives the new row.

    `kept` holds what differs between a put, a copy and a completed upload: etag, headers, metadata, checksums.
    """
    bucket, key = str(params["Bucket"]), str(params["Key"])
    if not key or len(key.encode()) > 1024:
        raise Refusal("KeyTooLongError", "Your key is too long")
    with cloud.lock:
        bucket_row(cloud, params)
        present = cloud.table(OBJECTS).get(object_key(bucket, key))
        check_write_conditions(params, present)
        row: Kept = {
            "bucket": bucket,
            "key": key,
            "file": keep_file(cloud, data),
            "size_bytes": len(data),
            "modified": rfc3339(cloud.timestamp().replace(microsecond=0)),
            **kept,
        }
        cloud.table(OBJECTS)[object_key(bucket, key)] = row
    return row


@action("s3", "CreateBucket")
def create_bucket(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateBucket; BucketAlreadyOwnedByYou (409) for one's own bucket outside us-east-1's old exception."""
    name = params["Bucket"]
    if not _BUCKET_NAME.fullmatch(name) or ".." in name:
        raise Refusal("InvalidBucketName", "The specified bucket is not valid.")
    wanted = (params.get("CreateBucketConfiguration") or {}).get("LocationConstraint")
    if wanted and wanted != cloud.region:
        message = f"The {wanted} location constraint is incompatible for the region specific endpoint"
        raise Refusal("IllegalLocationConstraintException", message)
    with cloud.lock:
        if name in cloud.table(BUCKETS):
            message = "Your previous request to create the named bucket succeeded and you already own it."
            raise Refusal("BucketAlreadyOwnedByYou", message, 409)
        tags = (params.get("CreateBucketConfiguration") or {}).get("Tags") or []
        cloud.table(BUCKETS)[name] = {"name": name, "created": rfc3339(cloud.timestamp()), "Tags": tags}
    return {"Location": f"/{name}"}


@action("s3", "HeadBucket")
def head_bucket(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """HeadBucket: 404 when absent."""
    bucket_row(cloud, params)
    return {"BucketRegion": cloud.region}


@action("s3", "GetBucketLocation")
def get_bucket_location(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetBucketLocation: null for us-east-1, as S3 answers."""
    bucket_row(cloud, params)
    return {} if cloud.region == "us-east-1" else {"LocationConstraint": cloud.region}


@action("s3", "DeleteBucket")
def delete_bucket(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteBucket: BucketNotEmpty (409) while an object is in it."""
    with cloud.lock:
        bucket_row(cloud, params)
        if any(row["bucket"] == params["Bucket"] for row in cloud.table(OBJECTS).peek().values()):
            raise Refusal("BucketNotEmpty", "The bucket you tried to delete is not empty", 409)
        del cloud.table(BUCKETS)[params["Bucket"]]
    return {}


@action("s3", "PutBucketTagging")
def put_bucket_tagging(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutBucketTagging: replaces the whole set; InvalidTag for a doubled key."""
    tags = [{"Key": tag["Key"], "Value": tag["Value"]} for tag in params["Tagging"].get("TagSet") or []]
    if len({tag["Key"] for tag in tags}) != len(tags):
        raise Refusal("InvalidTag", "Cannot provide multiple Tags with the same key")
    with cloud.lock:
        cloud.table(BUCKETS)[params["Bucket"]] = {**bucket_row(cloud, params), "Tags": tags}
    return {}


@action("s3", "GetBucketTagging")
def get_bucket_tagging(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetBucketTagging: NoSuchTagSet (404) when there are none."""
    tags = bucket_row(cloud, params).get("Tags")
    if not tags:
        raise Refusal("NoSuchTagSet", "The TagSet does not exist", 404)
    return {"TagSet": tags}


@action("s3", "DeleteBucketTagging")
def delete_bucket_tagging(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteBucketTagging."""
    with cloud.lock:
        cloud.table(BUCKETS)[params["Bucket"]] = {**bucket_row(cloud, params), "Tags": []}
    return {}
