"""The one door to a cloud: `BotoSite.call` and `pages`, in the cloud's own words.

Limits, tokens, error kinds, retries within seconds, account and clock checks sit here, so that no action has
to think of them. What is repeated here is only what certainly did not happen, or what only reads; the rest is
the journal's.

User data is base64 text everywhere, as the EC2 API has it: the door does not encode what boto3 would encode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import jmespath  # type: ignore[import-untyped]
from botocore import xform_name
from botocore.model import OperationModel
from botocore.response import StreamingBody

from drpilot.base.clock import Chance, Clock, RealClock
from drpilot.base.log import logger
from drpilot.base.retry import Patience, retried
from drpilot.clouds.dataplane import DataPlane
from drpilot.clouds.dialect import Mark
from drpilot.clouds.failures import WrongAccount, as_drpilot_error, failure
from drpilot.clouds.leaving import GuardedSite, Withheld, ask
from drpilot.clouds.limits import Limits
from drpilot.clouds.marks import asked_by_mark, completed, packed, tags_for
from drpilot.clouds.paging import Paging
from drpilot.clouds.session import LONGEST_PRESIGNED_S, Clients
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass

__all__ = ["BotoSite", "Identity", "Observer", "Phase", "Probing", "Ways"]

Phase = Literal["before", "after", "failed"]
Observer = Callable[[str, str, str, Phase], None]
"""Called with site, service, operation and phase: `before` each request, `after` a good answer was read and
before anybody knows of it, `failed` after an error. Tests kill the process here.
"""

_AGAIN = frozenset({FailureClass.THROTTLED, FailureClass.TRANSIENT, FailureClass.TIMEOUT})
# A site that can't be reached is not worth four attempts, and one that hangs not a second: whoever asked has
# a decision to make.
_NOT_AGAIN = frozenset({"Overloaded", "ReadTimeoutError"})
_NOT_SENT = frozenset({"ConnectTimeoutError", "EndpointConnectionError", "ProxyConnectionError"})
_MISSING = frozenset({"InvalidAction", "NoEndpoint", "NotImplemented", "UnknownOperationException"})
_PRESIGNED = frozenset({"s3:GetObject", "s3:PutObject", "s3:HeadObject", "s3:DeleteObject"})
_REPEATED_TOKEN = "RepeatedPageToken"


@dataclass(frozen=True, slots=True)
class Ways:
    """How a site's door works: time, chance, patience within one call, and who watches."""

    clock: Clock = field(default_factory=RealClock)
    chance: Chance = field(default_factory=Chance)
    patience: Patience = field(default_factory=lambda: Patience(attempts=4, budget_s=12.0))
    reaching: int = 2
    observer: Observer | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are on a site. `skew_s` is the site's clock minus ours, in seconds, or None when it sends no
    date.
    """

    account: str
    arn: str
    endpoint: str
    skew_s: float | None


@dataclass(frozen=True, slots=True)
class Probing:
    """What a look at the site proved: capabilities there, missing, and those it could not tell, with the
    reason.
    """

    present: frozenset[str]
    missing: frozenset[str]
    untold: dict[str, str]


class BotoSite:
    """A site through botocore, safe to share between threads. Calls, pages and URLs raise CloudError only."""

    def __init__(self, clients: Clients, ways: Ways | None = None) -> None:
        self._clients = clients
        self._ways = ways or Ways()
        self.settings = clients.settings
        self.dialect = clients.dialect
        self.name = self.settings.name
        self.region = self.settings.region
        self.account = self.settings.account or ""
        self._limits = Limits(self.dialect.rates, self._ways.clock)
        self._identity: Identity | None = None
        self._missing: frozenset[str] = frozenset()
        self._skew_s: float | None = None

    # -- the port -------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[str]:
        """What the dialect can do, less what `probe` found missing."""
        return self.dialect.capabilities - self._missing

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        """One call. `token` goes out as its ClientToken where it takes one; streams come back as bytes."""
        if self.settings.account is not None and service != "sts":
            self._check_account()
        if self.dialect.identity == "owner" and f"{service}:{operation}" == "sts:GetCallerIdentity":
            who = self._check_account()  # The cloud has no such call; the answer has its form.
            return {"Account": who.account, "Arn": who.arn, "UserId": ""}
        mark = self.dialect.mark(service, operation, params)
        if mark is not None:
            return self._create_marked(service, operation, params, token, mark)
        return self._call(service, operation, params, token)

    def presigned(self, operation: str, params: Json, expires_s: int) -> str:
        """The URL of one call on one object, in the site's own form and signature; at most 7 days. Nothing is sent."""
        service, _, name = operation.partition(":")
        try:
            if operation not in _PRESIGNED or not 0 < expires_s <= LONGEST_PRESIGNED_S:
                message = f"no URL for {operation} over {expires_s} s: only one object, for at most 7 days"
                raise self._error(FailureClass.INVALID, "NotPresigned", message, service, name)
            if self.settings.account is not None:
                self._check_account()
            return self._clients.presigned(name, params, expires_s)
        except Exception as error:  # Making a URL sends nothing that changes anything.
            raise failure(error, site=self.name, operation=operation, changing=False) from error

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        """Each page of a listing, by the cloud's own page tokens, never by counting; a page may be empty.

        Where a create call takes no tags, a listing by our tags also gives what is marked by its description.
        """
        yield from self._pages(service, operation, params)
        member = self.dialect.described.get(f"{service}:{operation}")
        asked = asked_by_mark(params) if member is not None else None
        if member is not None and asked is not None:
            found = [
                item for page in self._pages(service, operation, asked) for item in page.get(member) or []
            ]
            yield {member: completed(found, params)}

    def _pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        try:
            paging = self._paging(service, operation)
        except Exception as error:
            raise self._failure(error, service, operation) from error
        given = dict(params)
        if paging is None:
            yield self.call(service, operation, given)
            return
        size = self.dialect.page_size(service, operation, given)
        if size is not None and paging.limit:
            given.setdefault(paging.limit, size)
        last: list[Any] = []
        while True:
            page = self.call(service, operation, given)
            yield page
            tokens = paging.next_tokens(page)
            if not any(tokens):
                return
            if tokens == last:
                message = "the site gives the same page again and again"
                raise self._error(FailureClass.INVALID, _REPEATED_TOKEN, message, service, operation)
            last = tokens
            for name, value in zip(paging.inputs, tokens, strict=True):
                given.pop(name, None)
                if value is not None:
                    given[name] = value

    # -- who and what ---------------------------------------------------------------------------------

    def connect(self) -> Identity:
        """Ask the site who we are, once, and compare the account; raises DrpilotError (wrong-account,
        credentials, no-credentials, denied, unreachable, cloud-failure).
        """
        try:
            return self._check_account()
        except CloudError as error:
            raise as_drpilot_error(
                error, endpoint=self.endpoint("sts"), account=self.settings.account or ""
            ) from error

    def endpoint(self, service: str = "ec2") -> str:
        """The URL of a service, or what stands in its way, for a message."""
        try:
            return self._clients.endpoint(service)
        except Exception as error:
            return f"({error})"

    def authority(self) -> str:
        """Who signs this site's certificates, in PEM; empty where nobody was configured. Raises `key-unreadable`."""
        return self._clients.authority()

    @property
    def settle_s(self) -> float:
        """Seconds a fresh resource may stay invisible here."""
        return self.dialect.settle_s

    @property
    def skew_s(self) -> float | None:
        """The site's clock minus ours at the last answer with a date, in seconds (whole: HTTP dates have no
        more).
        """
        return self._skew_s

    def allowed(self, operation: str, params: Json) -> bool | None:
        """Whether EC2 would let us do `operation`, by DryRun; None when it can't tell. Ask `dry_run_trusted`
        first: there are clouds that do it instead.
        """
        if "dry-run" not in self.dialect.capabilities:
            return None
        try:
            self.call("ec2", operation, {**params, "DryRun": True})
        except CloudError as error:
            if error.code == "DryRunOperation":
                return True
            return False if error.code in ("UnauthorizedOperation", "AccessDenied") else None
        return None

    def dry_run_trusted(self) -> bool:
        """Whether DryRun holds back the effect here: deleting a key pair that never was must answer
        DryRunOperation. Without DryRun EC2 calls it a success, and nothing is lost either way.
        """
        if self.allowed("DeleteKeyPair", {"KeyName": "drpilot-dry-run-probe"}) is True:
            return True
        denied = self.allowed("DeleteKeyPair", {"KeyName": "drpilot-dry-run-probe"}) is False
        return denied and self.allowed("DescribeRegions", {}) is True

    def probe(self) -> Probing:
        """Look which capabilities the site really has; `capabilities` leaves out what is missing from then
        on.
        """
        present, missing, untold = set[str](), set[str](), dict[str, str]()
        for probe in self.dialect.probes:
            try:
                reply = self.call(probe.service, probe.operation, dict(probe.params))
            except CloudError as error:
                if error.code in _MISSING or error.code == "501":
                    missing.add(probe.capability)
                elif error.kind in (FailureClass.NOT_FOUND, FailureClass.INVALID):
                    present.add(probe.capability)  # It knows the call and refuses only the made-up id.
                else:
                    untold[probe.capability] = f"{error.code}: {error.message}"
            else:
                proven = not probe.proves or bool(jmespath.search(probe.proves, reply))
                (present if proven else missing).add(probe.capability)
        (present if self.dry_run_trusted() else missing).add("dry-run")
        self._missing = frozenset(missing)
        return Probing(frozenset(present), frozenset(missing), untold)

    def plane(self, service: str) -> DataPlane:
        """The data plane of a service, under the same limits; raises CloudError as a call does.

        Look at `DataPlane.doorway.obstacle` before using it: where that says something, only `call` is left.
        """
        try:
            return DataPlane(self._clients.doorway(service), self._ways.clock, self._limits)
        except Exception as error:
            raise failure(error, site=self.name, operation=f"{service}:connect", changing=False) from error

    def guarded(self, permit: Callable[[], None]) -> GuardedSite:
        """The same door, which asks `permit` right before each changing request leaves."""
        return GuardedSite(self, permit)

    def close(self) -> None:
        """Close all connections."""
        self._clients.close()

    # -- one call -------------------------------------------------------------------------------------

    def _check_account(self) -> Identity:
        known = self._identity
        if known is not None:
            return known
        # Without a lock: on a site that hangs, many callers must not wait one after the other.
        service = "sts" if self.dialect.identity == "sts" else "ec2"
        found, arn = self._who() if service == "sts" else self._owner()
        wanted = self.settings.account
        if wanted is not None and found != wanted:
            raise self._failure(WrongAccount(found, wanted), "sts", "GetCallerIdentity")
        identity = Identity(found, arn, self._clients.endpoint(service), self._skew_s)
        self.account, self._identity = found, identity
        return identity

    def _who(self) -> tuple[str, str]:
        reply = self._call("sts", "GetCallerIdentity", {}, None)
        return str(reply.get("Account", "")), str(reply.get("Arn", ""))

    def _owner(self) -> tuple[str, str]:
        """The account by the owner of its group `default`, where STS does not tell it."""
        reply = self._call("ec2", "DescribeSecurityGroups", {"GroupNames": ["default"]}, None)
        owners = sorted({str(group.get("OwnerId")) for group in reply.get("SecurityGroups") or []})
        if len(owners) != 1:
            message = f"the group default has {len(owners)} owners; the account can't be told"
            raise self._error(FailureClass.AUTH, "NoIdentity", message, "ec2", "DescribeSecurityGroups")
        return owners[0], f"account {owners[0]}"

    def _create_marked(
        self, service: str, operation: str, params: Json, token: str | None, mark: Mark
    ) -> Json:
        """Create without tags, the mark in the description where there is one, and set the tags right after.

        Tags that could not be set leave the outcome unknown: what was made must be looked for, not made again.
        """
        tags, given = tags_for(params, mark.kind)
        if mark.text and tags:
            given[mark.text] = packed(tags, str(given.get(mark.text) or ""))
        reply = self._call(service, operation, given, token)
        ids = [one for one in jmespath.search(mark.ids, reply) or [] if one]
        if tags and ids:
            wanted = {"Resources": ids, "Tags": [{"Key": key, "Value": tags[key]} for key in sorted(tags)]}
            try:
                self._call("ec2", "CreateTags", wanted, None)
            except CloudError as error:
                message = f"{', '.join(ids)} was made, its tags were not: {error.code}: {error.message}"
                raise CloudError(
                    error.kind,
                    "NotTagged",
                    message,
                    happened="unknown",
                    site=self.name,
                    operation=f"{service}:{operation}",
                ) from error
        return reply

    def _call(self, service: str, operation: str, params: Json, token: str | None) -> Json:
        try:
            self._understood(service, operation, params)
            client = self._clients.client(service)
            model = client.meta.service_model.operation_model(operation)
            given = self._with_token(service, model, params, token)
        except Exception as error:  # Nothing was sent yet, so even a changing call had no effect.
            name = f"{service}:{operation}"
            raise failure(error, site=self.name, operation=name, changing=False) from error
        unreached = 0

        def worth(error: BaseException) -> bool:
            nonlocal unreached
            if not isinstance(error, CloudError) or error.happened != "no" or error.kind not in _AGAIN:
                return False
            unreached += error.code in _NOT_SENT
            return error.code not in _NOT_AGAIN and unreached < self._ways.reaching

        return retried(
            lambda: self._once(client, service, operation, given),
            worth=worth,
            patience=self._ways.patience,
            clock=self._ways.clock,
            chance=self._ways.chance,
        )

    def _understood(self, service: str, operation: str, params: Json) -> None:
        """Refuse, before anything is sent, what this kind of cloud lacks, only pretends to do, or would not
        understand.
        """
        refused = self.dialect.refusal(service, operation, params)
        if refused is not None:
            kind = FailureClass.INVALID if refused[0] == "UnknownParameter" else FailureClass.PRECONDITION
            raise self._error(kind, *refused, service, operation)

    def _with_token(self, service: str, model: OperationModel, params: Json, token: str | None) -> Json:
        if token is None:
            return dict(params)
        members = model.input_shape.members if model.input_shape is not None else {}
        name = self.dialect.token_member(service, model.name, members, model.idempotent_members)
        return {name: token, **params} if name is not None else dict(params)

    def _once(self, client: Any, service: str, operation: str, params: Json) -> Json:
        changing = self.dialect.changes(service, operation)
        try:
            self._limits.acquire(service, operation, params, changing=changing)
            with self._limits.place(service, operation):
                self._observe(service, operation, "before")
                if changing:
                    ask()  # after every wait of ours, so that nothing lies between the answer and the request
                reply = _read(getattr(client, xform_name(operation))(**params))
            self._answered(service, operation, reply)
        except Withheld:
            raise
        except Exception as error:
            failed = self._failure(error, service, operation)
            response = getattr(error, "response", None)
            self._note_date(response.get("ResponseMetadata") if isinstance(response, dict) else None)
            if failed.kind is FailureClass.THROTTLED and failed.code != "Overloaded":
                self._limits.throttled(service, operation, params, changing=changing)
            facts = {"code": failed.code, "happened": failed.happened}
            logger("clouds.site").debug("call_failed", site=self.name, operation=failed.operation, **facts)
            self._observe(service, operation, "failed")
            raise failed from error
        self._note_date(reply.pop("ResponseMetadata", None))
        self._observe(service, operation, "after")
        return reply

    def _answered(self, service: str, operation: str, reply: Json) -> None:
        wanted = self.dialect.replies.get(f"{service}:{operation}")
        if wanted is not None and not jmespath.search(wanted, reply):
            message = f"it answered success without {wanted}: nothing happened"
            raise self._error(FailureClass.REJECTED, "EmptyReply", message, service, operation)

    def _observe(self, service: str, operation: str, phase: Phase) -> None:
        if self._ways.observer is not None:
            self._ways.observer(self.name, service, operation, phase)

    def _note_date(self, metadata: Any) -> None:
        sent = (metadata or {}).get("HTTPHeaders", {}).get("date")
        if sent:
            try:
                moment: datetime = parsedate_to_datetime(sent)
                self._skew_s = (moment - self._ways.clock.now()).total_seconds()
            except (TypeError, ValueError):
                return  # A date nobody can read says nothing about the clock.

    def _failure(self, error: BaseException, service: str, operation: str) -> CloudError:
        changing = self.dialect.changes(service, operation)
        return failure(error, site=self.name, operation=f"{service}:{operation}", changing=changing)

    def _error(self, kind: FailureClass, code: str, message: str, service: str, operation: str) -> CloudError:
        return CloudError(
            kind, code, message, happened="no", site=self.name, operation=f"{service}:{operation}"
        )

    def _paging(self, service: str, operation: str) -> Paging | None:
        described = self._clients.paging(service, operation)
        if described is not None:
            return Paging.of(described)
        return Paging.guessed(self._clients.client(service).meta.service_model.operation_model(operation))


def _read(reply: Json) -> Json:
    """The reply with its stream, if any, read to the end: EBS direct blocks and S3 objects come as bytes."""
    for key, value in reply.items():
        if isinstance(value, StreamingBody):
            try:
                reply[key] = value.read()
            finally:
                value.close()
    return reply
