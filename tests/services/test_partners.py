"""What the group file names on the other side, broken one thing at a time in the lab: `protect` refuses it at its place
in the file, and `check` finds it on a group that was protected while all was well.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError, Finding
from drpilot.cli import look as looking
from drpilot.cli import protecting
from drpilot.domain.ports import CloudError
from drpilot.services.check import check
from drpilot.services.partnerlook import partner_checks
from drpilot.services.protect import preview, protect
from tests.actions.world import opened
from tests.cli.desk import Desk
from tests.services.shop import Shop


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop at home, taken in; nothing was replicated yet."""
    folder = tmp_path_factory.mktemp("partners")
    with opened(folder) as world:
        made = Shop(world, folder)
        protect(made.house, world.text, "shop.yaml")
        world.save()
        yield made


@pytest.fixture
def shop(whole: Shop) -> Iterator[Shop]:
    """The same shop, put back as it was afterwards."""
    yield whole
    whole.world.restore()
    for cloud in whole.world.clouds.values():
        cloud.tune(not_offered=[], instance_profiles=None, denied=[])


# -- breaking one thing ----------------------------------------------------------------------------------


def _subnet(shop: Shop) -> None:
    first = min(shop.house.journal.group("shop").group.map.subnets.values())
    shop.call("away", "DeleteSubnet", SubnetId=first)


def _group(shop: Shop) -> None:
    listed = shop.call(
        "away", "DescribeSecurityGroups", Filters=[{"Name": "group-name", "Values": ["shop-db"]}]
    )
    shop.call("away", "DeleteSecurityGroup", GroupId=listed["SecurityGroups"][0]["GroupId"])


def _key(shop: Shop) -> None:
    shop.call("away", "DeleteKeyPair", KeyName="shop-ops")


def _other_key(shop: Shop) -> None:
    _key(shop)
    blob = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 " + bytes(range(32)))
    shop.call("away", "ImportKeyPair", KeyName="shop-ops", PublicKeyMaterial=b"ssh-ed25519 " + blob)


def _offered(*names: str) -> Callable[[Shop], None]:
    def tune(shop: Shop) -> None:
        shop.world.clouds["away"].tune(not_offered=list(names))

    return tune


BREAKS: tuple[tuple[str, Callable[[Shop], None], str, str, str], ...] = (
    ("subnet", _subnet, "bad", "is not on away", "map.subnets"),
    ("security group", _group, "bad", "security group shop-db is not in vpc-", "map.security_groups.shop-db"),
    ("key pair", _key, "bad", "key pair shop-ops is not on away", "map.keys.shop-ops"),
    ("another key", _other_key, "warning", "is another key than shop-ops", "map.keys.shop-ops"),
    ("mapped type", _offered("t3.medium"), "bad", "type t3.medium is not offered on away", "map.types.t3.medium"),
    ("size", _offered("t3.small"), "bad", "type t3.small is not offered on away", "tiers.db.standby.size"),
    ("spare", _offered("r5.large"), "bad", "type r5.large is not offered on away", "tiers.db.standby.otherwise.1"),
    ("grow, in its zone", _offered("eu-west-1a/m5.large"), "bad", "m5.large is not offered in eu-west-1a",
     "tiers.db.standby.grow"),
    ("spare, in its zone", _offered("eu-west-1a/r5.large"), "warning", "r5.large is not offered in eu-west-1a",
     "tiers.db.standby.otherwise.1"),
)  # fmt: skip


def _spot(text: str, path: str) -> str:
    """Line and column of what a path names, found by its words."""
    parts = path.split(".", 1)[1] if path.startswith("map.") else path
    kind = parts.split(".", 1)[0]
    lines = text.splitlines()
    if path.startswith("map."):
        (row,) = [n for n, line in enumerate(lines) if line.strip().startswith(f"{kind}:")]
        name = parts.partition(".")[2]
        return f"shop.yaml:{row + 1}:{lines[row].index(name + ':') + 1 if name else ''}"
    (row,) = [n for n, line in enumerate(lines) if "standby: {size" in line]
    word = {"size": "size:", "grow": "grow:", "1": "r5.large"}[path.rsplit(".", 1)[1]]
    return f"shop.yaml:{row + 1}:{lines[row].index(word) + 1}"


def _of_partners(findings: tuple[Finding, ...]) -> list[Finding]:
    return [one for one in findings if one.word.startswith("partner-") or one.word == "key-unusable"]


@pytest.mark.parametrize(("what", "spoil", "verdict", "said", "path"), BREAKS, ids=[row[0] for row in BREAKS])
def test_what_the_other_side_lacks(
    shop: Shop, what: str, spoil: Callable[[Shop], None], verdict: str, said: str, path: str
) -> None:
    """Each kind is found by `protect` at its place, and by `check`; an error is not taken in, a warning is."""
    text = shop.world.text.replace("group: shop\n", "group: fresh\n")
    assert _of_partners(preview(shop.house, text, "shop.yaml").findings) == []
    assert {one.verdict for one in partner_checks(shop.house, shop.house.journal.group("shop"))} == {"ok"}
    spoil(shop)
    (found,) = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert said in found.message
    assert found.severity == ("error" if verdict == "bad" else "warning")
    assert found.where.startswith(_spot(shop.world.text, path))
    assert found.hint
    wrong = [
        one for one in partner_checks(shop.house, shop.house.journal.group("shop")) if one.verdict != "ok"
    ]
    assert [(one.name, one.verdict, one.finding and one.finding.message) for one in wrong] == [
        ("partners", verdict, found.message)
    ]
    if verdict == "bad":
        with pytest.raises(DrpilotError) as caught:
            protect(shop.house, text, "shop.yaml")
        assert caught.value.word == "document"
        assert found.where in caught.value.why
        assert [view.name for view in shop.house.journal.groups()] == ["shop"]


def _mapped(shop: Shop, kind: str, left: str, right: str) -> str:
    """The file with one more line in its map."""
    return shop.world.text.replace("  keys:", f'  {kind}: {{"{left}": "{right}"}}\n  keys:')


def test_a_key_of_kms_that_is_disabled_or_not_there(shop: Shop) -> None:
    """A mapped KMS key must be enabled; in `check` it has a look of its own."""
    key = shop.call("away", "CreateKey", "kms")["KeyMetadata"]["Arn"]
    text = _mapped(shop, "kms_keys", "alias/shop", key)
    assert _of_partners(preview(shop.house, text, "shop.yaml").findings) == []
    shop.call("away", "DisableKey", "kms", KeyId=key)
    (found,) = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert (found.word, found.severity) == ("key-unusable", "error")
    assert "can't be used: Disabled" in found.message
    (found,) = _of_partners(
        preview(shop.house, _mapped(shop, "kms_keys", "a", "alias/no"), "shop.yaml").findings
    )
    assert "can't be used: missing" in found.message


def test_an_instance_profile_is_looked_for_where_it_may_be_read(shop: Shop) -> None:
    """There, not there, or not told; what is not told is a warning for a person and unknown to `check`."""
    text = _mapped(shop, "profiles", "shop-db", "shop-db-away")
    away = shop.world.clouds["away"]
    assert _of_partners(preview(shop.house, text, "shop.yaml").findings) == []
    away.tune(instance_profiles=["another"])
    (found,) = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert (found.word, found.message) == ("partner-missing", "instance profile shop-db-away is not on away")
    away.tune(denied=["iam.*"])
    (found,) = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert (found.word, found.severity) == ("partner-untold", "warning")
    assert "AccessDenied" in found.message
    view = shop.house.journal.group("shop")
    mapping = replace(view.group.map, profiles={"shop-db": "shop-db-away"})
    checks = list(partner_checks(shop.house, replace(view, group=replace(view.group, map=mapping))))
    assert [(one.name, one.verdict) for one in checks if one.verdict != "ok"] == [
        ("partners (instance profile)", "unknown")
    ]


def test_a_zone_that_is_not_there_and_a_subnet_in_another(shop: Shop) -> None:
    """A misspelt zone is no zone; a subnet must lie in the zone that the map gives its partner's zone."""
    text = shop.world.text.replace("eu-south-1b: eu-west-1b", "eu-south-1b: eu-west-9z")
    zone, subnet = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert zone.message == "zone eu-west-9z is not on away"
    assert (subnet.word, subnet.severity) == ("partner-differs", "error")
    assert "is in eu-west-1b, map.zones says eu-west-9z" in subnet.message
    row, column = (int(part) for part in subnet.where.split(":")[1:])
    assert text.splitlines()[row - 1][column - 1 :].startswith("subnet-")


def test_a_hosted_zone_that_is_not_there_or_of_another_name(shop: Shop) -> None:
    """The traffic's zone is asked for at the traffic's site, and has to hold the name."""
    view = shop.house.journal.group("shop")
    assert view.group.traffic is not None
    zone = view.group.traffic.zone
    text = shop.world.text.replace(zone, "Z00000000000NO")
    (found,) = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert found.message == "hosted zone Z00000000000NO is not on edge"
    line = text.splitlines()[int(found.where.split(":")[1]) - 1]
    assert line[int(found.where.split(":")[2]) - 1 :].startswith("zone:")
    text = shop.world.text.replace("shop.example.org", "shop.example.net")
    (found,) = _of_partners(preview(shop.house, text, "shop.yaml").findings)
    assert "shop.example.net is not in it" in found.message
    traffic = replace(view.group.traffic, zone="Z00000000000NO")
    wrong = [
        one
        for one in partner_checks(shop.house, replace(view, group=replace(view.group, traffic=traffic)))
        if one.verdict != "ok"
    ]
    assert [(one.verdict, one.word) for one in wrong] == [("bad", "partner-missing")]


def test_the_way_back_is_asked_of_the_other_side(shop: Shop) -> None:
    """Active on away, the map is read from right to left: home must have the left sides."""
    view = replace(shop.house.journal.group("shop"), active="away")
    shop.call("home", "DeleteKeyPair", KeyName="shop-ops")
    wrong = [one for one in partner_checks(shop.house, view) if one.verdict != "ok"]
    assert [(one.expected, one.word) for one in wrong] == [("key pair shop-ops on home", "partner-missing")]
    assert wrong[0].finding is not None
    assert wrong[0].finding.where == "map.keys.shop-ops"


def test_a_silent_other_side(shop: Shop) -> None:
    """A new group waits until its other side was seen; one that is known may be changed meanwhile, with a warning."""
    shop.world.fault("away", "refuse")
    with pytest.raises(CloudError):
        preview(shop.house, shop.world.text.replace("group: shop\n", "group: fresh\n"), "shop.yaml")
    (found,) = _of_partners(preview(shop.house, shop.world.text, "shop.yaml").findings)
    assert (found.word, found.severity) == ("partner-untold", "warning")
    assert "away does not answer" in found.message


def test_the_commands_end_with_their_codes(shop: Shop, tmp_path: Path) -> None:
    """`protect --dry-run` and `check` end with 3, `protect` with 6, each with file:line:column or the name."""
    file = tmp_path / "shop.yaml"
    file.write_text(shop.world.text)
    desk = Desk(shop.house)
    assert desk(protecting.protect, file=file, dry_run=True).code == 0
    _key(shop)
    said = desk(protecting.protect, file=file, dry_run=True)
    assert said.code == 3
    row = next(
        n for n, line in enumerate(shop.world.text.splitlines(), 1) if line.strip().startswith("keys:")
    )
    assert f"{file}:{row}:10: error[DRP-2121]: key pair shop-ops is not on away" in said.out
    refused = desk(protecting.protect, file=file, output="json")
    assert (refused.code, refused.document["error"]["word"]) == (6, "document")
    report = check(shop.house, "shop")
    assert "partner-missing" in {one.word for one in report.findings}
    assert "partner-missing" in {one.word for one in shop.house.journal.findings("shop")}
    told = desk(looking.check, group="shop", output="json")
    assert told.code == 3
    document: dict[str, Any] = told.document
    assert any(one["message"] == "key pair shop-ops is not on away" for one in document["checks"])


def test_a_mended_partner_closes_its_finding(shop: Shop) -> None:
    """What was missing yesterday and is there today is no finding any more."""
    shop.world.clouds["away"].tune(not_offered=["t3.small"])
    check(shop.house, "shop")
    assert "partner-missing" in {one.word for one in shop.house.journal.findings("shop")}
    shop.world.clouds["away"].tune(not_offered=[])
    check(shop.house, "shop")
    assert "partner-missing" not in {one.word for one in shop.house.journal.findings("shop")}
