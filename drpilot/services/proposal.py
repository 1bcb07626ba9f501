"""What a person needs to decide, as one object: everything that was looked up for a run that may begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from drpilot.domain.burst import BurstOffer
from drpilot.domain.fence import Verdict
from drpilot.domain.group import Group, Tier
from drpilot.domain.plan import Plan, Proposal, Sight
from drpilot.domain.point import RecoveryPoint, loss_s
from drpilot.journal.history import recoveries
from drpilot.journal.views import GroupView
from drpilot.services.bursting import BurstAsking
from drpilot.services.house import House, Look
from drpilot.services.hysteresis import contradictions
from drpilot.services.modes import Mode
from drpilot.services.prediction import predict

__all__ = ["CONSENT_S", "Asking", "Case", "proposal_of"]

CONSENT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Asking:
    """What the person asked for beside the group."""

    reason: str = ""
    point: str | None = None
    since: datetime | None = None
    to: str | None = None
    break_glass: str | None = None
    burst: BurstAsking | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """What a proposal is made of: the mode, the group, its plan, the point, what was asked for and seen."""

    mode: Mode
    view: GroupView
    group: Group
    plan: Plan
    point: RecoveryPoint | None
    asking: Asking
    looks: Mapping[str, Look]
    burst: BurstOffer | None = None


def proposal_of(house: House, case: Case) -> Proposal:
    """The proposal of a case, with what the journal and the witness say added."""
    mode, plan, now = case.mode, case.plan, house.clock.now()
    source_look = case.looks.get(plan.source)
    since = _since(house, case, now)
    loss, exact = loss_s(case.point, since, now) if mode.asks_loss and case.point else (None, True)
    foretold = _foretold(mode, source_look)
    no_way_back = next(
        ((number, step.path) for number, step in enumerate(plan.steps, 1) if step.no_way_back), None
    )
    rto_s, samples = predict(plan, recoveries(house.journal, case.view.name))
    asks = mode.approvals is not None
    return Proposal(
        group=case.view.name,
        mode=mode.name,
        source=plan.source,
        target=plan.target,
        runbook=plan.runbook,
        plan=plan.digest,
        steps=len(plan.steps),
        lane=plan.lane,
        reason=case.asking.reason,
        created_at=now,
        expires_at=now + timedelta(seconds=CONSENT_S),
        approvers=_approvers(case, foretold) if asks else 0,
        point=case.point.id if case.point else None,
        point_at=case.point.captured_at if case.point else None,
        point_state=case.point.state if case.point else None,
        since=since,
        loss_s=loss,
        loss_exact=exact,
        fence=foretold,
        rto_s=rto_s,
        rto_samples=samples,
        rto_objective_s=case.group.objectives.rto_s,
        rpo_objective_s=case.group.objectives.rpo_s,
        seen=_seen(house, case, now),
        stops=_stops(house, case),
        starts=_starts(case),
        no_way_back=no_way_back[1] if no_way_back else None,
        no_way_back_number=no_way_back[0] if no_way_back else None,
        break_glass=case.asking.break_glass,
        warnings=_warnings(case, source_look),
        data_path=_carried(house, plan),
        burst=case.burst,
    )


def _since(house: House, case: Case, now: datetime) -> datetime | None:
    if not case.mode.asks_loss:
        return None
    if case.asking.since is not None:
        return case.asking.since
    look = case.looks.get(case.plan.source)
    if look is not None and look.alive:
        return now
    known = house.journal.site(case.plan.source)
    seen_at = known.last_seen_at if known is not None else None
    captured_at = case.point.captured_at if case.point is not None else None
    if seen_at is not None and captured_at is not None and seen_at < captured_at:
        return None  # it lived when the point was captured; how long after is not known: "at most" the point's age
    return seen_at


def _foretold(mode: Mode, look: Look | None) -> Verdict | None:
    if not mode.looks:
        return None
    return Verdict.FENCED if look is not None and look.answers else Verdict.UNVERIFIED


def _approvers(case: Case, foretold: Verdict | None) -> int:
    assert case.mode.approvals is not None
    wanted: int = max(case.mode.at_least, getattr(case.group.approvals, case.mode.approvals))
    if case.asking.break_glass is not None:
        return 1
    return max(wanted, 2) if foretold is Verdict.UNVERIFIED else wanted


def _seen(house: House, case: Case, now: datetime) -> tuple[Sight, ...]:
    lines = []
    for look in case.looks.values():
        expected_dead = case.mode.name == "failover" and look.site == case.plan.source
        verdict = "ok" if look.answers else ("warning" if expected_dead else "bad")
        lines.append(Sight(look.site, verdict, look.detail, now))
    if case.looks:
        lines.append(_witness_sight(house, case, now))
    if case.view.state == "split_suspected":
        lines += [Sight("split", "bad", why, seen_at) for why, seen_at in contradictions(case.view)]
    return tuple(lines)


def _witness_sight(house: House, case: Case, now: datetime) -> Sight:
    try:
        claim, _ = house.world.witness().read(case.view.name)
    except Exception as error:  # noqa: BLE001 - a look reports what it saw, whatever that was
        return Sight("witness", "bad", f"can't be read: {error}", now)
    if claim is None:
        return Sight("witness", "ok", f"nothing claimed yet; the journal says epoch {case.view.epoch}", now)
    text = f"epoch {claim.epoch}, active {claim.active}" + (
        f", claimed by run {claim.run}" if claim.run else ""
    )
    agrees = claim.active == case.view.active and claim.run is None
    return Sight("witness", "ok" if agrees else "bad", text, now)


def _stops(house: House, case: Case) -> tuple[str, ...]:
    if case.mode.lane != "move":
        return ()
    live = [run for run in house.journal.runs(case.view.name, live=True) if run.lane != "move"]
    lines = [f"{run.mode} {run.name}" for run in live]
    look = case.looks.get(case.plan.source)
    if look is not None and look.answers:
        lines += [f"tier {tier.name} on {case.plan.source}" for tier in reversed(case.group.tiers)]
    elif look is not None:
        why = f": {look.detail}" if look.refusal else ""
        lines.append(f"nothing else can be stopped on {case.plan.source}{why}")
    return tuple(lines)


def _starts(case: Case) -> tuple[str, ...]:
    """What a move starts, tier by tier; one without a point starts nothing."""
    if case.mode.lane != "move" or case.mode.point == "none":
        return ()
    return tuple(_start_line(tier) for tier in case.group.tiers)


def _start_line(tier: Tier) -> str:
    if tier.scaling_group is not None:
        return f"{tier.name} ×{tier.standby.grow_count or tier.scaling_group.desired}"
    return f"{tier.name} ×{len(tier.instances)}"


def _carried(house: House, plan: Plan) -> str:
    """The path that the bytes of a plan take, where the clouds don't copy by themselves."""
    carries = any(step.action in ("stage.open", "point.adopt", "image.adopt") for step in plan.steps)
    return house.path(plan.source, plan.target).words if carries else ""


def _warnings(case: Case, source_look: Look | None) -> tuple[str, ...]:
    lines = []
    if case.mode.name == "failover" and source_look is not None and source_look.answers:
        lines.append(f"{case.plan.source} answers: drpilot switchover {case.view.name} would lose nothing")
    if case.mode.name == "failover" and source_look is not None and source_look.refusal:
        lines.append(
            f"{case.plan.source} MAY BE ALIVE AND WRITING: what fails are our keys. Mend them first "
            f"(drpilot site check {case.plan.source}), or stop it by hand"
        )
    if case.point is not None and case.point.state != "proven":
        lines.append(f"point {case.point.id} was never booted by a drill")
    return tuple(lines)
