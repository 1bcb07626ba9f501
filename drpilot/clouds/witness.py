"""The witness: one small object in a third place, changed only by conditional writes.

`PREFIX/GROUP.json` holds a group's claim. A write names the ETag it replaces (`If-Match`), or that there is
none yet (`If-None-Match: *`), so that of two controllers one loses (Amazon S3 user guide, "Conditional
writes"). A reply that got lost is settled by reading the object back: what is written there says who won.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from drpilot.base.errors import DrpilotError
from drpilot.base.ids import canonical
from drpilot.clouds.failures import as_drpilot_error
from drpilot.domain.fence import Claim
from drpilot.domain.plain import Json, from_plain, to_plain
from drpilot.domain.ports import CloudError, FailureClass, Site, Stale

__all__ = ["S3Witness", "witness_error"]

_FORMAT = 1
_ATTEMPTS = 3
# S3 answers these to a conditional write; NoSuchKey when what If-Match names was deleted, 409 when another one
# is under way (S3 API reference, PutObject).
_LOST = frozenset({"PreconditionFailed", "412", "NoSuchKey"})
_RACING = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})


class S3Witness:
    """The witness as an S3 object behind a Site. Raises CloudError where the site fails."""

    def __init__(self, site: Site, bucket: str, prefix: str = "") -> None:
        self._site = site
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def key(self, group: str) -> str:
        """The object's key."""
        return f"{self._prefix}{group}.json"

    def read(self, group: str) -> tuple[Claim | None, str]:
        """The claim and its ETag; (None, "") where none was written yet."""
        try:
            reply = self._site.call("s3", "GetObject", {"Bucket": self._bucket, "Key": self.key(group)})
        except CloudError as error:
            if error.code in _ABSENT:
                return None, ""
            raise
        return self._parsed(group, reply["Body"]), str(reply["ETag"])

    def write(self, claim: Claim, *, replaces: str) -> str:
        """Write `claim` if the object still has ETag `replaces` (empty: does not exist); gives the new ETag.

        Raises Stale when another claim is there. After a lost reply the object is read back: our claim there
        means written, the old ETag means it can be sent again, because a conditional write can't take effect
        twice.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._put(claim, replaces)
            except CloudError as error:
                unsure = error.happened != "no"
                if not unsure and error.code not in _LOST | _RACING:
                    raise
                found, etag = self.read(claim.group)
                if found == claim and etag != replaces:
                    return etag
                if etag != replaces:
                    raise Stale(_stale(claim, found)) from error
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _put(self, claim: Claim, replaces: str) -> str:
        body = canonical({"drpilot": _FORMAT, **to_plain(claim)}).encode()
        params: Json = {
            "Bucket": self._bucket,
            "Key": self.key(claim.group),
            "Body": body,
            "ContentType": "application/json",
        }
        params |= {"IfMatch": replaces} if replaces else {"IfNoneMatch": "*"}
        return str(self._site.call("s3", "PutObject", params)["ETag"])

    def _parsed(self, group: str, body: bytes) -> Claim:
        try:
            data = json.loads(body)
            if data.pop("drpilot") != _FORMAT:
                raise ValueError("written by another version of drpilot")
            claim = from_plain(Claim, data)
            if claim.group != group:
                raise ValueError(f"it belongs to group {claim.group}")
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise CloudError(
                FailureClass.INVALID,
                "WitnessUnreadable",
                f"s3://{self._bucket}/{self.key(group)} holds no claim: {error}",
                happened="no",
                site=self._site.name,
                operation="s3:GetObject",
            ) from None
        return claim


def _stale(claim: Claim, found: Claim | None) -> str:
    if found is None:
        return f"the claim of {claim.group} is gone"
    by = f", claimed by {found.run}" if found.run else ""
    return f"the witness says epoch {found.epoch}, active {found.active}{by}"


def witness_error(error: CloudError) -> DrpilotError:
    """What to tell a person when the witness fails: wrong content, wrong bucket, wrong key, or not to be
    reached.
    """
    if error.code == "WitnessUnreadable":
        return DrpilotError("witness-wrong", what=error.message, group="GROUP")
    plain = as_drpilot_error(error)
    if plain.word in ("unreachable", "cloud-unknown"):
        return DrpilotError("witness-unreachable", why=plain.why, data=plain.data)
    return plain
