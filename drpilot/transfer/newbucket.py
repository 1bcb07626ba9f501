"""A bucket to write to: there, or made where that was asked for, so that a misspelt name makes none."""

from __future__ import annotations

from drpilot.base.clock import Clock, RealClock
from drpilot.base.errors import DrpilotError
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.transfer.absence import is_absent

__all__ = ["bucket_stands", "prepare"]

# Two runs make one bucket together: one of them is told that it has it, or that the other is at it (Amazon S3 API
# reference, error responses). An earlier try of ours whose reply was lost looks the same.
_RACING = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists", "OperationAborted"})
_TRIES = 6
_PAUSE_FIRST_S = 0.5  # doubled each time: about 15 s in all
_REAL = RealClock()


def bucket_stands(site: Site, bucket: str) -> bool:
    """Whether there is a bucket of that name, and we may see it. Raises CloudError."""
    try:
        site.call("s3", "HeadBucket", {"Bucket": bucket})
    except CloudError as error:
        if is_absent(error):
            return False
        raise
    return True


def prepare(site: Site, bucket: str, *, create: bool, acls: bool = False, clock: Clock = _REAL) -> bool:
    """See that `bucket` is there, making it where that was asked for; whether this call made it. Raises
    `bucket-missing`, and CloudError: also where the name is somebody else's.

    `acls` is for what is read by an ACL of its own, as a bundle is by the cloud that boots it.
    """
    if bucket_stands(site, bucket):
        return False
    if not create:
        raise DrpilotError("bucket-missing", site=site.name, bucket=bucket)
    pause_s = _PAUSE_FIRST_S
    for tries_left in reversed(range(_TRIES)):
        try:
            site.call("s3", "CreateBucket", _wanted(site, bucket, acls=acls))
        except CloudError as error:
            if error.code not in _RACING:
                raise
            if _made_meanwhile(site, bucket):
                return False
            if error.code == "BucketAlreadyExists" or not tries_left:
                raise
            clock.sleep(pause_s)
            pause_s *= 2
        else:
            return True
    return False


def _wanted(site: Site, bucket: str, *, acls: bool) -> Json:
    params: Json = {"Bucket": bucket}
    if "s3:object-ownership" not in site.capabilities:
        return params
    # AWS. A new bucket takes no ACLs since 2023, and that is right for what only our own keys read and write: every
    # object is the bucket owner's, whoever put it. Who puts objects with an ACL would be refused
    # (AccessControlListNotSupported), so only for those is it turned off (Amazon S3 user guide, "Controlling ownership
    # of objects and disabling ACLs").
    if acls:
        params["ObjectOwnership"] = "ObjectWriter"
    if site.region != "us-east-1":  # it is what no constraint means, and it is refused as one
        params["CreateBucketConfiguration"] = {"LocationConstraint": site.region}
    return params


def _made_meanwhile(site: Site, bucket: str) -> bool:
    """Whether the bucket that was not there a moment ago is there now, for us; one that is another's is not."""
    try:
        return bucket_stands(site, bucket)
    except CloudError as error:
        if error.kind is FailureClass.AUTH:
            return False
        raise
