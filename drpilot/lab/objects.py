"""S3 objects of a lab cloud: put, get, copy, delete, with exact conditions, ranges and checksums.

Sources: Amazon S3 API reference (PutObject, GetObject, CopyObject, DeleteObject, DeleteObjects) and the
user guide's pages on conditional requests and object integrity.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from drpilot.base.clock import parse_time
from drpilot.lab import listing, multipart
from drpilot.lab.buckets import (
    OBJECTS,
    Kept,
    bucket_row,
    check_write_conditions,
    object_key,
    read_object,
    save_object,
    wanted_checksum,
)
from drpilot.lab.cloud import Cloud, Refusal, action
from drpilot.lab.payload import checksum, read_payload

__all__ = ["copy_object", "get_object", "listing", "multipart", "put_object"]

_KEPT_HEADERS = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def _headers(params: Mapping[str, Any]) -> dict[str, str]:
    kept = {name: str(params[name]) for name in _KEPT_HEADERS if params.get(name)}
    kept.setdefault("ContentType", "binary/octet-stream")
    return kept


def _metadata(params: Mapping[str, Any]) -> dict[str, str]:
    return {str(name).lower(): str(value) for name, value in (params.get("Metadata") or {}).items()}


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@action("s3", "PutObject")
def put_object(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutObject: the payload is proven before anything is decided; conditions and write are one step."""
    bucket_row(cloud, params)
    payload = read_payload(params)
    member = wanted_checksum(params)
    checksums = dict(payload.checksums)
    if member is not None:
        checksums.setdefault(member, checksum(member, payload.data))
    headers = _headers({**params, "ContentEncoding": payload.content_encoding})
    kept = {
        "etag": _etag(payload.data),
        "headers": headers,
        "metadata": _metadata(params),
        "checksums": checksums,
        "checksum_type": "FULL_OBJECT",
        "parts": 0,
    }
    row = save_object(cloud, params, payload.data, kept)
    result = {"ETag": row["etag"], **row["checksums"]}
    return {**result, "ChecksumType": "FULL_OBJECT"} if checksums else result


def _present(cloud: Cloud, params: Mapping[str, Any]) -> Kept:
    bucket_row(cloud, params)
    row = cloud.table(OBJECTS).get(object_key(params["Bucket"], params["Key"]))
    if row is None:
        raise Refusal("NoSuchKey", "The specified key does not exist.", 404)
    if params.get("VersionId") not in (None, "null"):
        raise Refusal("NoSuchVersion", "The specified version does not exist.", 404)
    return row


def _matches(condition: str, etag: str) -> bool:
    return any(part.strip() in ("*", etag, etag.strip('"')) for part in condition.split(","))


def _moment(value: Any) -> datetime:
    return value if isinstance(value, datetime) else parse_time(str(value))


def _check_read_conditions(params: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    modified = parse_time(row["modified"])
    unmodified_since, modified_since = params.get("IfUnmodifiedSince"), params.get("IfModifiedSince")
    failed = Refusal(
        "PreconditionFailed", "At least one of the pre-conditions you specified did not hold", 412
    )
    if params.get("IfMatch"):
        if not _matches(params["IfMatch"], row["etag"]):
            raise failed
    elif unmodified_since and modified > _moment(unmodified_since):
        raise failed
    if params.get("IfNoneMatch"):
        if _matches(params["IfNoneMatch"], row["etag"]):
            raise Refusal("NotModified", "Not Modified", 304)
    elif modified_since and modified <= _moment(modified_since):
        raise Refusal("NotModified", "Not Modified", 304)


def _span(wanted: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First and last byte of a Range header; None for the whole object (also for a form S3 ignores)."""
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return None
    if match[1] == "":
        first, last = max(0, size_bytes - int(match[2])), size_bytes - 1
    else:
        first = int(match[1])
        last = min(int(match[2]), size_bytes - 1) if match[2] else size_bytes - 1
    if first >= size_bytes or first > last:
        raise Refusal("InvalidRange", "The requested range is not satisfiable", 416)
    return first, last


def _described(
    params: Mapping[str, Any], row: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[int, int] | None]:
    _check_read_conditions(params, row)
    span = _span(params.get("Range"), row["size_bytes"])
    result: dict[str, Any] = {
        "AcceptRanges": "bytes",
        "ContentLength": row["size_bytes"],
        "ETag": row["etag"],
        "LastModified": parse_time(row["modified"]),
        "Metadata": row["metadata"],
        **row["headers"],
    }
    for name in _KEPT_HEADERS:
        if params.get(f"Response{name}"):
            result[name] = params[f"Response{name}"]
    if span is not None:
        result["ContentLength"] = span[1] - span[0] + 1
        result["ContentRange"] = f"bytes {span[0]}-{span[1]}/{row['size_bytes']}"
    elif params.get("ChecksumMode") == "ENABLED" and row["checksums"]:
        result |= {**row["checksums"], "ChecksumType": row["checksum_type"]}
    return result, span


@action("s3", "HeadObject")
def head_object(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """HeadObject: everything of GetObject but the bytes."""
    return _described(params, _present(cloud, params))[0]


@action("s3", "GetObject")
def get_object(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetObject: ranges (206, InvalidRange 416), If-Match 412, If-None-Match 304."""
    with cloud.lock:
        row = _present(cloud, params)
        result, span = _described(params, row)
        data = read_object(cloud, row)
    result["Body"] = data if span is None else data[span[0] : span[1] + 1]
    return {**result, "_status": 206} if span is not None else result


def _remove(cloud: Cloud, bucket: str, key: str) -> None:
    cloud.table(OBJECTS).pop(object_key(bucket, key), None)


@action("s3", "DeleteObject")
def delete_object(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteObject: succeeds for an absent key; If-Match gives 412 when the object is another one."""
    with cloud.lock:
        bucket_row(cloud, params)
        present = cloud.table(OBJECTS).get(object_key(params["Bucket"], params["Key"]))
        if params.get("IfMatch"):
            check_write_conditions({"IfMatch": params["IfMatch"]}, present)
        _remove(cloud, params["Bucket"], params["Key"])
    return {}


@action("s3", "DeleteObjects")
def delete_objects(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """DeleteObjects: up to 1,000 keys, MalformedXML beyond."""
    wanted = params["Delete"]["Objects"]
    if not 1 <= len(wanted) <= 1000:
        raise Refusal("MalformedXML", "The XML you provided was not well-formed")
    with cloud.lock:
        bucket_row(cloud, params)
        for item in wanted:
            _remove(cloud, params["Bucket"], item["Key"])
    return {} if params["Delete"].get("Quiet") else {"Deleted": [{"Key": item["Key"]} for item in wanted]}


@action("s3", "CopyObject")
def copy_object(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CopyObject within this cloud; onto itself only with MetadataDirective=REPLACE (InvalidRequest)."""
    bucket, _, key = unquote(str(params["CopySource"]).split("?", 1)[0]).lstrip("/").partition("/")
    replace = params.get("MetadataDirective") == "REPLACE"
    with cloud.lock:
        source = _present(cloud, {"Bucket": bucket, "Key": key})
        names = ("IfMatch", "IfNoneMatch", "IfModifiedSince", "IfUnmodifiedSince")
        try:
            _check_read_conditions({name: params.get(f"CopySource{name}") for name in names}, source)
        except Refusal as refused:
            raise Refusal("PreconditionFailed", str(refused), 412) from refused
        if (bucket, key) == (params["Bucket"], params["Key"]) and not replace:
            raise Refusal(
                "InvalidRequest",
                "This copy request is illegal because it is trying to copy an object to itself.",
            )
        data = read_object(cloud, source)
        member = wanted_checksum(params)
        names_kept = [member] if member else list(source["checksums"])
        kept = {
            "etag": _etag(data),
            "headers": _headers(params) if replace else source["headers"],
            "metadata": _metadata(params) if replace else source["metadata"],
            "checksums": {name: checksum(name, data) for name in names_kept},
            "checksum_type": "FULL_OBJECT",
            "parts": 0,
        }
        row = save_object(cloud, params, data, kept)
    copied = {"ETag": row["etag"], "LastModified": parse_time(row["modified"]), **row["checksums"]}
    return {"CopyObjectResult": copied}
