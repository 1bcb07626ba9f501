"""S3 listings: buckets, and objects under a prefix, page by page (ListBuckets, ListObjects, ListObjectsV2).

Source: Amazon S3 API reference, ListObjectsV2: keys in the order of their UTF-8 bytes, common prefixes
counted as keys, opaque continuation tokens.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any
from urllib.parse import quote

from drpilot.base.clock import parse_time
from drpilot.lab.buckets import BUCKETS, OBJECTS, bucket_row
from drpilot.lab.cloud import Cloud, Refusal, action

__all__ = ["list_buckets", "list_objects", "list_objects_v2"]

_PAGE = 1000


def _page_size(wanted: Any) -> int:
    size = _PAGE if wanted is None else int(wanted)
    if size < 0:
        raise Refusal("InvalidArgument", "Argument maxKeys must be an integer between 0 and 2147483647")
    return min(size, _PAGE)


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _untoken(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise Refusal("InvalidArgument", "The continuation token provided is incorrect") from None


def _page(
    cloud: Cloud, params: dict[str, Any], after: str
) -> tuple[list[dict[str, Any]], list[str], str | None]:
    """Rows and common prefixes that follow `after`, and the last name when there are more."""
    prefix, delimiter = params.get("Prefix") or "", params.get("Delimiter") or ""
    size = _page_size(params.get("MaxKeys"))
    rows = [row for row in cloud.table(OBJECTS).peek().values() if row["bucket"] == params["Bucket"]]
    rows = sorted((row for row in rows if row["key"].startswith(prefix)), key=lambda row: row["key"].encode())
    contents: list[dict[str, Any]] = []
    prefixes: list[str] = []
    last = after
    for row in rows:
        name = row["key"]
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        common = name[: cut + len(delimiter)] if cut >= 0 else None
        shown = common or name
        if after and (shown.encode() <= after.encode() or (common and after.startswith(common))):
            continue
        if common and prefixes and prefixes[-1] == common:
            continue
        if len(contents) + len(prefixes) >= size:
            return contents, prefixes, last if size else None
        last = shown
        if common:
            prefixes.append(common)
        else:
            contents.append(row)
    return contents, prefixes, None


def _answer(params: dict[str, Any], rows: list[dict[str, Any]], prefixes: list[str]) -> dict[str, Any]:
    def shown(text: str) -> str:
        return quote(text, safe="/") if params.get("EncodingType") == "url" else text

    result: dict[str, Any] = {
        "Name": params["Bucket"],
        "Prefix": shown(params.get("Prefix") or ""),
        "MaxKeys": _page_size(params.get("MaxKeys")),
        "Contents": [
            {
                "Key": shown(row["key"]),
                "LastModified": parse_time(row["modified"]),
                "ETag": row["etag"],
                "Size": row["size_bytes"],
                "StorageClass": "STANDARD",
            }
            for row in rows
        ],
        "CommonPrefixes": [{"Prefix": shown(prefix)} for prefix in prefixes],
    }
    if params.get("Delimiter"):
        result["Delimiter"] = shown(params["Delimiter"])
    if params.get("EncodingType"):
        result["EncodingType"] = params["EncodingType"]
    return result


@action("s3", "ListObjectsV2")
def list_objects_v2(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListObjectsV2: a continuation token beats StartAfter."""
    bucket_row(cloud, params)
    token = params.get("ContinuationToken")
    after = _untoken(token) if token else params.get("StartAfter") or ""
    rows, prefixes, last = _page(cloud, params, after)
    result = _answer(params, rows, prefixes)
    result |= {"KeyCount": len(rows) + len(prefixes), "IsTruncated": last is not None}
    if token:
        result["ContinuationToken"] = token
    if params.get("StartAfter"):
        result["StartAfter"] = params["StartAfter"]
    if last is not None:
        result["NextContinuationToken"] = _token(last)
    return result


@action("s3", "ListObjects")
def list_objects(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListObjects, version 1: NextMarker is given only with a delimiter."""
    bucket_row(cloud, params)
    rows, prefixes, last = _page(cloud, params, params.get("Marker") or "")
    result = _answer(params, rows, prefixes)
    result |= {"Marker": params.get("Marker") or "", "IsTruncated": last is not None}
    if last is not None and params.get("Delimiter"):
        result["NextMarker"] = quote(last, safe="/") if params.get("EncodingType") == "url" else last
    return result


@action("s3", "ListBuckets")
def list_buckets(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListBuckets: by name, paged where MaxBuckets is given."""
    token, prefix = params.get("ContinuationToken"), params.get("Prefix") or ""
    after = _untoken(token) if token else ""
    size = int(params.get("MaxBuckets") or 10_000)
    names = [name for name in sorted(cloud.table(BUCKETS)) if name > after and name.startswith(prefix)]
    shown = names[:size]
    result: dict[str, Any] = {
        "Owner": {"ID": cloud.account},
        "Buckets": [
            {
                "Name": name,
                "CreationDate": parse_time(cloud.table(BUCKETS)[name]["created"]),
                "BucketRegion": cloud.region,
            }
            for name in shown
        ],
    }
    if len(names) > size:
        result["ContinuationToken"] = _token(shown[-1])
    return result
