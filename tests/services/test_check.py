"""Looking live: the sample shop in the lab, protected and replicated by the real engine, then spoilt one thing at a
time. Every finding has its check, its word and its hint, and goes away when its cause does.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drpilot.domain.fence import Claim
from drpilot.domain.ports import Move
from drpilot.inventory.configuration import SiteSettings
from drpilot.services.begin import Asking, begin, propose
from drpilot.services.check import CheckReport
from drpilot.services.protect import protect
from tests.actions.world import BUCKET, World, opened
from tests.services.shop import CLOCK, Shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The shop, protected and replicated once."""
    folder = tmp_path_factory.mktemp("check")
    with opened(folder) as world:
        made = Shop(world, folder)
        protect(made.house, world.text, "shop.yaml")
        assert made.run("replicate") in ("succeeded", "succeeded_with_warnings")
        yield made


USUAL = {"never-drilled", "unprotected-resource"}  # the sample shop has a batch machine that no tier protects


def verdicts(report: CheckReport) -> dict[str, set[str]]:
    """Check name → its verdicts."""
    found: dict[str, set[str]] = {}
    for item in report.checks:
        found.setdefault(item.name, set()).add(item.verdict)
    return found


def test_a_healthy_group_has_only_what_it_should(shop: Shop) -> None:
    """Everything is looked at and as expected; what no tier protects and the missing drill are warnings."""
    report = shop.look()
    assert report.complete, [item for item in report.checks if item.verdict == "unknown"]
    assert {item.word for item in report.findings} == USUAL, report.findings
    assert report.count("bad") == 0
    seen = verdicts(report)
    for name in ("reachable", "identity", "clock", "points", "standby", "witness", "traffic", "quota", "drift",
                 "orphans", "carried", "RpoMet"):  # fmt: skip
        assert seen[name] == {"ok"}, name
    assert any("shop-batch" in item.observed for item in report.findings)


@pytest.mark.row(97)
def test_findings_and_conditions_go_to_the_journal(shop: Shop) -> None:
    """What check saw is what status shows, with since when."""
    shop.look()
    assert {item.word for item in shop.house.journal.findings("shop")} == USUAL
    conditions = shop.house.journal.group("shop").conditions
    assert (conditions["RpoMet"]["value"], conditions["PeerReachable"]["value"]) == (True, True)
    assert conditions["StandbyReady"] | {"since": 0, "looked_at": 0} == {
        "value": True, "reason": "3 of 3 ready on away", "since": 0, "looked_at": 0
    }  # fmt: skip


def test_a_standby_that_runs_is_found_and_forgotten_when_stopped(shop: Shop) -> None:
    """Somebody starts the standby by hand: not as it should be, and two sides may write; one look changes no state."""
    shop.call("away", "StartInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "running")
    found = shop.found()
    assert set(found) == USUAL | {"standby-missing", "split-suspected"}
    assert "is running, not stopped" in found["standby-missing"][0]
    assert f"away is a standby at rest, yet {shop.standby} run there" in found["split-suspected"][0]
    assert {one.state for one in shop.house.journal.standbys("shop")} == {"ready"}
    assert shop.house.journal.group("shop").state == "protected"
    assert shop.house.journal.group("shop").conditions["StandbyReady"]["value"] is False
    shop.call("away", "StopInstances", InstanceIds=[shop.standby])
    shop.until("away", shop.standby, "stopped")
    assert set(shop.found()) == USUAL
    assert {item.word for item in shop.house.journal.findings("shop")} == USUAL


def test_a_standby_of_another_size_is_found(shop: Shop) -> None:
    """Somebody changes its type."""
    before = shop.call("away", "DescribeInstances", InstanceIds=[shop.standby])["Reservations"][0][
        "Instances"
    ][0]
    shop.call("away", "ModifyInstanceAttribute", InstanceId=shop.standby, InstanceType={"Value": "m5.large"})
    try:
        assert "is a m5.large, not a" in shop.found()["standby-missing"][0]
    finally:
        value = {"Value": before["InstanceType"]}
        shop.call("away", "ModifyInstanceAttribute", InstanceId=shop.standby, InstanceType=value)
    assert "standby-missing" not in shop.found()


def test_a_scaling_group_that_wants_machines_is_found(shop: Shop) -> None:
    """The pilot light is at 0 and stays there."""
    name = {"AutoScalingGroupName": "shop-app"}
    shop.call("away", "UpdateAutoScalingGroup", "autoscaling", **name, MaxSize=1, DesiredCapacity=1)
    try:
        assert "shop-app wants 1, not 0" in shop.found()["standby-missing"][0]
    finally:
        shop.call("away", "UpdateAutoScalingGroup", "autoscaling", **name, DesiredCapacity=0)


def test_a_scaling_group_that_would_launch_something_else_is_found(shop: Shop) -> None:
    """Another type, an image that is not there, another subnet: each is said, and gone with its cause."""
    group = shop.call("away", "DescribeAutoScalingGroups", "autoscaling", AutoScalingGroupNames=["shop-app"])
    before = group["AutoScalingGroups"][0]
    template = before["LaunchTemplate"]["LaunchTemplateId"]
    version = shop.call(
        "away",
        "CreateLaunchTemplateVersion",
        LaunchTemplateId=template,
        SourceVersion=before["LaunchTemplate"]["Version"],
        LaunchTemplateData={"InstanceType": "m5.24xlarge", "ImageId": "ami-0123456789abcdef0"},
    )["LaunchTemplateVersion"]["VersionNumber"]

    def update(**change: str | dict[str, str]) -> None:
        name = {"AutoScalingGroupName": "shop-app"}
        shop.call("away", "UpdateAutoScalingGroup", "autoscaling", **name, **change)

    update(LaunchTemplate={"LaunchTemplateId": template, "Version": str(version)})
    try:
        (said,) = shop.found()["standby-missing"]
        assert "scaling group shop-app would launch a m5.24xlarge, not a" in said
        assert "would launch image ami-0123456789abcdef0, which is not there" in said
    finally:
        update(LaunchTemplate={"LaunchTemplateId": template, "Version": before["LaunchTemplate"]["Version"]})
    one, *others = before["VPCZoneIdentifier"].split(",")
    assert others
    update(VPCZoneIdentifier=one)
    try:
        assert f"scaling group shop-app is in {one}" in shop.found()["standby-missing"][0]
    finally:
        update(VPCZoneIdentifier=before["VPCZoneIdentifier"])
    assert "standby-missing" not in shop.found()


def test_an_image_that_is_gone_makes_the_point_unusable(shop: Shop) -> None:
    """Somebody deregisters an image of the newest point; a new point mends it."""
    point = shop.house.journal.points("shop")[0]
    image = next(replica for replica in point.replicas if replica.kind == "image")
    shop.call("away", "DeregisterImage", ImageId=image.id)
    found = shop.found()
    assert any(image.id in message and "not usable" in message for message in found["drift"])
    assert shop.run("replicate") in ("succeeded", "succeeded_with_warnings")
    assert "drift" not in shop.found()


def test_an_orphan_is_found_where_it_lies(shop: Shop) -> None:
    """A volume with our tags that nothing accounts for; one of a live run or without our tags is none."""
    tags = [{"Key": "drpilot:group", "Value": "shop"}, {"Key": "drpilot:run", "Value": "long-gone"}]
    specification = [{"ResourceType": "volume", "Tags": tags}]
    zone = f"{shop.world.sites['away'].region}a"
    made = shop.call("away", "CreateVolume", AvailabilityZone=zone, Size=1, TagSpecifications=specification)
    shop.call("away", "CreateVolume", AvailabilityZone=zone, Size=1)
    try:
        assert shop.found()["orphan"] == [
            f"volume {made['VolumeId']} on away carries our tags but nothing owns it"
        ]
    finally:
        shop.call("away", "DeleteVolume", VolumeId=made["VolumeId"])
    assert "orphan" not in shop.found()


def test_a_name_that_leads_elsewhere_is_found(shop: Shop) -> None:
    """The record points at the other side although home is active."""
    zone = shop.house.journal.group("shop").group.traffic
    assert zone is not None
    before = shop.call("edge", "ListResourceRecordSets", "route53", HostedZoneId=zone.zone)[
        "ResourceRecordSets"
    ]
    record = next(
        item for item in before if item["Name"].rstrip(".") == zone.name and item["Type"] in ("A", "CNAME")
    )
    wrong = {
        "Name": zone.name,
        "Type": record["Type"],
        "TTL": 60,
        "ResourceRecords": [{"Value": "127.9.9.9"}],
    }
    if record["Type"] == "CNAME":
        wrong["ResourceRecords"] = [{"Value": "elsewhere.example.net"}]

    def set_to(value: Any) -> None:
        changes = {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": value}]}
        shop.call("edge", "ChangeResourceRecordSets", "route53", HostedZoneId=zone.zone, ChangeBatch=changes)

    set_to(wrong)
    try:
        assert any("does not lead to home" in message for message in shop.found()["drift"])
    finally:
        set_to(record)
    assert "drift" not in shop.found()


def test_a_witness_that_disagrees_is_found(shop: Shop) -> None:
    """Somebody else claimed the epoch."""
    witness = shop.house.world.witness()
    etag = witness.write(Claim("shop", 7, "away"), replaces="")
    try:
        assert "the witness says epoch 7, active away" in shop.found()["witness-wrong"][0]
        etag = witness.write(Claim("shop", 1, "home"), replaces=etag)
        assert "witness-wrong" not in shop.found()
    finally:
        shop.call("edge", "DeleteObject", "s3", Bucket=BUCKET, Key="shop.json")


@pytest.mark.row(43)
def test_a_quota_too_small_for_a_failover_is_found(shop: Shop) -> None:
    """The account may run fewer vCPUs than the shop needs on the other side."""
    cloud = shop.world.clouds["away"]
    with _tuned(cloud, quotas={"L-1216C47A": 2}):
        assert "a failover needs" in shop.found()["quota-short"][0]
    assert "quota-short" not in shop.found()


@pytest.mark.row(43)
def test_a_standby_without_its_address_and_a_quota_without_room_are_found(shop: Shop) -> None:
    """The address is gone: the standby lacks it; with the quota used up besides, that is said too."""
    (address,) = shop.call("away", "DescribeAddresses")["Addresses"]
    cloud = shop.world.clouds["away"]
    with _tuned(cloud, quotas={"L-0263D0A3": 1}):
        assert "quota-short" not in shop.found(), "what is bound ahead needs no further one"
    shop.call("away", "DisassociateAddress", AssociationId=address["AssociationId"])
    try:
        found = shop.found()
        assert any("has no elastic address" in message for message in found["standby-missing"])
        assert not {"quota-short", "orphan"} & set(found), "ours waits to be bound: it is no orphan"
        kept = {"Resources": [address["AllocationId"]], "Tags": [{"Key": "drpilot:group"}]}
        shop.call("away", "DeleteTags", **kept)
        with _tuned(cloud, quotas={"L-0263D0A3": 1}):
            (message,) = shop.found()["quota-short"]
        assert message == "elastic address quota on away: 1 more needed, 1 of 1 used"
        assert "quota-short" not in shop.found()
        kept["Tags"] = [{"Key": "drpilot:group", "Value": "shop"}]
        shop.call("away", "CreateTags", **kept)
    finally:
        bound = {"AllocationId": address["AllocationId"], "InstanceId": shop.standby}
        shop.call("away", "AssociateAddress", **bound)
    assert not {"standby-missing", "quota-short", "orphan"} & set(shop.found())


def test_an_address_of_ours_that_stands_for_no_member_is_an_orphan(shop: Shop) -> None:
    """Tagged for a member that is not there any more, bound to nothing."""
    tags = {
        "drpilot:group": "shop",
        "drpilot:tier": "db",
        "drpilot:member": "gone",
        "drpilot:run": "long-gone",
    }
    marks = [
        {"ResourceType": "elastic-ip", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
    ]
    made = shop.call("away", "AllocateAddress", Domain="vpc", TagSpecifications=marks)["AllocationId"]
    try:
        assert shop.found()["orphan"] == [
            f"elastic address {made} on away carries our tags but nothing owns it"
        ]
    finally:
        shop.call("away", "ReleaseAddress", AllocationId=made)


def test_an_address_that_comes_or_goes_at_home_is_drift(shop: Shop) -> None:
    """Protected with one, seen without: the next point's standby would have one for nothing."""
    (address,) = shop.call("home", "DescribeAddresses")["Addresses"]
    shop.call("home", "DisassociateAddress", AssociationId=address["AssociationId"])
    try:
        assert "instance shop-db has no elastic address now" in shop.found()["drift"]
    finally:
        back = {"AllocationId": address["AllocationId"], "InstanceId": address["InstanceId"]}
        shop.call("home", "AssociateAddress", **back)
    assert "drift" not in shop.found()


@pytest.mark.row(9)
def test_a_machine_that_changed_at_home_is_drift(shop: Shop) -> None:
    """A new volume on the database is not protected until the next point."""
    database = shop.world.built["database"]["instance"]
    zone = shop.call("home", "DescribeInstances", InstanceIds=[database])["Reservations"][0]["Instances"][0]
    volume = shop.call(
        "home", "CreateVolume", AvailabilityZone=zone["Placement"]["AvailabilityZone"], Size=1
    )["VolumeId"]
    _volume(shop, volume, "available")
    shop.call("home", "AttachVolume", VolumeId=volume, InstanceId=database, Device="/dev/sdp")
    try:
        assert any("has other volumes than were protected" in message for message in shop.found()["drift"])
    finally:
        shop.call("home", "DetachVolume", VolumeId=volume)
        _volume(shop, volume, "available")
        shop.call("home", "DeleteVolume", VolumeId=volume)
    assert "drift" not in shop.found()


def test_a_silent_site_leaves_the_rest_unknown_and_its_findings_open(shop: Shop) -> None:
    """Home refuses: one finding says so, what needs home is unknown, and nothing that was open is closed by it."""
    assert "unprotected-resource" in shop.found()
    with _broken(shop.world, "home", "refuse"):
        report = shop.look()
        assert {item.word for item in report.findings} == {"never-drilled", "site-silent"}
        seen = verdicts(report)
        assert (seen["members"], seen["traffic"], seen["points"]) == ({"unknown"}, {"unknown"}, {"ok"})
        assert seen["orphans"] == {"unknown", "ok"}
        assert not report.complete
        open_now = {item.word for item in shop.house.journal.findings("shop")}
        assert open_now == {"never-drilled", "site-silent", "unprotected-resource"}
        assert shop.house.journal.group("shop").conditions["PeerReachable"]["value"] is False
        site = shop.house.journal.site("home")
        assert site is not None and site.answers is False
    assert set(shop.found()) == USUAL


def test_a_site_that_hangs_holds_nobody(shop: Shop) -> None:
    """A look that never ends on its own is bounded: the rest is checked, the whole ends."""
    shop.hanging = {"home"}
    started = CLOCK.monotonic()
    try:
        report = shop.look(bound_s=4.0)
    finally:
        shop.hanging = set()
        shop.release.set()
        shop.release.clear()
    assert CLOCK.monotonic() - started < 60
    assert {item.scope for item in report.findings if item.word == "site-silent"} == {"home"}


def test_calls_that_hang_are_unknown_when_time_is_over(shop: Shop) -> None:
    """The site answers the look and then hangs: its checks are unknown, not bad."""
    with _broken(shop.world, "away", "hang:ec2.*"):
        report = shop.look(bound_s=2.0)
    seen = verdicts(report)
    assert seen["reachable"] == {"ok"}
    assert seen["points"] == seen["standby"] == {"unknown"}
    assert "standby-missing" not in {item.word for item in report.findings}


def test_a_wrong_account_and_a_wrong_clock_are_found(shop: Shop) -> None:
    """Identity and skew are judged by the look itself."""
    settings = shop.house.configuration.sites
    right = settings["away"]
    shop.skew_s = {"away": 45.0, "home": -700.0}
    settings["away"] = SiteSettings("away", "aws", right.region, "999999999999")  # type: ignore[index]
    try:
        report = shop.look()
    finally:
        settings["away"] = right  # type: ignore[index]
        shop.skew_s = {}
    found = {(item.name, item.scope): item.verdict for item in report.findings}
    assert found["identity", "away"] == "bad"
    assert (found["clock", "away"], found["clock", "home"]) == ("warning", "bad")


def test_a_run_nobody_drives_and_a_lone_journal_are_found(shop: Shop) -> None:
    """A created run without a driver; and outside the lab, a journal on one host only."""
    run = begin(shop.house, propose(shop.house, "replicate", "shop", Asking(reason="a test")), None)
    shop.house.lab = False
    try:
        found = shop.found()
        assert found["nobody-drives"] == [f"{run.name} is not finished and nobody drives it"]
        assert "journal-at-home" in found
    finally:
        shop.house.lab = True
        shop.house.driver().drive(run.id, shop.house.holder)
    assert set(shop.found()) == USUAL


@pytest.mark.parametrize(
    ("controller", "said"),
    [
        ("", "nobody said at which site that is"),
        ("home", "the journal lies at home, where shop is active"),
        ("away", None),
        ("edge", None),
    ],
)
def test_a_journal_at_the_active_side_is_found(shop: Shop, controller: str, said: str | None) -> None:
    """A journal that is lost with the active side, or nobody knows; at the other side or a third place all is well."""
    before = shop.house.configuration
    shop.house.lab = False
    shop.house.configuration = replace(before, controller=controller)
    try:
        found = shop.found().get("journal-at-home", [])
        (judged,) = [one for one in shop.look().checks if one.name == "journal"]
    finally:
        shop.house.lab, shop.house.configuration = True, before
    assert [said in message for message in found] == ([True] if said else [])
    assert (judged.verdict, controller in judged.observed) == ("warning" if said else "ok", True)


def test_a_disabled_key_is_found_before_the_night(shop: Shop) -> None:
    """A member's volumes are encrypted: both its key and the partner on the other side must work."""
    keys = {site: shop.call(site, "CreateKey", "kms")["KeyMetadata"]["Arn"] for site in ("home", "away")}
    view = shop.house.journal.group("shop")
    tiers = list(view.group.tiers)
    database = tiers[0].instances[0]
    volumes = tuple(replace(volume, encrypted=True, kms_key=keys["home"]) for volume in database.volumes)
    tiers[0] = replace(tiers[0], instances=(replace(database, volumes=volumes),))
    mapping = replace(view.group.map, kms_keys={keys["home"]: keys["away"]})
    shop.house.journal.remember(replace(view.group, tiers=tuple(tiers), map=mapping), "home")
    try:
        assert "key-unusable" not in shop.found()
        shop.call("away", "DisableKey", "kms", KeyId=keys["away"])
        assert shop.found()["key-unusable"] == [f"KMS key {keys['away']} on away can't be used: Disabled"]
        shop.call("home", "ScheduleKeyDeletion", "kms", KeyId=keys["home"], PendingWindowInDays=7)
        assert len(shop.found()["key-unusable"]) == 2
    finally:
        shop.house.journal.remember(view.group, "home")
    assert "key-unusable" not in shop.found()


def test_a_freeze_program_that_is_not_here_is_found(shop: Shop) -> None:
    """What freezes an application must be where captures are driven from, and is looked for before it is needed."""
    view = shop.house.journal.group("shop")
    tiers = list(view.group.tiers)
    for programs, missing in (
        (("/bin/sh -c true", "/bin/true"), []),
        (("/bin/true", "/no/thaw now"), ["/no/thaw now"]),
    ):
        tiers[0] = replace(tiers[0], freeze=programs)
        shop.house.journal.remember(replace(view.group, tiers=tuple(tiers)), "home")
        found = shop.found().get("freeze-missing", [])
        assert [text.split(" can't be started")[0] for text in found] == missing
    shop.house.journal.remember(view.group, "home")


def _launched(shop: Shop, site: str) -> str:
    """The user data, base64, that the app tier's newest launch template hands a machine on a site."""
    params: dict[str, Any] = {"LaunchTemplateName": "shop-app", "Versions": ["$Latest"]}
    (version,) = shop.call(site, "DescribeLaunchTemplateVersions", **params)["LaunchTemplateVersions"]
    return str(version["LaunchTemplateData"]["UserData"])


def test_user_data_never_stands_in_the_journal(shop: Shop) -> None:
    """It may hold passwords: neither its text nor its base64 is in a file of the journal, yet it has arrived.

    The files are read by another process: closing one here would drop this process's locks.
    """
    data = _launched(shop, "home")
    assert _launched(shop, "away") == data
    folder = Path(shop.house.journal.database.url.removeprefix("sqlite:///")).parent
    files = sorted(str(path) for path in folder.glob("journal.db*"))
    line = base64.b64decode(data).decode().splitlines()[-1]
    for text, there in ((data, False), (line, False), ("shop-app", True)):
        done = subprocess.run(["grep", "-aqF", "--", text, *files], check=False)
        assert (done.returncode == 0) is there, text


def test_an_open_fence_is_found(shop: Shop) -> None:
    """A fence that could not be verified stays a finding until it is settled."""
    journal = shop.house.journal
    asked = [Move("fence", "away", event) for event in ("request", "apply", "unseen")]
    journal.change("shop", asked, "tester")
    try:
        assert shop.found()["fence-open"] == ["away is not fenced for certain"]
    finally:
        journal.change(
            "shop", [Move("fence", "away", "release", {"side_is_standby_or_active": True})], "tester"
        )
    assert set(shop.found()) == USUAL


# -- helpers --------------------------------------------------------------------------------------------------


def _volume(shop: Shop, volume: str, state: str) -> None:
    for _ in range(600):
        if shop.call("home", "DescribeVolumes", VolumeIds=[volume])["Volumes"][0]["State"] == state:
            return
        CLOCK.sleep(0.05)
    pytest.fail(f"{volume} never was {state}")


@contextmanager
def _broken(world: World, site: str, fault: str) -> Iterator[None]:
    world.fault(site, fault)
    try:
        yield
    finally:
        world.heal(site)


@contextmanager
def _tuned(cloud: Any, **settings: Any) -> Iterator[None]:
    before = {name: cloud.setting(name, None) for name in settings}
    cloud.tune(**settings)
    try:
        yield
    finally:
        cloud.tune(**before)
