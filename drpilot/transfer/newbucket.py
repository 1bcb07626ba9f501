"""A bucket to write to: there, or made where that was asked for, so that a misspelt name makes none."""

from __future__ import annotations

from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import CloudError, FailureClass, Site

__all__ = ["prepare"]


def prepare(site: Site, bucket: str, *, create: bool) -> bool:
    """See that `bucket` is there, making it where that was asked for; whether it was made. Raises `bucket-missing`."""
    try:
        site.call("s3", "HeadBucket", {"Bucket": bucket})
        return False
    except CloudError as error:
        if error.kind is not FailureClass.NOT_FOUND and error.code not in ("NoSuchKey", "404"):
            raise
        if not create:
            raise DrpilotError("bucket-missing", site=site.name, bucket=bucket) from None
    params: dict[str, Any] = {"Bucket": bucket}
    if (
        "s3:object-ownership" in site.capabilities
    ):  # AWS: a new bucket takes no ACLs unless told so, and wants a place
        params["ObjectOwnership"] = "ObjectWriter"
        if site.region != "us-east-1":
            params["CreateBucketConfiguration"] = {"LocationConstraint": site.region}
    site.call("s3", "CreateBucket", params)
    return True
