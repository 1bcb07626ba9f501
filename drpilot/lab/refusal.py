"""How a simulated cloud says no."""

from __future__ import annotations

__all__ = ["NOT_FOUND", "Refusal", "throttled"]

NOT_FOUND: dict[str, str] = {}
"""The code for an id that does not exist, by table; each EC2 module adds its own."""


class Refusal(Exception):
    """The error a cloud answers with: its code, its sentence and the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def throttled(service: str) -> Refusal:
    """The answer to a call above the rate limit, in the service's own words."""
    if service == "ec2":
        return Refusal("RequestLimitExceeded", "Request limit exceeded.", status=503)
    if service == "s3":
        return Refusal("SlowDown", "Please reduce your request rate.", status=503)
    code = "ThrottlingException" if service in ("ebs", "kms", "service-quotas") else "Throttling"
    return Refusal(code, "Rate exceeded", status=400)
