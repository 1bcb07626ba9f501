"""The event chain: append-only, each event's hash covers the one before it, each chain begins with its own name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert
from sqlalchemy import select as select_columns
from sqlmodel import Session, col, select

from drpilot.base.clock import from_micros, micros
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import canonical, chained
from drpilot.journal.body import unpack
from drpilot.journal.prepared import Prepared
from drpilot.journal.tables import EventRow, metadata

__all__ = ["Event", "append", "replay", "verify", "write"]


_EVENT = metadata.tables["event"]
_HEAD = Prepared(
    select_columns(_EVENT.c.sequence, _EVENT.c.hash)
    .where(_EVENT.c.chain == bindparam("of_chain"))
    .order_by(_EVENT.c.sequence.desc())
    .limit(1)
)
_COLUMNS = ("chain", "sequence", "group", "kind", "at", "actor", "body", "hash")
_ADD = Prepared(insert(_EVENT).values({name: bindparam(name) for name in _COLUMNS}))
_PENDING = "drpilot events"  # where a transaction keeps the events it will be committed with


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `body` of a lifecycle event holds family, key, event, from, to and the reason."""

    id: int
    chain: str
    sequence: int
    group: str
    kind: str
    at: datetime
    actor: str
    body: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


def append(  # noqa: PLR0913 - the columns of one row
    session: Session, *, chain: str, group: str, kind: str, at: datetime, actor: str, body: dict[str, Any]
) -> None:
    """Add one event to `chain` inside the caller's transaction; it is written when that ends (`write`)."""
    values = {"group": group, "kind": kind, "at": micros(at), "actor": actor, "body": canonical(body)}
    session.info.setdefault(_PENDING, []).append({"chain": chain, **values})


def write(session: Session) -> None:
    """Chain and write the events of a transaction that is about to be committed, in their order."""
    pending: list[dict[str, Any]] = session.info.pop(_PENDING, [])
    if not pending:
        return
    connection, heads = session.connection(), {}
    for event in pending:
        chain = event["chain"]
        if chain not in heads:
            last: Any = _HEAD.run(connection, {"of_chain": chain}).first()
            heads[chain] = (0, chain) if last is None else (last[0], last[1])
        sequence, previous = heads[chain]
        content = [sequence + 1, event["kind"], event["at"], event["actor"], event["body"]]
        event["sequence"], event["hash"] = sequence + 1, chained(previous, content)
        heads[chain] = (sequence + 1, event["hash"])
    _ADD.run_all(connection, pending)


def events(
    session: Session, *, chain: str | None = None, group: str | None = None, after: int = 0
) -> list[Event]:
    """Events with an id above `after`, oldest first."""
    query = select(EventRow).where(col(EventRow.id) > after).order_by(col(EventRow.id))
    if chain is not None:
        query = query.where(EventRow.chain == chain)
    if group is not None:
        query = query.where(EventRow.group == group)
    return [
        Event(
            row.id or 0,
            row.chain,
            row.sequence,
            row.group,
            row.kind,
            from_micros(row.at),
            row.actor,
            unpack(row.body),
            row.hash,
        )
        for row in session.exec(query)
    ]


def verify(chain: str, found: Sequence[Event], *, shown: str = "") -> str:
    """The head hash of `chain`; raises `chain-broken` at the first event that does not follow from the one before."""
    previous = chain
    for expected, event in enumerate(found, start=1):
        content = [event.sequence, event.kind, micros(event.at), event.actor, canonical(event.body)]
        if event.sequence != expected or chained(previous, content) != event.hash:
            raise DrpilotError("chain-broken", run=shown or chain, sequence=expected)
        previous = event.hash
    return previous


def replay(found: Iterable[Event]) -> dict[tuple[str, str], str]:
    """The states that lifecycle events lead to: (family, key) → state word. Invariant 15: equal to the rows."""
    states: dict[tuple[str, str], str] = {}
    for event in found:
        if event.kind == "moved":
            states[(event.body["family"], event.body["key"])] = event.body["to"]
    return states


def count(session: Session) -> int:
    """How many events there are."""
    return int(session.exec(select(func.count(col(EventRow.id)))).one())
