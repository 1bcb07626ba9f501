"""What people see, kept as files: each screen is read by a person before it changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from drpilot.cli import look, protecting, sites, steer
from drpilot.cli.screen import screen
from drpilot.domain.fence import Verdict
from drpilot.domain.plan import Sight
from tests.cli.conftest import live
from tests.cli.desk import Desk, golden
from tests.services.world import Tiny, failover_plan


def test_status_without_a_group(tiny: Tiny, desk: Desk) -> None:
    """A new installation says what to do first."""
    from drpilot.journal.tables import GroupRow

    tiny.journal.database.write(lambda session: session.delete(session.get_one(GroupRow, "shop")))
    said = desk(look.status)
    assert said.code == 0
    golden("status-empty", said.out)


@pytest.mark.parametrize(
    ("name", "function", "values"),
    [
        ("status", look.status, {}),
        ("status-group", look.status, {"group": "shop"}),
        ("run-list", look.run_list, {}),
        ("run-show-drill", look.run_show, {"run": "shop/2"}),
        ("run-show-failed", look.run_show, {"run": "shop/4"}),
        ("point-list", look.point_list, {"group": "shop"}),
        ("report-failed-drill", look.report_show, {"run": "shop/4"}),
        ("group-list", protecting.group_list, {}),
        ("site-list", sites.site_list, {}),
        ("explain-error", look.explain, {"word": "DRP-4003"}),
        ("explain-state", look.explain, {"word": "awaiting_commit"}),
        ("explain-word", look.explain, {"word": "fence"}),
        ("explain-exit-code", look.explain, {"word": "5"}),
    ],
)
def test_screens(lived: Tiny, name: str, function, values) -> None:
    """A looking command writes its result to stdout alone, and it is the one kept."""
    said = Desk(lived.house)(function, **values)
    assert (said.code, said.err) == (0, "")
    golden(name, said.out)


def test_a_failover_as_status_tells_it(tiny: Tiny) -> None:
    """Waiting for a second person, awaiting commit, committed, committed already."""
    live(tiny)
    desk = Desk(tiny.house)
    run = tiny.failover(approvers=2, fence=Verdict.UNVERIFIED)
    assert run.state == "waiting"
    waiting = desk(look.status)
    assert "next: drpilot run approve shop" in waiting.out
    golden("status-waiting", waiting.out)
    second = replace(tiny.fresh(9), person="second", account="second")
    approved = Desk(second)(steer.approve, run="shop", confirm="shop")
    assert approved.code == 0
    golden("approve", approved.err + "--- stdout\n" + approved.out)
    golden("status-awaiting-commit", desk(look.status).out)
    committed = desk(steer.commit, group="shop")
    assert committed.code == 0
    golden("commit", committed.err + "--- stdout\n" + committed.out)
    again = desk(steer.commit, group="shop", output="json")
    assert (again.code, again.document["result"]) == (0, "already_committed")
    golden("status-unprotected", desk(look.status).out)


def test_the_lab_is_marked(lived: Tiny) -> None:
    """Everything the lab says begins with LAB, and the next command carries --lab."""
    desk = Desk(lived.house, lab=True)
    said = desk(look.run_list)
    assert said.out.startswith("LAB  RUN")
    assert said.out.rstrip().endswith("--lab")
    golden("lab-run-list", said.out)
    assert desk(look.run_list, output="json").document["lab"] is True


def test_the_screen_that_decides(lived: Tiny) -> None:
    """Every fact of a proposal is on the one screen."""
    plan = failover_plan(lived.newest())
    now = lived.clock.now()
    proposal = lived.proposal(
        plan,
        approvers=2,
        fence=Verdict.UNVERIFIED,
        loss_s=604.2,
        since=now - timedelta(minutes=26),
        rto_s=660.0,
        rto_samples=6,
        point_state="proven",
        stops=("replicate shop/3", "nothing else can be stopped on home"),
        starts=("db ×1", "web ×2"),
        no_way_back="traffic",
        no_way_back_number=10,
        seen=(
            Sight("home", "warning", "connection refused", now - timedelta(seconds=9)),
            Sight("away", "ok", "answers as operator", now),
            Sight("witness", "bad", "epoch 4, active away", now),
        ),
        warnings=("point was never booted by a drill",),
    )
    golden("screen", "\n".join(screen(proposal, now, people=("second", "lead"))) + "\n")
    quiet = proposal.renewed(loss_s=None, fence=Verdict.FENCED, approvers=1, seen=(), warnings=(), stops=())
    golden("screen-switchover", "\n".join(screen(quiet.renewed(mode="switchover"), now)) + "\n")
    split = Sight("split", "bad", "home was seen fenced, yet i-1 run there while away runs too", now)
    naming = quiet.renewed(
        mode="survivor",
        approvers=2,
        starts=(),
        no_way_back=None,
        seen=(*proposal.seen[:1], split),
        fence=Verdict.FENCED,
    )
    golden("screen-survivor", "\n".join(screen(naming, now, people=("second",))) + "\n")


def test_the_loss_shown_is_enough_when_typed_back(lived: Tiny) -> None:
    """The loss on the screen is rounded up, so that typing it is never refused."""
    from drpilot.base.units import ceiling_duration, parse_duration

    for loss in (0.0, 0.4, 59.96, 84.3156, 3599.5, 3600.2, 5665.7, 86_399.9, 90_061.3, 700_000.5):
        assert parse_duration(ceiling_duration(loss)) >= loss, loss
        assert parse_duration(ceiling_duration(loss)) - loss < 3601
