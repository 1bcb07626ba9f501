"""What actions read from a cloud: listings by tag, parsed once, and the words of tags and times.

Everything here only looks. Filters are used instead of id parameters, because an id that is unknown on
one side is no error there (EC2 API reference, Filter), and because a listing by tag is the only way to
find what a call without ClientToken has made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any, TypeVar

from drpilot.base.clock import parse_time, rfc3339
from drpilot.domain.plain import Json
from drpilot.domain.ports import (
    Answer,
    CloudError,
    Context,
    FailureClass,
    Model,
    Site,
    StepFailed,
    Unseen,
    Waiting,
)

__all__ = [
    "ALIVE",
    "DEAD",
    "GONE_VOLUME",
    "Bounded",
    "Nothing",
    "Seen",
    "describe",
    "first",
    "images",
    "instances",
    "made_here",
    "moment",
    "name_of",
    "not_found",
    "snapshots",
    "specification",
    "tag_list",
    "tagged",
    "tags_of",
    "too_late",
    "unsure",
    "visible",
    "volumes",
    "within",
]

ALIVE = ("pending", "running", "stopping", "shutting-down")
"""Instance states in which a guest may still write."""
DEAD = ("terminated", "shutting-down")
"""Instance states from which nothing comes back."""
GONE_VOLUME = ("deleting", "deleted", "error")
"""Volume states that are of no use."""

T = TypeVar("T")
I = TypeVar("I", bound=Model)
O = TypeVar("O", bound=Model)


class Nothing(Model):
    """An action without input."""


class Seen(Model):
    """One thing that was looked at: what was expected, what was observed, when (RFC 3339)."""

    name: str
    ok: bool
    expected: str
    observed: str
    at: str

    @classmethod
    def of(cls, ctx: Context, name: str, ok: bool, texts: tuple[str, str]) -> Seen:
        """A look made now; `texts` are what was expected and what was observed."""
        return cls(name=name, ok=ok, expected=texts[0], observed=texts[1], at=rfc3339(ctx.clock.now()))


def tags_of(resource: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a described resource as a mapping; EC2 says `Tags`, some listings `TagSet`."""
    found = resource.get("Tags") or resource.get("TagSet") or []
    return {item["Key"]: item.get("Value", "") for item in found}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as the API wants them, in a stable order."""
    return [{"Key": key, "Value": tags[key]} for key in sorted(tags)]


def specification(kind: str, tags: Mapping[str, str]) -> Json:
    """One TagSpecification: the tags a create call puts on what it makes, in the same instant."""
    return {"ResourceType": kind, "Tags": tag_list(tags)}


def tagged(**wanted: str) -> list[Json]:
    """Filters on `drpilot:` tags; an underscore stands for a hyphen, the empty string for any value."""
    filters = []
    for key, value in wanted.items():
        tag = "drpilot:" + key.replace("_", "-")
        filters.append(
            {"Name": f"tag:{tag}", "Values": [value]} if value else {"Name": "tag-key", "Values": [tag]}
        )
    return filters


def made_here(ctx: Context, **more: str) -> list[Json]:
    """Filters for what this step of this run has made, in whichever attempt."""
    ours = ctx.tags()
    filters = [{"Name": f"tag:{key}", "Values": [ours[key]]} for key in ("drpilot:run", "drpilot:step")]
    return filters + tagged(**more)


def describe(
    site: Site, operation: str, member: str, filters: list[Json] | None = None, **params: Any
) -> list[Json]:
    """All resources of an EC2 listing; `member` names the list in each page."""
    asked: Json = {**params, **({"Filters": filters} if filters else {})}
    return [item for page in site.pages("ec2", operation, asked) for item in page.get(member) or []]


def instances(site: Site, filters: list[Json], *, dead: bool = False) -> list[Json]:
    """Instances by filter; terminated ones, which stay listed for an hour, only if `dead`."""
    found = [
        instance
        for reservation in describe(site, "DescribeInstances", "Reservations", filters)
        for instance in reservation.get("Instances") or []
    ]
    return [item for item in found if dead or item["State"]["Name"] not in DEAD]


def snapshots(site: Site, filters: list[Json]) -> list[Json]:
    """Snapshots of this account by filter; always filtered by tag or id, since an account may own
    thousands.
    """
    return describe(site, "DescribeSnapshots", "Snapshots", filters, OwnerIds=["self"])


def images(site: Site, filters: list[Json]) -> list[Json]:
    """Images of this account by filter."""
    return describe(site, "DescribeImages", "Images", filters, Owners=["self"])


def volumes(site: Site, filters: list[Json]) -> list[Json]:
    """Volumes by filter."""
    return describe(site, "DescribeVolumes", "Volumes", filters)


def first(found: Iterable[T]) -> T | None:
    """The first of a listing, or None."""
    return next(iter(found), None)


def name_of(site: Site, role: str, ctx: Context) -> str:
    """The name of the site in `role`."""
    return {"source": ctx.source, "target": ctx.target}.get(role, site.name)


def moment(value: Any) -> datetime:
    """A time of a reply: botocore gives an aware datetime, plain JSON gives RFC 3339."""
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return parse_time(str(value))


def visible(look: Callable[[Context, I], Answer[O]], ctx: Context, given: I) -> Answer[O]:
    """What `start` answers after its calls were answered, by its first look.

    Not listed yet means wait, not "it did not happen". A look that is refused or fails says nothing about the
    calls: CloudError comes with an unknown outcome, and the word of failure is left to the next look.
    """
    try:
        answer = look(ctx, given)
    except StepFailed as error:
        return Waiting({}, after_s=1.0, note=f"answered; the look after it says: {error.message}")
    except CloudError as error:
        raise unsure(error) from error
    if isinstance(answer, Unseen):
        return Waiting({}, after_s=1.0, note=f"answered, not listed yet: {answer.why}")
    return answer


def unsure(error: CloudError) -> CloudError:
    """The same error with an unknown outcome: a change went before it, so that only a look can tell."""
    return CloudError(
        error.kind,
        error.code,
        error.message,
        happened="unknown",
        site=error.site,
        operation=error.operation,
        request_id=error.request_id,
    )


def not_found(error: CloudError) -> bool:
    """Whether the cloud said for certain that the thing does not exist."""
    return error.kind is FailureClass.NOT_FOUND


class Bounded:
    """A site that takes no further call once its time is over, as `over` says."""

    def __init__(self, site: Site, over: Callable[[], bool]) -> None:
        self._site, self._over = site, over
        self.name, self.region, self.account = site.name, site.region, site.account

    @property
    def capabilities(self) -> frozenset[str]:
        """As the site's own."""
        return self._site.capabilities

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        """The site's call; CloudError (cancelled, did not happen) after the bound."""
        self._refuse(service, operation)
        return self._site.call(service, operation, params, token=token)

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        """The site's pages; CloudError (cancelled) after the bound."""
        self._refuse(service, operation)
        for page in self._site.pages(service, operation, params):
            yield page
            self._refuse(service, operation)

    def guarded(self, permit: Callable[[], None]) -> Site:
        """The site's own, with the same bound."""
        bounded: Site = Bounded(self._site.guarded(permit), self._over)
        return bounded

    def presigned(self, operation: str, params: Json, expires_s: int) -> str:
        """The site's URL; CloudError (cancelled) after the bound."""
        service, _, name = operation.partition(":")
        self._refuse(service, name)
        return self._site.presigned(operation, params, expires_s)

    def _refuse(self, service: str, operation: str) -> None:
        if self._over():
            text = "given up: nobody waits for this any more"
            raise CloudError(
                FailureClass.CANCELLED,
                "Bounded",
                text,
                happened="no",
                site=self.name,
                operation=f"{service}:{operation}",
            )


def within(seconds: float, site: Site, act: Callable[[Site], T]) -> T:
    """The result of `act(site)` if it comes within `seconds`; else CloudError of class `timeout`, outcome
    unknown.

    A site that takes calls and never answers must not hold a step that is allowed to go on without it. The site that
    `act` is handed refuses every further call once the time is over, so that it changes nothing behind the back of
    later steps. A site whose time is not the machine's says by itself how acts on it are bounded.
    """
    bound = getattr(site, "bound", None) or _by_thread
    result: T = bound(seconds, site, act)
    return result


def too_late(seconds: float, site: Site) -> CloudError:
    """What became of `act` is unknown: its time was over first."""
    text = f"no answer within {seconds:g} s"
    return CloudError(FailureClass.TIMEOUT, "Bounded", text, happened="unknown", site=site.name)


def _by_thread(seconds: float, site: Site, act: Callable[[Site], T]) -> T:
    """What was given up goes on in a daemon thread until its present call returns, and its result is dropped."""
    box: Queue[tuple[T | None, BaseException | None]] = Queue()
    over = Event()

    def run() -> None:
        try:
            box.put((act(Bounded(site, over.is_set)), None))
        except BaseException as error:  # noqa: BLE001 - handed over to the caller, whatever it is
            box.put((None, error))

    Thread(target=run, name="bounded-look", daemon=True).start()
    try:
        result, error = box.get(timeout=seconds)
    except Empty:
        over.set()
        raise too_late(seconds, site) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # either an error or a result was put
