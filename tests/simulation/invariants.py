"""What must hold after any story, a function each. Numbers are those of the lifecycles (docs/safety.md lists them).

Each gives what it found wrong, in words; nothing means that it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from drpilot import census
from drpilot.base.errors import DrpilotError
from drpilot.domain.run import MOVES, RunView
from drpilot.journal import chain
from drpilot.journal.journal import Journal
from drpilot.lab.guest import DATABASE_PORT, guests_of
from tests.simulation.ground import GROUP, Ground
from tests.simulation.storm import Storm

__all__ = ["INVARIANTS", "Facts", "broken"]

Found = Iterator[str]

_VERDICTS = ("verified", "partly", "unseen")
_PROMOTING = ("standby.attach", "standby.grow", "traffic.switch")
_DESTROYING = frozenset(
    {
        "TerminateInstances",
        "DeleteVolume",
        "DeleteSnapshot",
        "DeregisterImage",
        "ReleaseAddress",
        "DeleteAutoScalingGroup",
    }
)


@dataclass
class Facts:
    """Everything an invariant may look at: the clouds themselves, the journal as it lies on disk, what was called."""

    ground: Ground
    journal: Journal
    storm: Storm

    def __post_init__(self) -> None:
        for cloud in self.ground.clouds.values():
            cloud.tick()
        self.rows: list[dict[str, Any]] = self.ground.inventory()
        self.runs = self.journal.runs(GROUP)
        self.group = self.journal.group(GROUP)
        self.events = self.journal.events(group=GROUP)
        self.attempts = {run.id: self.journal.attempts(run.id) for run in self.runs}

    def moves(self) -> Iterator[tuple[RunView, list[tuple[int, dict[str, Any]]]]]:
        """Each run with the lifecycle events of its chain, numbered in their order."""
        for run in self.runs:
            yield (
                run,
                [
                    (event.sequence, event.body)
                    for event in self.events
                    if event.chain == run.id and event.kind == "moved"
                ],
            )


def one_active_side(facts: Facts) -> Found:
    """1: at most one side is active, in the witness, in the journal, and by what really runs."""
    serving = sorted(
        name
        for name in ("home", "away")
        for guest in guests_of(facts.ground.clouds[name])
        if guest["role"] == "db" and DATABASE_PORT in guest["ports"]
    )
    fenced = {site for site, fence in facts.group.fences.items() if fence["state"] == "fenced"}
    if len(set(serving)) > 1 and fenced & set(serving):
        yield f"databases serve on {', '.join(serving)} though {', '.join(sorted(fenced))} is fenced"


def intent_before_effect(facts: Facts) -> Found:
    """Every thing in the clouds that carries an attempt's mark has that attempt in the journal."""
    known = {attempt.token for found in facts.attempts.values() for _, attempt in found}
    for row in facts.rows:
        if row["tags"].get("drpilot:attempt") not in (None, *known):
            yield f"{row['kind']} {row['id']} on {row['site']} has no intent"


def nothing_twice(facts: Facts) -> Found:
    """8: nothing exists twice."""
    yield from (f"twice: {text}" for text in census.duplicates(facts.rows))


def chains_verify(facts: Facts) -> Found:
    """12: the chain of every run verifies."""
    for name in [*(run.id for run in facts.runs), f"group:{GROUP}"]:
        try:
            chain.verify(name, facts.journal.events(run=name))
        except DrpilotError as error:
            yield f"chain of {name}: {error}"


def events_rebuild_states(facts: Facts) -> Found:
    """15: replaying the events gives the states of the rows."""
    for run in facts.runs:
        states = chain.replay(facts.journal.events(run=run.id))
        if states.get(("run", run.name)) != run.state:
            yield f"{run.name} is {run.state}, its events say {states.get(('run', run.name))}"
        for path, step in run.steps.items():
            said = states.get(("step", f"{run.name}:{path}"), "pending")
            quiet = {said, step.state} <= {
                "waiting",
                "unknown",
            }  # a look that changes nothing is not an event
            if said != step.state and not quiet:
                yield f"{run.name}:{path} is {step.state}, its events say {said}"
    states = chain.replay(facts.events)
    for point in facts.journal.points(GROUP, deleted=True):
        if states.get(("point", point.id)) != point.state:
            yield f"point {point.id} is {point.state}, its events say {states.get(('point', point.id))}"
    if states.get(("group", GROUP), facts.group.state) != facts.group.state:
        yield f"the group is {facts.group.state}, its events say {states.get(('group', GROUP))}"


def epochs_rise(facts: Facts) -> Found:
    """2: the epoch in the witness strictly rises, once a change, and the journal's is never above it."""
    seen = facts.storm.claims
    for before, after in pairwise(seen):
        same_change = (before["epoch"], before["active"]) == (after["epoch"], after["active"])
        if after["epoch"] < before["epoch"] or (after["epoch"] == before["epoch"] and not same_change):
            yield f"the witness went from {before} to {after}"
        if before.get("run") and after.get("run") not in (None, before["run"]):
            yield f"{after['run']} took the claim of {before['run']}"
    if seen and facts.group.epoch > seen[-1]["epoch"]:
        yield f"the journal knows epoch {facts.group.epoch}, the witness {seen[-1]['epoch']}"


def witness_agrees(facts: Facts) -> Found:
    """1: when nothing moves, the witness and the journal name the same active side, and no claim is left open."""
    if not facts.storm.claims or facts.group.state not in ("protected", "degraded", "active_unprotected"):
        return
    claim = facts.storm.claims[-1]
    if claim["active"] != facts.group.active or claim.get("run"):
        yield f"the group is {facts.group.state} on {facts.group.active}, the witness says {claim}"


def fence_before_promote(facts: Facts) -> Found:
    """3: nothing of the target is promoted before the run's fence verdict is recorded."""
    for run, moved in facts.moves():
        verdict = next(
            (n for n, body in moved if body["family"] == "fence" and body["event"] in _VERDICTS), None
        )
        for number, body in moved:
            step = body["key"].partition(":")[2]
            promotes = (
                body["family"] == "step" and body["event"] == "attempt started" and _is_promotion(run, step)
            )
            if promotes and (verdict is None or number < verdict):
                yield f"{run.name}: {step} began before the fence's verdict"


def no_cleanup_before_commit(facts: Facts) -> Found:
    """4: a move destroys nothing on the side it leaves."""
    for work, site, _, operation in facts.storm.calls:
        if work is None or work.mode not in MOVES or operation not in _DESTROYING:
            continue
        run = next(one for one in facts.runs if one.id == work.run)
        if site == run.plan.source and work.kind == "do":
            yield f"{run.name}: {operation} on {site} by {work.action}"


def traffic_after_verify(facts: Facts) -> Found:
    """5: users are sent to the target only after each tier was found healthy there."""
    for run, moved in facts.moves():
        if run.mode not in MOVES:
            continue
        checks = {path for path, step in run.steps.items() if step.planned.action == "check.tier"}
        for _, body in moved:
            step = body["key"].partition(":")[2]
            if (
                body["family"] == "step"
                and step in checks
                and body["to"] in ("succeeded", "warned", "skipped")
            ):
                checks.discard(step)
            begun = body["family"] == "step" and body["event"] == "attempt started"
            if begun and run.steps[step].planned.action == "traffic.switch" and checks:
                yield f"{run.name}: traffic went before {', '.join(sorted(checks))}"


def last_points_stay(facts: Facts) -> Found:
    """6: the last available point of a side is never deleted, nor the last proven one."""
    states: dict[str, str] = {}
    sites = {point.id: point.site for point in facts.journal.points(GROUP, deleted=True)}
    for event in facts.events:
        if event.kind != "moved" or event.body["family"] != "point" or event.body["key"] not in sites:
            continue
        key, was = event.body["key"], states.get(event.body["key"], "")
        states[key] = event.body["to"]
        if event.body["event"] != "expire" or was not in ("available", "proven"):
            continue
        left = [
            one
            for one, word in states.items()
            if word in ("available", "proven") and sites[one] == sites[key]
        ]
        if not left:
            yield f"point {key}, the last one on {sites[key]}, was deleted"


def one_live_run_a_lane(facts: Facts) -> Found:
    """7: in one lane one run lives at a time."""
    for lane in {run.lane for run in facts.runs}:
        spans = sorted(
            (run.created_at, run.ended_at, run.name)
            for run in facts.runs
            if run.lane == lane and run.ended_at
        )
        for (_, ended, one), (began, _, other) in pairwise(spans):
            if ended is not None and began < ended:
                yield f"{one} and {other} lived at once in lane {lane}"


def drills_touch_nothing_else(facts: Facts) -> Found:
    """10: a drill changes nothing on the active side and no name."""
    for work, site, service, operation in facts.storm.calls:
        if work is None or work.mode != "drill":
            continue
        run = next(one for one in facts.runs if one.id == work.run)
        if site == run.plan.source or service == "route53":
            yield f"{run.name}: {service}.{operation} on {site} by {work.action}"


def drills_leave_nothing(facts: Facts) -> Found:
    """9: nothing that a drill made is left when it has ended."""
    drills = {run.id: run.name for run in facts.runs if run.mode == "drill" and run.state == "finished"}
    for row in facts.rows:
        ended = row["row"].get("State") in ("terminated", "deleted") or (
            isinstance(row["row"].get("State"), dict)
            and row["row"]["State"].get("Name") in ("terminated", "shutting-down")
        )
        if row["tags"].get("drpilot:run") in drills and not ended:
            yield f"{row['kind']} {row['id']} on {row['site']} is left of {drills[row['tags']['drpilot:run']]}"


def orders_have_authors(facts: Facts) -> Found:
    """11: every order carries who gave it, and a skip why."""
    for event in facts.events:
        if event.kind == "request" and not event.body.get("by"):
            yield f"an order {event.body.get('request')} of nobody"
        if event.kind == "request" and event.body.get("request") == "skip" and not event.body.get("comment"):
            yield "a skip without a comment"


def invalidated_stays(facts: Facts) -> Found:
    """13: a side that was given up is not active again without reprotect."""
    if facts.group.active in facts.group.invalidated:
        yield f"{facts.group.active} is active and invalidated"


def approvals_bind(facts: Facts) -> Found:
    """14: every approval is of the very proposal of its run, and a gate counts each person once."""
    for run in facts.runs:
        for approval in run.approvals:
            if run.proposal is not None and approval.digest != run.proposal.digest:
                yield f"{run.name}: {approval.person} approved something else"
        go = [one.person for one in run.approvals if one.gate == "go" and not one.declined]
        promoted = any(_is_promotion(run, path) and step.attempt for path, step in run.steps.items())
        if promoted and run.proposal is not None and len(set(go)) < run.proposal.approvers:
            yield f"{run.name} went on with {len(set(go))} of {run.proposal.approvers} approvals"


def the_lab_is_sound(facts: Facts) -> Found:
    """No call and no timer of a simulated cloud ended in an error of its own: what it says can be believed."""
    for name, cloud in facts.ground.clouds.items():
        yield from (f"{name}: {text.splitlines()[-1]}" for text in cloud.errors)


INVARIANTS: tuple[Callable[[Facts], Found], ...] = (
    one_active_side,
    witness_agrees,
    epochs_rise,
    fence_before_promote,
    no_cleanup_before_commit,
    traffic_after_verify,
    last_points_stay,
    one_live_run_a_lane,
    nothing_twice,
    drills_leave_nothing,
    drills_touch_nothing_else,
    orders_have_authors,
    chains_verify,
    invalidated_stays,
    approvals_bind,
    events_rebuild_states,
    intent_before_effect,
    the_lab_is_sound,
)


def broken(facts: Facts) -> list[str]:
    """Every invariant that does not hold, and how."""
    return [f"{invariant.__name__}: {text}" for invariant in INVARIANTS for text in invariant(facts)]


def _is_promotion(run: RunView, path: str) -> bool:
    step = run.steps.get(path)
    return run.mode in MOVES and step is not None and step.planned.action in _PROMOTING
