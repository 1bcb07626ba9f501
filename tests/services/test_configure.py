"""What the other side lacks and is made there: security groups with their rules, public keys; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.inventory.grouprules import Rule
from drpilot.inventory.making import Making, making
from drpilot.services.begin import Asking, begin, propose
from drpilot.services.migration import require_surroundings, surroundings
from drpilot.services.partnerlook import partner_checks
from drpilot.services.protect import preview, protect
from tests.actions.test_burst import burst_section
from tests.actions.unlike import UnlikeWorld, opened
from tests.services.shop import Shop

_NAMES = ("shop-db", "shop-app", "shop-web")
_PAIRS = (
    ("aws-euca", "3.4"),
    ("euca-aws", "4.4"),
    pytest.param(("aws-euca", "5"), marks=pytest.mark.slow),
    pytest.param(("euca-aws", "3.4"), marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", params=_PAIRS, ids=" ".join)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A pair of clouds whose other side has none of the shop's security groups."""
    folder = tmp_path_factory.mktemp("configure")
    with opened(folder, *request.param) as unlike:
        house = Shop(unlike.world, folder)
        for name in _NAMES:
            house.call("away", "DeleteSecurityGroup", GroupId=_group(house, name)["GroupId"])
        unlike.world.save()
        yield unlike, house


@pytest.fixture
def bare(whole: tuple[UnlikeWorld, Shop]) -> Iterator[tuple[UnlikeWorld, Shop]]:
    """The same, put back as it was afterwards."""
    yield whole
    whole[0].world.restore()
    whole[1].house.journal.database.close()


def _group(house: Shop, name: str, site: str = "away") -> Any:
    listed = house.call(site, "DescribeSecurityGroups", Filters=[{"Name": "group-name", "Values": [name]}])
    return listed["SecurityGroups"][0]


def _configured(house: Shop) -> Any:
    run = begin(house.house, propose(house.house, "configure", "shop", Asking(reason="a test")), None)
    return house.house.driver().drive(run.id, house.house.holder).view


def _looked_at(house: Shop) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for check in partner_checks(house.house, house.house.journal.group("shop")):
        found.setdefault(check.verdict, set()).add(check.expected)
    return found


LOST = ("CreateSecurityGroup@2", "AuthorizeSecurityGroupIngress@1", "AuthorizeSecurityGroupIngress@4")


def test_groups_are_made_with_the_rules_of_those_they_stand_for(bare: tuple[UnlikeWorld, Shop]) -> None:
    """Refused by `protect`, taken in when asked to make them; with lost replies one of each, and rule by rule alike."""
    unlike, house = bare
    with pytest.raises(DrpilotError):
        protect(house.house, unlike.world.text, "shop.yaml")
    view, plan = protect(house.house, unlike.world.text, "shop.yaml", make_missing=True)
    assert set(plan.made) == {f"security group {name}" for name in _NAMES}
    unlike.world.fault("away", *(f"lost-reply:ec2.{each}" for each in LOST))
    ended = _configured(house)
    assert (ended.state, ended.result) == ("finished", "succeeded")
    assert unlike.world.hits("away") == {"CreateSecurityGroup", "AuthorizeSecurityGroupIngress"}
    unlike.world.heal("away")
    assert "bad" not in _looked_at(house)
    assert "warning" not in _looked_at(house)
    listed = house.call("away", "DescribeSecurityGroups")["SecurityGroups"]
    assert sorted(row["GroupName"] for row in listed if row["GroupName"] in _NAMES) == sorted(_NAMES)
    rules = ended.steps["rules"].output["rules"]
    assert rules == {"shop-db": 3, "shop-app": 2, "shop-web": 1}
    ours = [
        {"Name": "tag:drpilot:group", "Values": ["shop"]},
        {"Name": "tag-key", "Values": ["drpilot:partner"]},
    ]
    pages = unlike.world.sites["away"].pages("ec2", "DescribeSecurityGroups", {"Filters": ours})
    found = [row for page in pages for row in page["SecurityGroups"]]
    assert sorted(row["GroupName"] for row in found) == sorted(
        _NAMES
    )  # by their tags, or by what stands for them
    before = unlike.world.things("away")
    assert _configured(house).result == "succeeded"  # once more: nothing is left to make
    assert unlike.world.things("away") == before
    assert preview(house.house, view.document, "shop.yaml").errors == ()


def test_what_was_made_without_its_rules_is_finished_by_the_next_run(bare: tuple[UnlikeWorld, Shop]) -> None:
    """A run that stopped at the rules leaves groups behind: they are no whole thing, and the next run has them."""
    unlike, house = bare
    view, _ = protect(house.house, unlike.world.text, "shop.yaml", make_missing=True)
    unlike.world.fault("away", "error-5xx:ec2.AuthorizeSecurityGroupIngress@2+")
    stopped = _configured(house)
    assert (stopped.result, stopped.steps["rules"].state) == ("failed", "failed")
    unlike.world.heal("away")
    left = surroundings(house.house, view).making.names
    assert left != ()
    assert all(name.startswith("rules of security group shop-") for name in left)
    assert preview(house.house, view.document, "shop.yaml", make_missing=True).made == left
    ended = _configured(house)
    assert ended.steps["rules"].output["rules"] == {"shop-db": 3, "shop-app": 2, "shop-web": 1}
    assert surroundings(house.house, view).making.names == ()


def test_a_rule_without_meaning_there_is_said_before_anything_is_made(bare: tuple[UnlikeWorld, Shop]) -> None:
    """A group lets in another that the map does not name: refused with the whole list, and nothing was made."""
    unlike, house = bare
    home = _group(house, "shop-db", "home")
    network = {"VpcId": home["VpcId"]} if home.get("VpcId") else {}
    batch = house.call("home", "CreateSecurityGroup", GroupName="batch", Description="batch", **network)
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 5432,
        "ToPort": 5432,
        "UserIdGroupPairs": [{"GroupId": batch["GroupId"]}],
    }
    house.call("home", "AuthorizeSecurityGroupIngress", GroupId=home["GroupId"], IpPermissions=[rule])
    before = unlike.world.things("away")
    with pytest.raises(DrpilotError) as refused:
        protect(house.house, unlike.world.text, "shop.yaml", make_missing=True)
    assert "lets in batch, which has no partner" in str(refused.value.data)
    found = making(unlike.world.look("home"), "home", house.house.site)
    assert found.refused == (
        "security group shop-db: lets in batch, which has no partner under map.security_groups",
    )
    assert unlike.world.things("away") == before


def test_a_missing_key_is_imported_where_its_public_half_is_told(bare: tuple[UnlikeWorld, Shop]) -> None:
    """From AWS the same key stands there afterwards; from Eucalyptus, which tells a fingerprint, a person has to."""
    unlike, house = bare
    house.call("away", "DeleteKeyPair", KeyName="shop-ops")
    if unlike.plan.home != "aws":
        with pytest.raises(DrpilotError) as refused:
            protect(house.house, unlike.world.text, "shop.yaml", make_missing=True)
        assert "home does not tell its public half: import it by hand" in str(refused.value.data)
        return
    view, plan = protect(house.house, unlike.world.text, "shop.yaml", make_missing=True)
    assert "key pair shop-ops" in plan.made
    require_surroundings(view, surroundings(house.house, view))
    unlike.world.fault("away", "lost-reply:ec2.ImportKeyPair@1")
    ended = _configured(house)
    assert (ended.result, ended.steps["keys"].output["keys"]) == ("succeeded", ["shop-ops"])
    assert unlike.world.hits("away") == {"ImportKeyPair"}
    unlike.world.heal("away")
    (there,) = [
        check
        for check in partner_checks(house.house, house.house.journal.group("shop"))
        if "key pair" in check.expected
    ]
    assert there.verdict == "ok"


def test_the_surroundings_of_a_group_are_looked_at_once(
    bare: tuple[UnlikeWorld, Shop], tmp_path: Path
) -> None:
    """By what was taken in, not by a file that stood somewhere then: its user data is gone, and nobody reads it."""
    unlike, house = bare
    first_boot = tmp_path / "first-boot.sh"
    first_boot.write_text("#!/bin/sh\n")
    view, plan = protect(
        house.house, unlike.world.text + burst_section(first_boot), "shop.yaml", make_missing=True
    )
    first_boot.unlink()
    for site in ("home", "away"):
        unlike.world.fault(site, "latency=0:ec2.DescribeKeyPairs")
    found = surroundings(house.house, view)
    looks = {site: unlike.world.clouds[site].faults.rules()[0]["seen"] for site in ("home", "away")}
    assert looks == {"home": 1, "away": 1}
    assert found.making.names == found.preview.made
    assert sorted(found.making.names) == sorted(plan.made)
    said, before = (
        sorted(each.message for each in one.findings if each.word.startswith("partner"))
        for one in (found.preview, plan)
    )
    assert said == before


def test_another_name_is_another_key(bare: tuple[UnlikeWorld, Shop]) -> None:
    """Which key a mapped name of another kind stands for is nobody's guess; a subnet is mapped and never made."""
    unlike, house = bare
    text = unlike.world.text.replace("keys: {shop-ops: shop-ops}", "keys: {shop-ops: shop-elsewhere}")
    with pytest.raises(DrpilotError) as refused:
        protect(house.house, text, "shop.yaml", make_missing=True)
    assert "key pair shop-elsewhere is missing and has another name than shop-ops" in str(refused.value.data)


def test_a_rule_in_the_words_of_the_call() -> None:
    """Ports only where the protocol has some; a group by its id, ranges by their family."""
    ids = {"shop-app": "sg-1"}
    assert Rule("tcp", 5432, 5432, "shop-app", group=True).permission(ids) == {
        "IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432, "UserIdGroupPairs": [{"GroupId": "sg-1"}],
    }  # fmt: skip
    assert Rule("-1", -1, -1, "10.0.0.0/8").permission(ids) == {
        "IpProtocol": "-1",
        "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
    }
    assert Rule("-1", -1, -1, "::/0").permission(ids)["Ipv6Ranges"] == [{"CidrIpv6": "::/0"}]
    assert Making().names == ()
