"""The event chain inside a report: written so that a file can be verified with nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drpilot.base.clock import micros
from drpilot.base.errors import DrpilotError
from drpilot.base.ids import canonical, chained
from drpilot.journal import chain
from drpilot.journal.chain import Event
from drpilot.report.value import FORMAT, Evidence

__all__ = ["Verification", "evidence_of", "verify"]

_KEYS = frozenset({"sequence", "kind", "at_us", "actor", "body", "hash"})


@dataclass(frozen=True, slots=True)
class Verification:
    """A report whose chain verifies: its head, how many events, and the run they belong to."""

    run: str
    head: str
    events: int
    finished: bool


def evidence_of(run: str, name: str, events: Sequence[Event]) -> Evidence:
    """The chain of a run as evidence; a broken one is evidence too, and says where."""
    log = tuple(
        {
            "sequence": e.sequence,
            "kind": e.kind,
            "at_us": micros(e.at),
            "actor": e.actor,
            "body": e.body,
            "hash": e.hash,
        }
        for e in events
    )
    try:
        head = chain.verify(run, events, shown=name)
    except DrpilotError as error:
        return Evidence(run, events[-1].hash if events else "", len(events), False, error.title, log)
    return Evidence(run, head, len(events), bool(events), "" if events else "there are no events", log)


def verify(document: Mapping[str, Any]) -> Verification:
    """Recompute the hash chain of a written report and compare what it says with its events.

    Raises `chain-broken` at the first event that does not follow from the one before it, or where the report
    contradicts its own events (head, count, result, plan), and `wrong-value` for a file that is no report.
    """
    evidence = document.get("evidence")
    if (
        document.get("drpilot_report") != FORMAT
        or not isinstance(evidence, Mapping)
        or not isinstance(evidence.get("chain"), str)
    ):
        hint = "drpilot report show RUN --output json"
        raise DrpilotError("wrong-value", what="this is no report of drpilot", hint=hint)
    name = str(document.get("name", evidence["chain"]))
    previous, log = evidence["chain"], list(evidence.get("log") or ())
    for expected, event in enumerate(log, start=1):
        found = _hash(previous, event)
        if found is None or found != event["hash"] or event["sequence"] != expected:
            raise DrpilotError("chain-broken", run=name, sequence=expected)
        previous = found
    for why in _contradictions(document, log, previous):
        raise DrpilotError("chain-broken", run=name, sequence=len(log), why=why)
    return Verification(name, previous, len(log), bool(document.get("finished")))


def _hash(previous: str, event: Any) -> str | None:
    """The hash an event must carry after `previous`; None where it is no event."""
    if not isinstance(event, Mapping) or not set(event) >= _KEYS:
        return None
    content = [event["sequence"], event["kind"], event["at_us"], event["actor"], canonical(event["body"])]
    return chained(previous, content)


def _contradictions(document: Mapping[str, Any], log: list[Mapping[str, Any]], head: str) -> list[str]:
    """Where the report says something else than its events do; a cut-off tail shows up here."""
    evidence, name = document["evidence"], document.get("name")
    found = []
    if not log:
        found.append("the report carries no events")
    if evidence["chain"] != document.get("id"):
        found.append("the events are those of another run")
    if head != evidence.get("head") or len(log) != evidence.get("events"):
        found.append("the head of the chain is not the one reported")
    moves = [e["body"] for e in log if e["kind"] == "moved" and e["body"].get("family") == "run"]
    if moves and moves[-1].get("to") != document.get("state"):
        found.append(
            f"the events end in state {moves[-1].get('to')}, the report says {document.get('state')}"
        )
    results = [move["result"] for move in moves if move.get("result")]
    if (results[-1] if results else None) != document.get("result"):
        found.append(f"the result of {name} is not the one in its events")
    if moves and moves[0].get("plan") != document.get("plan_digest"):
        found.append("the plan is not the one the run began with")
    return found
