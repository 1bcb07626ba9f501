"""`site check`: what drpilot may do is asked by DryRun of every changing call the actions name, and nothing is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import botocore.session
import pytest
from botocore.validate import ParamValidator

from drpilot.actions.catalogue import CATALOGUE, permissions
from drpilot.cli import sites
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError, FailureClass, Site
from drpilot.inventory.configuration import WitnessSettings
from drpilot.services.checked import Checked
from drpilot.services.permissions import NOT_ASKED, QUESTIONS, needed
from drpilot.services.permissions import permissions as asked
from drpilot.services.protect import protect
from drpilot.services.sitecheck import inspect_site
from tests.actions.world import opened
from tests.cli.desk import Desk
from tests.services.shop import Shop

EC2 = botocore.session.get_session().get_service_model("ec2")
LOOKS = ("Describe", "Get", "List")
CHANGING = sorted(
    item.removeprefix("ec2:")
    for item in permissions(CATALOGUE)
    if item.startswith("ec2:") and not item.removeprefix("ec2:").startswith(LOOKS)
)


def test_every_changing_call_of_the_actions_is_asked() -> None:
    """Whatever an action needs of EC2 and EC2's model gives a DryRun has its question."""
    able = {name for name in CHANGING if "DryRun" in EC2.operation_model(name).input_shape.members}
    assert able <= set(QUESTIONS)
    assert len(able) > 25


@pytest.mark.parametrize("operation", QUESTIONS)
def test_a_question_is_one_that_the_cloud_can_read(operation: str) -> None:
    """The parameters fit EC2's model, so that an answer is about the permission."""
    shape = EC2.operation_model(operation).input_shape
    assert not ParamValidator().validate({**QUESTIONS[operation], "DryRun": True}, shape).has_errors()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop at home, taken in."""
    folder = tmp_path_factory.mktemp("permissions")
    with opened(folder) as world:
        made = Shop(world, folder)
        protect(made.house, world.text, "shop.yaml")
        yield made


@pytest.fixture
def shop(whole: Shop) -> Iterator[Shop]:
    """The same shop; permissions are given back afterwards."""
    yield whole
    for cloud in whole.world.clouds.values():
        cloud.tune(denied=[])


def _named(checks: tuple[Checked, ...]) -> dict[str, str]:
    return {one.name: one.verdict for one in checks}


def test_everything_is_asked_and_nothing_is_done(shop: Shop) -> None:
    """Allowed on both sides, and not a thing more or less stands there; what DryRun can't ask is named once."""
    for name in ("home", "away"):
        before = shop.world.things(name)
        checks = inspect_site(shop.house, name)
        assert shop.world.things(name) == before
        found = _named(checks)
        assert {found[f"ec2:{operation}"] for operation in CHANGING} == {"ok"}
        (untold,) = [one.observed for one in checks if one.name == NOT_ASKED]
        assert {"iam:PassRole", "autoscaling:UpdateAutoScalingGroup"} <= set(untold.split(", "))
        assert "Describe" not in untold
        assert "s3:" not in untold


def test_a_permission_that_is_missing_is_named(shop: Shop) -> None:
    """Each denied call is a finding with its name; `site check` ends with 3."""
    shop.world.clouds["away"].tune(denied=["ec2.RunInstances", "ec2.CopySnapshot"])
    wrong = [one for one in inspect_site(shop.house, "away") if one.verdict != "ok"]
    assert [(one.name, one.verdict, one.word) for one in wrong] == [
        ("ec2:CopySnapshot", "bad", "permission-missing"),
        ("ec2:RunInstances", "bad", "permission-missing"),
    ]
    assert all(one.name in one.hint for one in wrong)
    desk = Desk(shop.house)
    said = desk(sites.site_check, name="away", output="json")
    assert said.code == 3
    assert "iam:PassRole" in said.document["not_asked"]
    shop.world.clouds["away"].tune(denied=[])
    said = desk(sites.site_check, name="away")
    assert said.code == 0
    assert "not told by DryRun:" in said.out


def test_a_third_place_is_asked_for_what_it_is_for(shop: Shop) -> None:
    """Where only the name and the witness are, nothing is asked of machines; a side that has the name has both."""
    assert {item.split(":")[0] for item in needed(shop.house, "edge")} == {"route53", "s3"}
    assert all(not one.name.startswith("ec2:") for one in inspect_site(shop.house, "edge"))
    assert "s3:PutObject" not in needed(shop.house, "away")
    assert "ec2:RunInstances" in needed(shop.house, "away")
    witness = WitnessSettings("away", "b")
    shop.house.configuration = replace(shop.house.configuration, witness=witness)
    try:
        assert {"s3:PutObject", "ec2:RunInstances"} <= set(needed(shop.house, "away"))
    finally:
        shop.house.configuration = replace(shop.house.configuration, witness=None)


class _Answering:
    """A site that answers each DryRun in one way; looks go to the real one."""

    def __init__(self, site: Site, kind: FailureClass | None, code: str, keeps: str = "") -> None:
        self._site, self._kind, self._code, self._keeps = site, kind, code, keeps
        self.name, self.region, self.account = site.name, site.region, site.account
        self.capabilities = site.capabilities
        self.asked: list[str] = []

    def call(self, service: str, operation: str, params: Json, *, token: str | None = None) -> Json:
        if not params.get("DryRun") or operation == self._keeps:
            return self._site.call(service, operation, params, token=token)
        self.asked.append(operation)
        if self._kind is None:
            return {}
        raise CloudError(self._kind, self._code, "no", happened="no")

    def pages(self, service: str, operation: str, params: Json) -> Iterator[Json]:
        return self._site.pages(service, operation, params)


def test_a_cloud_that_would_do_it_is_not_asked_further(shop: Shop) -> None:
    """One that calls the deletion of nothing a success does not know DryRun: one unknown, and no other question."""
    liar = _Answering(shop.world.sites["away"], None, "")
    checks = list(asked(liar, needed(shop.house, "away")))
    assert [(one.name, one.verdict) for one in checks] == [("permissions", "unknown")]
    assert liar.asked == ["DeleteKeyPair"]


def test_an_answer_that_is_neither_is_not_taken_for_one(shop: Shop) -> None:
    """No such instance: that says nothing of the permission, is named among what was not told, and is no finding."""
    vague = _Answering(
        shop.world.sites["away"], FailureClass.NOT_FOUND, "InvalidInstanceID.NotFound", "DeleteKeyPair"
    )
    checks = list(asked(vague, needed(shop.house, "away")))
    assert [one.name for one in checks] == [NOT_ASKED]
    assert "ec2:StopInstances" in checks[0].observed


def test_no_answer_is_unknown_each(shop: Shop) -> None:
    """A site that falls silent meanwhile leaves what it did not answer unknown."""
    silent = _Answering(shop.world.sites["away"], FailureClass.TIMEOUT, "ReadTimeoutError", "DeleteKeyPair")
    found = _named(tuple(asked(silent, needed(shop.house, "away"))))
    assert found["ec2:StopInstances"] == "unknown"
    assert "bad" not in found.values()


def test_a_table_that_holds_the_witness_is_asked_for_its_items_alone(shop: Shop) -> None:
    """A third place with a DynamoDB table needs two permissions more, and none for a bucket."""
    witness = WitnessSettings("edge", table="claims")
    shop.house.configuration = replace(shop.house.configuration, witness=witness)
    try:
        assert {"dynamodb:GetItem", "dynamodb:PutItem"} <= set(needed(shop.house, "edge"))
        assert not [one for one in needed(shop.house, "edge") if one.startswith("ec2:")]
        assert not [one for one in needed(shop.house, "away") if one.startswith("dynamodb:")]
    finally:
        shop.house.configuration = replace(shop.house.configuration, witness=None)
