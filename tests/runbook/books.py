"""Small runbooks and a small catalogue for the compiler's tests."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from drpilot.domain.group import Group, Instance, Objectives, ScalingGroup, Tier, Volume
from drpilot.domain.plan import Plan
from drpilot.domain.ports import Model
from drpilot.runbook.compile import ActionFacts, CompileFacts, check


class Nothing(Model):
    """No input."""


class OfSite(Model):
    """A role."""

    site: str


class OfTier(Model):
    """A tier by name."""

    tier: str
    point: str = ""
    volumes: tuple[str, ...] = ()
    count: Annotated[int, Field(ge=0, le=9)] = 0
    options: dict[str, Any] = Field(default_factory=dict)


def action(name: str, given: type[Model], *output: str, idempotency: str = "observe", effect: str = "change") -> ActionFacts:  # fmt: skip
    """Facts of an action."""
    return ActionFacts(name, idempotency, effect, name.startswith("fence"), given, output)


CATALOGUE = {
    facts.name: facts
    for facts in (
        action("check.target", Nothing, "free", idempotency="pure", effect="none"),
        action("check.tier", OfTier, "address"),
        action("point.restore", OfTier, "volumes", "size"),
        action("standby.grow", OfTier, "ids"),
        action("fence.apply", OfSite, "verdict"),
        action("traffic.switch", Nothing, "record", idempotency="rerun"),
        action("core.shell", OfTier, "code", idempotency="once"),
        action("point.expire", Nothing, "gone", effect="destroy"),
    )
}

VOLUMES = tuple(
    Volume(f"db-1/dev/sd{letter}", f"vol-{letter}", f"/dev/sd{letter}", 8, "gp3") for letter in "fgh"
)
MEMBER = Instance(
    "db-1", "i-1", "m5.large", "z1", "subnet-1", "ami-1", "running", volumes=VOLUMES, key_pair="${{ evil }}"
)
GROUP = Group(
    "shop",
    "home",
    "away",
    Objectives(900, 1800),
    (
        Tier("db", instances=(MEMBER,)),
        Tier("app", scaling_group=ScalingGroup("shop-app", "ami-2", "t3.small", 1, 4, 2)),
        Tier("web"),
    ),
)
FACTS = CompileFacts(GROUP, "failover", "move", "home", "away", "p-1", reason="INC-1")

HEAD = "drpilot: 1\nrunbook: test-book\npurpose: drill\nsteps:\n"


def book(*steps: str, head: str = HEAD) -> str:
    """A runbook whose steps begin in line 5, one a line."""
    return head + "\n".join(f"  - {step}" for step in steps) + "\n"


def planned(*steps: str, head: str = HEAD, facts: CompileFacts = FACTS) -> Plan:
    """The plan of steps that must be right and give no warning."""
    checked = check(book(*steps, head=head), "t.yaml", facts, CATALOGUE)
    assert checked.findings == ()
    assert checked.plan is not None
    return checked.plan


def found(*steps: str, head: str = HEAD, facts: CompileFacts = FACTS) -> list[str]:
    """Findings as `line:column: message`, warnings with a `!`."""
    checked = check(book(*steps, head=head), "t.yaml", facts, CATALOGUE)
    marks = {"error": "", "warning": "!"}
    assert (checked.plan is None) == any(finding.severity == "error" for finding in checked.findings)
    return [
        f"{marks[finding.severity]}{finding.where.removeprefix('t.yaml:')}: {finding.message}"
        for finding in checked.findings
    ]


def needs(plan: Plan) -> dict[str, list[str]]:
    """Needs by path."""
    return {step.path: list(step.needs) for step in plan.steps}


A = "{id: a, action: check.target}"
EACH = 'id: each, foreach: {items: "${{ group.tiers }}", as: tier, key: "${{ tier.name }}", max_items: 9'
