"""S3 multipart uploads: parts, their checksums, and the one step that makes them an object.

Source: Amazon S3 API reference, CompleteMultipartUpload (InvalidPart, InvalidPartOrder, EntityTooSmall) and
the user guide's "Checking object integrity" for composite checksums.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from drpilot.base.clock import parse_time, rfc3339
from drpilot.lab import buckets
from drpilot.lab.cloud import Cloud, Refusal, action, kind
from drpilot.lab.payload import ALGORITHMS, checksum, read_payload

__all__ = ["complete_multipart_upload", "create_multipart_upload", "upload_part"]

_UPLOADS = "s3_uploads"
kind(_UPLOADS, "multipart-upload")
_LEAST_PART_BYTES = 5 * 1024 * 1024
_PAGE = 1000


def _upload(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    buckets.bucket_row(cloud, params)
    row = cloud.table(_UPLOADS).get(params["UploadId"])
    if row is None or (row["bucket"], row["key"]) != (params["Bucket"], params["Key"]):
        message = "The specified upload does not exist: its ID is invalid, or it was aborted or completed."
        raise Refusal("NoSuchUpload", message, 404)
    return row


@action("s3", "CreateMultipartUpload")
def create_multipart_upload(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CreateMultipartUpload: algorithms default to COMPOSITE but CRC64NVME, which is always FULL_OBJECT."""
    buckets.bucket_row(cloud, params)
    member = buckets.wanted_checksum(params)
    kind = params.get("ChecksumType") or ("FULL_OBJECT" if member == "ChecksumCRC64NVME" else "COMPOSITE")
    upload_id = cloud.new_id("upload")
    names = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")
    headers = {name: str(params[name]) for name in names if params.get(name)}
    cloud.table(_UPLOADS)[upload_id] = {
        "bucket": params["Bucket"],
        "key": params["Key"],
        "initiated": rfc3339(cloud.timestamp()),
        "checksum": member,
        "checksum_type": kind,
        "headers": {"ContentType": "binary/octet-stream", **headers},
        "metadata": {name.lower(): value for name, value in (params.get("Metadata") or {}).items()},
        "parts": {},
    }
    result = {"Bucket": params["Bucket"], "Key": params["Key"], "UploadId": upload_id}
    if member:
        result |= {"ChecksumAlgorithm": member.removeprefix("Checksum"), "ChecksumType": kind}
    return result


@action("s3", "UploadPart")
def upload_part(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """UploadPart: numbers 1 to 10,000; the same number again replaces the part."""
    _upload(cloud, params)
    number = int(params["PartNumber"])
    if not 1 <= number <= 10_000:
        raise Refusal("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    payload = read_payload(params)
    with cloud.lock:
        row = _upload(cloud, params)
        member = row["checksum"]
        checksums = dict(payload.checksums)
        if member:
            checksums.setdefault(member, checksum(member, payload.data))
        part = {
            "file": buckets.keep_file(cloud, payload.data),
            "size_bytes": len(payload.data),
            "etag": f'"{hashlib.md5(payload.data, usedforsecurity=False).hexdigest()}"',
            "modified": rfc3339(cloud.timestamp()),
            "checksums": checksums,
        }
        cloud.table(_UPLOADS)[params["UploadId"]] = {**row, "parts": {**row["parts"], str(number): part}}
    return {"ETag": part["etag"], **checksums}


@action("s3", "ListParts")
def list_parts(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListParts, by number."""
    row = _upload(cloud, params)
    size = min(int(params.get("MaxParts") or _PAGE), _PAGE)
    marker = int(params.get("PartNumberMarker") or 0)
    numbers = sorted(number for number in map(int, row["parts"]) if number > marker)
    parts = []
    for number in numbers[:size]:
        part = row["parts"][str(number)]
        moment = parse_time(part["modified"])
        shown = {
            "PartNumber": number,
            "LastModified": moment,
            "ETag": part["etag"],
            "Size": part["size_bytes"],
        }
        parts.append({**shown, **part["checksums"]})
    result = {
        "Bucket": params["Bucket"],
        "Key": params["Key"],
        "UploadId": params["UploadId"],
        "PartNumberMarker": marker,
        "MaxParts": size,
        "IsTruncated": len(numbers) > size,
        "Parts": parts,
        "StorageClass": "STANDARD",
    }
    return {**result, "NextPartNumberMarker": parts[-1]["PartNumber"]} if parts else result


@action("s3", "ListMultipartUploads")
def list_multipart_uploads(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """ListMultipartUploads: by key, then by upload."""
    buckets.bucket_row(cloud, params)
    after = (
        params.get("KeyMarker") or "",
        params.get("UploadIdMarker") or ("" if not params.get("KeyMarker") else "~"),
    )
    size = min(int(params.get("MaxUploads") or _PAGE), _PAGE)
    found = sorted(
        (row["key"], upload_id)
        for upload_id, row in cloud.table(_UPLOADS).peek().items()
        if row["bucket"] == params["Bucket"] and row["key"].startswith(params.get("Prefix") or "")
    )
    found = [item for item in found if item > after]
    uploads = [
        {"Key": key, "UploadId": upload, "Initiated": parse_time(cloud.table(_UPLOADS)[upload]["initiated"])}
        for key, upload in found[:size]
    ]
    result = {
        "Bucket": params["Bucket"],
        "MaxUploads": size,
        "IsTruncated": len(found) > size,
        "Uploads": [{**upload, "StorageClass": "STANDARD"} for upload in uploads],
    }
    if len(found) > size:
        result |= {"NextKeyMarker": uploads[-1]["Key"], "NextUploadIdMarker": uploads[-1]["UploadId"]}
    return result


def _chosen(params: dict[str, Any], row: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts that the request names, in its order, each proven by its ETag."""
    wanted = (params.get("MultipartUpload") or {}).get("Parts") or []
    if not wanted:
        raise Refusal("MalformedXML", "The XML you provided was not well-formed")
    numbers = [int(part["PartNumber"]) for part in wanted]
    if numbers != sorted(set(numbers)):
        raise Refusal("InvalidPartOrder", "The list of parts was not in ascending order.")
    chosen = []
    for part in wanted:
        kept = row["parts"].get(str(part["PartNumber"]))
        if kept is None or str(part.get("ETag", "")).strip('"') != kept["etag"].strip('"'):
            raise Refusal("InvalidPart", "One or more of the specified parts could not be found.")
        for name in ALGORITHMS:
            if part.get(name) and kept["checksums"].get(name) not in (None, part[name]):
                raise Refusal("InvalidPart", "One or more of the specified parts could not be found.")
        chosen.append(kept)
    if any(part["size_bytes"] < _LEAST_PART_BYTES for part in chosen[:-1]):
        raise Refusal("EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
    return chosen


def _whole_checksum(
    params: dict[str, Any], row: dict[str, Any], parts: list[dict[str, Any]], data: bytes
) -> dict[str, str]:
    member = row["checksum"]
    if not member:
        return {}
    if row["checksum_type"] == "FULL_OBJECT":
        value = checksum(member, data)
    else:
        joined = b"".join(base64.b64decode(part["checksums"][member]) for part in parts)
        value = f"{checksum(member, joined)}-{len(parts)}"
    if params.get(member) not in (None, value):
        raise Refusal("BadDigest", f"The {member.removeprefix('Checksum')} you specified did not match.")
    return {member: value}


@action("s3", "CompleteMultipartUpload")
def complete_multipart_upload(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """CompleteMultipartUpload: conditions are decided now, not when it began; a refusal keeps the parts."""
    with cloud.lock:
        row = _upload(cloud, params)
        parts = _chosen(params, row)
        data = b"".join(buckets.read_object(cloud, part) for part in parts)
        joined = b"".join(bytes.fromhex(part["etag"].strip('"')) for part in parts)
        etag = f'"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"'
        checksums = _whole_checksum(params, row, parts, data)
        kept = {
            "etag": etag,
            "headers": row["headers"],
            "metadata": row["metadata"],
            "checksums": checksums,
            "checksum_type": row["checksum_type"],
            "parts": len(parts),
        }
        buckets.save_object(cloud, params, data, kept)
        del cloud.table(_UPLOADS)[params["UploadId"]]
    result = {"Bucket": params["Bucket"], "Key": params["Key"], "ETag": etag, **checksums}
    result["Location"] = f"/{params['Bucket']}/{params['Key']}"
    return {**result, "ChecksumType": row["checksum_type"]} if checksums else result


@action("s3", "AbortMultipartUpload")
def abort_multipart_upload(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """AbortMultipartUpload: the parts are gone at once."""
    with cloud.lock:
        _upload(cloud, params)
        del cloud.table(_UPLOADS)[params["UploadId"]]
    return {}
