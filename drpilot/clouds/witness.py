"""The witness as a small object of S3 in a third place, changed only by conditional writes; and what all kinds share.

`PREFIX/GROUP.json` holds a group's claim. A write names the ETag it replaces (`If-Match`), or that there is
none yet (`If-None-Match: *`), so that of two controllers one loses (Amazon S3 user guide, "Conditional
writes"). A reply that got lost is settled by reading the object back: what is written there says who won.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from drpilot.base.errors import DrpilotError
from drpilot.base.ids import canonical
from drpilot.clouds.failures import as_drpilot_error
from drpilot.domain.fence import Claim
from drpilot.domain.plain import Json, from_plain, to_plain
from drpilot.domain.ports import CloudError, FailureClass, Site, Stale, Witness

__all__ = ["Place", "S3Witness", "read_claim", "settled", "witness_error", "written"]

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
        place = Place(f"s3://{self._bucket}/{self.key(group)}", self._site.name, "s3:GetObject")
        return read_claim(group, reply["Body"], place), str(reply["ETag"])

    def write(self, claim: Claim, *, replaces: str) -> str:
        """Write `claim` if the object still has ETag `replaces` (empty: does not exist); gives the new ETag.

        Raises Stale when another claim is there.
        """
        refused = _LOST | _RACING
        return settled(self, claim, replaces, lambda: self._put(claim, replaces), refused)

    def _put(self, claim: Claim, replaces: str) -> str:
        body = written(claim).encode()
        params: Json = {
            "Bucket": self._bucket,
            "Key": self.key(claim.group),
            "Body": body,
            "ContentType": "application/json",
        }
        params |= {"IfMatch": replaces} if replaces else {"IfNoneMatch": "*"}
        return str(self._site.call("s3", "PutObject", params)["ETag"])


def settled(
    witness: Witness, claim: Claim, replaces: str, put: Callable[[], str], refused: frozenset[str]
) -> str:
    """The version that the conditional write `put` gave, whatever became of its answer; raises Stale.

    After a lost reply, or a refusal with one of the codes `refused`, the witness is read back: our claim under another
    version than `replaces` means written; `replaces` itself means it can be sent again, because a conditional write
    can't take effect twice; anything else means that somebody was faster.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return put()
        except CloudError as error:
            if error.happened == "no" and error.code not in refused:
                raise
            found, version = witness.read(claim.group)
            if found == claim and version != replaces:
                return version
            if version != replaces:
                raise Stale(_stale(claim, found)) from error
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def written(claim: Claim) -> str:
    """A claim as it stands in every kind of witness."""
    return canonical({"drpilot": _FORMAT, **to_plain(claim)})


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is read: for the message about what is no claim."""

    what: str
    site: str
    operation: str


def read_claim(group: str, body: bytes | str, place: Place) -> Claim:
    """The claim of `group` in `body`; CloudError WitnessUnreadable for anything else, never taken for none."""
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
            f"{place.what} holds no claim: {error}",
            happened="no",
            site=place.site,
            operation=place.operation,
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
