"""What an S3 store's error says about what was asked for: it is not there, or not even its bucket is.

One place, because the words differ: GetObject says NoSuchKey or NoSuchBucket, and a HEAD has no body, so that its bare
status becomes the code. Source: Amazon S3 API reference, error responses.
"""

from __future__ import annotations

from drpilot.domain.ports import CloudError, FailureClass

__all__ = ["is_absent", "is_object_absent"]

_OTHERS = frozenset({"NoSuchBucket", "NoSuchUpload", "NoSuchVersion"})


def is_absent(error: CloudError) -> bool:
    """Whether it says that there is no such thing: the object, or the bucket it would be in."""
    return error.kind is FailureClass.NOT_FOUND


def is_object_absent(error: CloudError) -> bool:
    """Whether it says that there is no such object. A missing bucket is another thing: all that is in it would seem to
    be gone.
    """
    return is_absent(error) and error.code not in _OTHERS
