"""What stands between a call and its handler: permissions taken away, and rate limits.

Tunables: `denied` lists `service.Operation` patterns the keys may not call; `rates` gives, for such a
pattern, a token bucket `{"rate": calls per second, "burst": calls}` (EC2 API reference, API throttling).
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from drpilot.lab.refusal import Refusal, throttled

if TYPE_CHECKING:
    from drpilot.lab.cloud import Cloud

__all__ = ["Bucket", "admit"]

Bucket = tuple[float, float]
"""Tokens left, and the monotonic second of the last look."""


def admit(cloud: Cloud, service: str, operation: str) -> None:
    """Raise Refusal when the caller may not make this call, or not now."""
    name = f"{service}.{operation}".lower()
    for pattern in cloud.setting("denied", []):
        if fnmatchcase(name, pattern.lower()):
            if service == "ec2":
                raise Refusal(
                    "UnauthorizedOperation", "You are not authorized to perform this operation.", status=403
                )
            code = "AccessDeniedException" if service in ("ebs", "kms", "service-quotas") else "AccessDenied"
            raise Refusal(code, f"User is not authorized to perform: {service}:{operation}", status=403)
    for pattern, limit in cloud.setting("rates", {}).items():
        if fnmatchcase(name, pattern.lower()) and not _take(cloud, pattern, limit):
            raise throttled(service)


def _take(cloud: Cloud, pattern: str, limit: dict[str, float]) -> bool:
    with cloud.lock:
        moment = cloud.clock.monotonic()
        level, since = cloud.buckets.get(pattern, (limit["burst"], moment))
        level = min(limit["burst"], level + (moment - since) * limit["rate"])
        taken = level >= 1
        cloud.buckets[pattern] = (level - 1 if taken else level, moment)
        return taken
