"""The object store of a Eucalyptus cloud (Walrus in 3.4, the object storage gateway after it): what it lacks.

Listing version 2 is unknown to every version, and unknown query fields pass unread, so that `list-type=2` gets
a listing of version 1. Multipart uploads, several deletes in one and tagging came with 4.x. Conditional writes
and trailing checksums are of another age; the original passes over such headers, the twin says no.
"""

from __future__ import annotations

import re
from typing import Any

from drpilot.lab.buckets import BUCKETS, OBJECTS, bucket_row, object_key
from drpilot.lab.cloud import Cloud, Refusal, action
from drpilot.lab.eucalyptus.fields import words
from drpilot.lab.objects import put_object
from drpilot.lab.requests import Incoming, unchunked

__all__ = ["admitted", "check", "readable_by_the_cloud"]

_LATER_LISTING = re.compile(r"(^|&)(list-type|continuation-token|start-after|fetch-owner)(=[^&]*)?(?=&|$)")
_CORE = words(
    "CopyObject CreateBucket DeleteBucket DeleteObject GetBucketAcl GetBucketLocation GetObject GetObjectAcl"
    " HeadBucket HeadObject ListBuckets ListObjects PutBucketAcl PutObject PutObjectAcl"
)
_SINCE_4 = words(
    "AbortMultipartUpload CompleteMultipartUpload CreateMultipartUpload DeleteBucketTagging DeleteObjects"
    " GetBucketTagging ListMultipartUploads ListParts PutBucketTagging UploadPart"
)
_OPERATIONS = {"3.4": _CORE, "4.4": _CORE | _SINCE_4, "5": _CORE | _SINCE_4}
_UNKNOWN_MEMBERS = frozenset(
    {"IfNoneMatch", "ObjectLockMode", "ServerSideEncryption", "SSEKMSKeyId", "Tagging", "StorageClass"}
)
_CANNED = words(
    "private public-read public-read-write authenticated-read bucket-owner-read bucket-owner-full-control"
    " log-delivery-write aws-exec-read ec2-bundle-read"
)
_FOR_THE_CLOUD = frozenset({"public-read", "public-read-write", "aws-exec-read", "authenticated-read"})


def admitted(cloud: Cloud, request: Incoming) -> Incoming:
    """The request as this object store reads it; a framing it does not know is refused."""
    framing = request.headers.get("x-amz-content-sha256", "")
    if framing.startswith("STREAMING-") and framing != "STREAMING-AWS4-HMAC-SHA256-PAYLOAD":
        raise Refusal("InvalidArgument", f"x-amz-content-sha256 must not be {framing}")
    query = _LATER_LISTING.sub("", request.query).strip("&")
    plain = unchunked(request)
    return Incoming(plain.method, plain.path, query, plain.headers, plain.body)


def check(cloud: Cloud, operation: str, params: dict[str, Any]) -> None:
    """Refuse what this version does not have."""
    lacks = operation not in _OPERATIONS[cloud.traits.version]
    writes = operation in ("PutObject", "CopyObject", "CompleteMultipartUpload", "CreateMultipartUpload")
    if lacks or (
        writes and (_UNKNOWN_MEMBERS & params.keys() or (operation == "PutObject" and params.get("IfMatch")))
    ):
        raise Refusal(
            "NotImplemented", "A header you provided implies functionality that is not implemented", 501
        )


def readable_by_the_cloud(row: dict[str, Any]) -> bool:
    """Whether the system account aws-exec-read may read an object."""
    return row.get("acl", "private") in _FOR_THE_CLOUD


def _canned(params: dict[str, Any]) -> str:
    acl = str(params.get("ACL") or "private")
    if acl not in _CANNED:
        raise Refusal("InvalidArgument", f"{acl} is not a canned ACL")
    return acl


@action("s3", "PutObject", family="eucalyptus")
def put_object_with_acl(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutObject that keeps the canned ACL."""
    acl = _canned(params)
    result = put_object(cloud, params)
    cloud.table(OBJECTS)[object_key(params["Bucket"], params["Key"])]["acl"] = acl
    return result


def _object(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    bucket_row(cloud, params)
    row = cloud.table(OBJECTS).get(object_key(params["Bucket"], params["Key"]))
    if row is None:
        raise Refusal("NoSuchKey", "The specified key does not exist.", 404)
    return row


@action("s3", "PutObjectAcl", family="eucalyptus")
def put_object_acl(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutObjectAcl with a canned ACL."""
    _object(cloud, params)["acl"] = _canned(params)
    return {}


@action("s3", "PutBucketAcl", family="eucalyptus")
def put_bucket_acl(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """PutBucketAcl with a canned ACL."""
    bucket_row(cloud, params)
    cloud.table(BUCKETS)[params["Bucket"]]["acl"] = _canned(params)
    return {}


def _grants(cloud: Cloud, acl: str) -> dict[str, Any]:
    owner = {"ID": cloud.account, "DisplayName": cloud.account}
    grants = [{"Grantee": {**owner, "Type": "CanonicalUser"}, "Permission": "FULL_CONTROL"}]
    if acl in ("aws-exec-read", "ec2-bundle-read"):
        reader = {"ID": acl, "DisplayName": acl, "Type": "CanonicalUser"}
        grants.append({"Grantee": reader, "Permission": "READ"})
    if acl.startswith("public-read"):
        everyone = {"URI": "http://acs.amazonaws.com/groups/global/AllUsers", "Type": "Group"}
        grants.append({"Grantee": everyone, "Permission": "READ"})
    return {"Owner": owner, "Grants": grants}


@action("s3", "GetObjectAcl", family="eucalyptus")
def get_object_acl(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetObjectAcl: the owner, and who else may read."""
    return _grants(cloud, _object(cloud, params).get("acl", "private"))


@action("s3", "GetBucketAcl", family="eucalyptus")
def get_bucket_acl(cloud: Cloud, params: dict[str, Any]) -> dict[str, Any]:
    """GetBucketAcl."""
    return _grants(cloud, bucket_row(cloud, params).get("acl", "private"))
