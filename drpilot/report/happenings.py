"""What happened, from the run's events: the timeline, who took part, and where it left the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drpilot.domain.run import RunView
from drpilot.journal.chain import Event
from drpilot.report.value import Deviation, EventLine, Participant

__all__ = ["deviations_of", "participants_of", "timeline_of"]

_STEP_EVENTS = {
    "skip": "skipped by a person",
    "ignore": "failure ignored",
    "retry": "tried again by a person",
    "settled: happened": "settled by a person: it happened",
    "settled: did not happen": "settled by a person: it did not happen",
    "transient failure": "failed for the moment",
    "failed": "failed",
    "reply lost": "outcome unknown",
    "as wanted, with a warning": "done with a warning",
    "undo failed": "could not be undone",
}
_RUN_EVENTS = {
    "pause": "paused",
    "cancel": "cancelled",
    "roll back": "rolled back",
    "declined": "declined",
    "expired": "expired",
    "refused": "refused",
    "not empty": "not cleaned up",
    "handed over": "clean-up handed over",
}
_CONSENTS = ("approve", "decline", "commit")  # written as approvals
_SHOWN_FAMILIES = ("run", "group", "fence", "point", "standby")


def participants_of(view: RunView, events: Sequence[Event]) -> tuple[Participant, ...]:
    """Everybody with a part in the run, in the order of their first act."""
    found = [Participant(view.by, "requested", view.created_at, view.reason)]
    for approval in view.approvals:
        part = "declined" if approval.declined else "approved"
        facts = [f"gate {approval.gate}"]
        if approval.accepted_loss_s is not None:
            facts.append(f"accepted a loss of {approval.accepted_loss_s:g} s")
        if approval.break_glass:
            facts.append("broke the glass")
        facts += [text for text in (approval.where, approval.comment) if text]
        found.append(Participant(approval.person, part, approval.at, ", ".join(facts)))
    for event in events:
        if (
            event.kind == "request"
            and not event.body.get("refused")
            and event.body["request"] not in _CONSENTS
        ):
            words = [str(event.body[key]) for key in ("request", "step", "comment") if event.body.get(key)]
            found.append(Participant(str(event.body["by"]), "steered", event.at, " ".join(words)))
        elif event.kind == "acquired":
            found.append(
                Participant(str(event.body["holder"]), "drove", event.at, f"term {event.body['term']}")
            )
    return tuple(sorted(found, key=lambda item: item.at))


def timeline_of(view: RunView, events: Sequence[Event]) -> tuple[EventLine, ...]:
    """The run's timeline in UTC; steps appear where they did not simply succeed, their table has the rest."""
    found = []
    proposal = view.proposal
    if proposal is not None and proposal.point_at is not None:
        found.append(EventLine(proposal.point_at, f"recovery point {proposal.point} was captured"))
    if proposal is not None and proposal.since is not None and proposal.mode == "failover":
        found.append(EventLine(proposal.since, f"last sign of life of {proposal.source}"))
    for approval in view.approvals:
        verb = "declined" if approval.declined else "approved"
        found.append(
            EventLine(
                approval.at,
                f"{approval.person} {verb} gate {approval.gate}",
                approval.person,
                approval.comment,
            )
        )
    for event in events:
        line = _line(event)
        if line is not None:
            found.append(line)
    return tuple(sorted(found, key=lambda line: line.at))


def _line(event: Event) -> EventLine | None:
    body = event.body
    match event.kind:
        case "moved" if body["family"] == "step":
            if body["event"] not in _STEP_EVENTS:
                return None
            return EventLine(
                event.at, f"step {_path(body)}: {_STEP_EVENTS[body['event']]}", event.actor, _why(body)
            )
        case "moved" if body["family"] in _SHOWN_FAMILIES:
            what = f"{body['family']} {body['key']}: {body['event']}, now {body['to']}"
            return EventLine(event.at, what, str(body.get("by") or event.actor), _why(body))
        case "request":
            refused = f", refused: {body['refused']}" if body.get("refused") else ""
            what = f"{body['by']} asked: {body['request']} {body.get('step') or ''}".rstrip() + refused
            return EventLine(event.at, what, str(body["by"]), str(body.get("comment", "")))
        case "acquired":
            taken = f", taken over from {body['from']}" if body.get("from") else ""
            return EventLine(
                event.at, f"driven by {body['holder']} (term {body['term']}){taken}", event.actor
            )
        case "note":
            return EventLine(event.at, str(body.get("text", "")), event.actor, str(body.get("note", "")))
        case _:
            return None


def deviations_of(view: RunView, events: Sequence[Event]) -> tuple[Deviation, ...]:
    """Skips, overrides, retries, warnings and failures, each with who and why."""
    found = []
    if view.proposal is not None and view.proposal.break_glass is not None:
        found.append(
            Deviation(view.created_at, "broke the glass", view.name, view.by, view.proposal.break_glass)
        )
    drivers: list[str] = []
    for event in events:
        body = event.body
        if event.kind == "moved" and body["family"] == "step" and body["event"] in _STEP_EVENTS:
            who = str(body.get("by") or event.actor)
            found.append(Deviation(event.at, _STEP_EVENTS[body["event"]], _path(body), who, _why(body)))
        elif event.kind == "moved" and body["family"] == "run" and body["event"] in _RUN_EVENTS:
            who = str(body.get("by") or event.actor)
            found.append(Deviation(event.at, _RUN_EVENTS[body["event"]], view.name, who, _why(body)))
        elif event.kind == "request" and body.get("refused"):
            found.append(
                Deviation(
                    event.at, f"{body['request']} refused", view.name, str(body["by"]), str(body["refused"])
                )
            )
        elif event.kind == "acquired":
            if drivers and drivers[-1] != body["holder"]:
                found.append(
                    Deviation(event.at, "taken over", view.name, str(body["holder"]), f"from {drivers[-1]}")
                )
            drivers.append(str(body["holder"]))
    return tuple(found)


def _path(body: dict[str, Any]) -> str:
    return str(body["key"]).partition(":")[2] or str(body["key"])


def _why(body: dict[str, Any]) -> str:
    failure = body.get("failure")
    if isinstance(failure, dict) and failure.get("message"):
        return str(failure["message"])
    return str(body.get("reason") or body.get("note") or "")
