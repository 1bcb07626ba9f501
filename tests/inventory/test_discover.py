"""Discovery on an estate of real calls: every fact of a member, what no tier covers, what can't be carried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.group import (
    Group,
    Instance,
    LoadBalancer,
    Map,
    Objectives,
    ScalingGroup,
    Selector,
    StandbySize,
    Tier,
    Traffic,
)
from drpilot.domain.plain import from_plain, to_plain
from drpilot.domain.ports import CloudError
from drpilot.inventory.discover import carried, members, partner, uncarried, unprotected
from drpilot.inventory.launching import digest_of
from drpilot.inventory.resources import tag_filter
from tests.contract.grounds import opened
from tests.inventory.estate import USER_DATA, WEB_DATA, Estate, build


@pytest.fixture(scope="module", params=["lab-inprocess", "moto"])
def estate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    """A database, two machines of one name, a web tier behind a load balancer, and what belongs to nobody."""
    with opened(request.param, tmp_path_factory.mktemp("estate")) as ground:
        yield build(ground)


GROUP = Group(
    name="shop",
    primary="home",
    secondary="away",
    objectives=Objectives(900, 1800),
    tiers=(
        Tier("db", selector=Selector(tag="tier=db")),
        Tier("app", selector=Selector(tag="tier=app")),
        Tier("web", scaling_group_name="shop-web", load_balancer_name="shop-lb"),
    ),
    tag="app=shop",
)


@pytest.fixture(scope="module")
def found(estate: Estate) -> Group:
    """The group with its members."""
    return members(estate.site, GROUP)


# -- members ---------------------------------------------------------------------------------------------


def test_a_database_is_described_completely(estate: Estate, found: Group) -> None:
    """Everything that is needed to build the machine again, in the API's own words; drills and dead ones left
    out.
    """
    (database,) = found.tier("db").instances
    network = estate.ground.base
    assert (database.key, database.id, database.state) == ("shop-db", estate.database, "running")
    assert (database.type, database.image) == ("t3.micro", network["image"])
    assert (database.zone, database.subnet) == (estate.ground.zone, network["subnet"])
    assert database.private_address == "10.9.1.20"
    assert database.security_groups == ("shop",)
    assert (database.key_pair, database.profile) == ("ops", "shop-db")
    assert database.user_data_sha256 == digest_of(USER_DATA)
    assert database.metadata_options["HttpTokens"] == "required"
    assert database.metadata_options["HttpPutResponseHopLimit"] == 2
    assert "State" not in database.metadata_options
    assert database.termination_protection is True
    assert database.architecture == "x86_64"
    assert dict(database.tags) == {"Name": "shop-db", "app": "shop", "tier": "db"}


def _bound(estate: Estate, instance: str, **where: str) -> tuple[str, str, str]:
    """An address bound to an instance: its allocation, its association and itself."""
    ground = estate.ground
    network = ground.network()
    if "gateway" not in network:
        network["gateway"] = ground.call("CreateInternetGateway")["InternetGateway"]["InternetGatewayId"]
        ground.call("AttachInternetGateway", InternetGatewayId=network["gateway"], VpcId=network["vpc"])
    made = ground.call("AllocateAddress", Domain="vpc")
    whom = where or {"InstanceId": instance}
    link = ground.call("AssociateAddress", AllocationId=made["AllocationId"], **whom)["AssociationId"]
    return made["AllocationId"], link, made["PublicIp"]


def test_an_elastic_address_is_a_fact_of_its_member(estate: Estate, found: Group) -> None:
    """Bound to the database it is the database's; the others, and itself before, have none; it survives the journal."""
    assert {one.elastic_address for tier in found.tiers for one in tier.instances} == {None}
    allocation, link, address = _bound(estate, estate.database)
    try:
        group = members(estate.site, GROUP)
        assert group.tier("db").instances[0].elastic_address == address
        assert {one.elastic_address for one in group.tier("app").instances} == {None}
        assert from_plain(Group, to_plain(group)) == group
        lost = [one.message for one in uncarried(estate.site, group) if "elastic" in one.message]
        assert lost == [f"instance shop-db: elastic address {address} stays behind, the standby has another"]
        named = replace(group, traffic=Traffic("shop.example.org", "Z1", "edge"))
        assert not [one for one in uncarried(estate.site, named) if "elastic" in one.message]
    finally:
        estate.ground.call("DisassociateAddress", AssociationId=link)
        estate.ground.call("ReleaseAddress", AllocationId=allocation)


def test_a_second_elastic_address_is_reported(estate: Estate) -> None:
    """One an instance is carried: what hangs on a further interface is said to be left behind."""
    ground = estate.ground
    subnet = ground.network()["subnet"]
    face = ground.call("CreateNetworkInterface", SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    attached = {"NetworkInterfaceId": face, "InstanceId": estate.twins[0], "DeviceIndex": 1}
    attachment = ground.call("AttachNetworkInterface", **attached)["AttachmentId"]
    allocation, link, address = _bound(estate, "", NetworkInterfaceId=face)
    try:
        group = members(estate.site, GROUP)
        said = [one.message for one in uncarried(estate.site, group) if "elastic" in one.message]
        assert said == [
            f"instance {estate.twins[0]}: elastic address {address} is not carried: one an instance is"
        ]
    finally:
        ground.call("DisassociateAddress", AssociationId=link)
        ground.call("ReleaseAddress", AllocationId=allocation)
        ground.call("DetachNetworkInterface", AttachmentId=attachment)
        ground.call("DeleteNetworkInterface", NetworkInterfaceId=face)


def test_volumes_keep_their_size_speed_and_key(estate: Estate, found: Group) -> None:
    """Root first, then by device; iops and throughput only where a new volume takes them; the KMS key by ARN."""
    root, secret, fast = found.tier("db").instances[0].volumes
    assert (root.root, root.device, root.key) == (
        True,
        found.tier("db").instances[0].root_device,
        f"shop-db{root.device}",
    )
    assert (secret.key, secret.encrypted, secret.kms_key) == ("shop-db/dev/sdf", True, estate.key)
    assert (fast.key, fast.size_gib, fast.type) == ("shop-db/dev/sdg", 10, "gp3")
    assert (fast.iops, fast.throughput, fast.encrypted) == (4000, 250, False)
    assert fast.delete_on_termination is False
    assert {volume.zone for volume in (root, secret, fast)} == {estate.ground.zone}


def test_machines_of_one_name_are_told_apart_by_their_ids(estate: Estate, found: Group) -> None:
    """A name that two members share can't be a key."""
    assert [one.key for one in found.tier("app").instances] == sorted(estate.twins)


def test_the_member_tag_beats_the_name(estate: Estate) -> None:
    """A standby built by us keeps the key of the machine it stands for."""
    first = estate.twins[0]
    tag = {"Key": "drpilot:member", "Value": "shop-app-one"}
    estate.ground.call("CreateTags", Resources=[first], Tags=[tag])
    try:
        keys = {one.id: one.key for one in members(estate.site, GROUP).tier("app").instances}
        assert keys[first] == "shop-app-one"
    finally:
        estate.ground.call("DeleteTags", Resources=[first], Tags=[tag])


def test_a_scaling_group_is_read_through_its_template(estate: Estate, found: Group) -> None:
    """The version in use is resolved; image, type, user data, key and groups come from it."""
    group = found.tier("web").scaling_group
    network = estate.ground.base
    assert group is not None
    version = "1" if estate.ground.name == "moto" else "2"
    assert (group.key, group.template, group.template_version) == ("shop-web", "shop-web", version)
    assert (group.image, group.type) == (network["image"], "t3.small")
    assert group.user_data_sha256 == digest_of(WEB_DATA)
    assert (group.minimum, group.desired, group.maximum) == (1, 2, 4)
    assert set(group.subnets) == {network["subnet"], network["second"]}
    assert (group.security_groups, group.key_pair) == (("shop",), "ops")
    assert group.target_groups == ("shop-web",)
    assert (group.health_check, group.grace_s) == ("ELB", 90)
    assert group.metadata_options["HttpTokens"] == "required"
    assert dict(group.tags) == {"app": "shop", "tier": "web"}
    assert group.template_id.startswith("lt-")


def test_a_load_balancer_is_read_with_its_listener_and_targets(estate: Estate, found: Group) -> None:
    """Listener, target group and health check, groups by name."""
    balancer = found.tier("web").load_balancer
    network = estate.ground.base
    assert balancer is not None
    assert (balancer.key, balancer.port, balancer.protocol) == ("shop-lb", 80, "HTTP")
    assert (balancer.target_group, balancer.target_port, balancer.target_protocol) == (
        "shop-web",
        8080,
        "HTTP",
    )
    assert balancer.health_path == "/healthz"
    assert balancer.health["HealthCheckIntervalSeconds"] == 7
    assert set(balancer.subnets) == {network["subnet"], network["second"]}
    assert balancer.security_groups == ("shop",)
    assert balancer.dns
    assert balancer.arn.startswith("arn:aws:elasticloadbalancing:")


def test_members_survive_the_journal(found: Group) -> None:
    """The group with its members goes to plain JSON and back unchanged, as a plan freezes it."""
    assert from_plain(Group, to_plain(found)) == found


def test_members_can_be_named_by_id(estate: Estate) -> None:
    """A tier by ids finds exactly those."""
    group = replace(GROUP, tiers=(Tier("db", selector=Selector(ids=(estate.database, estate.batch))),))
    assert [one.key for one in members(estate.site, group).tier("db").instances] == ["shop-batch", "shop-db"]


def test_wildcards_in_a_selector_stand_for_themselves(estate: Estate) -> None:
    """`sh*` selects what is tagged `sh*` and not everything that begins with `sh`."""
    group = replace(GROUP, tiers=(Tier("odd", selector=Selector(tag="app=sh*")),))
    assert [one.key for one in members(estate.site, group).tier("odd").instances] == ["other"]
    assert tag_filter("a=b\\*?=c") == {"Name": "tag:a", "Values": ["b\\\\\\*\\?=c"]}


@pytest.mark.parametrize(
    ("tier", "said"),
    [
        (Tier("cache", selector=Selector(tag="tier=cache")), "tag tier=cache"),
        (Tier("cache", selector=Selector(ids=("i-0123456789abcdef0",))), "i-0123456789abcdef0"),
        (Tier("cache", scaling_group_name="shop-cache"), "scaling group shop-cache"),
        (Tier("cache", load_balancer_name="shop-cache"), "load balancer shop-cache"),
    ],
)
def test_a_tier_that_finds_nothing_is_refused(estate: Estate, tier: Tier, said: str) -> None:
    """A misspelt tag or name must not protect an empty tier."""
    with pytest.raises(DrpilotError) as caught:
        members(estate.site, replace(GROUP, tiers=(tier,)))
    assert caught.value.word == "no-members"
    assert said in caught.value.why


def test_one_missing_id_of_several_is_refused(estate: Estate) -> None:
    """Half a tier is no tier."""
    tier = Tier("db", selector=Selector(ids=(estate.database, "i-0123456789abcdef0")))
    with pytest.raises(DrpilotError, match="i-0123456789abcdef0"):
        members(estate.site, replace(GROUP, tiers=(tier,)))


# -- what no tier covers ---------------------------------------------------------------------------------


@pytest.mark.row(3)
def test_what_belongs_to_no_tier_is_listed(estate: Estate, found: Group) -> None:
    """The batch machine carries the group's tag; members, their scaling group, drills and the dead do not
    count.
    """
    (finding,) = unprotected(estate.site, found)
    assert (finding.word, finding.severity) == ("unprotected-resource", "warning")
    assert estate.batch in finding.message
    assert "shop-batch" in finding.message


def test_forgotten_groups_and_balancers_are_listed_too(estate: Estate, found: Group) -> None:
    """A scaling group and a load balancer without a tier are found by their tags."""
    partial = replace(found, tiers=found.tiers[:2])
    said = " ".join(one.message for one in unprotected(estate.site, partial))
    assert "scaling group shop-web" in said
    assert "load balancer shop-lb" in said


def test_without_a_tag_it_is_guessed_from_the_members(estate: Estate, found: Group) -> None:
    """All members share app=shop; without any member nothing is guessed."""
    assert unprotected(estate.site, replace(found, tag=None)) == unprotected(estate.site, found)
    assert unprotected(estate.site, replace(GROUP, tag=None)) == ()


# -- what can't be carried -------------------------------------------------------------------------------


def _whole_map(estate: Estate) -> Map:
    network = estate.ground.base
    return Map(
        zones={estate.ground.zone: "a"},
        subnets={network["subnet"]: "s1", network["second"]: "s2"},
        types={"t3.micro": "t3.micro", "t3.small": "t3.small"},
        keys={"ops": "ops"},
        security_groups={"shop": "shop"},
        kms_keys={estate.key.rsplit("/", 1)[-1]: "arn:away"},
        profiles={"shop-db": "shop-db"},
    )


def test_a_whole_map_leaves_nothing_behind(estate: Estate, found: Group) -> None:
    """With a partner for everything there is no finding; a KMS key may be named by its id."""
    assert carried(found, _whole_map(estate), "away") == ()


@pytest.mark.row(6)
def test_each_missing_partner_is_one_finding(estate: Estate, found: Group) -> None:
    """An empty map names every kind once for each name, with the place in the file to mend."""
    findings = carried(found, Map(), "away")
    assert {one.word for one in findings} == {"unmapped"}
    assert {one.severity for one in findings} == {"error"}
    assert {one.where for one in findings} == {
        f"map.{kind}"
        for kind in ("zones", "subnets", "types", "keys", "security_groups", "kms_keys", "profiles")
    }
    assert len({one.message for one in findings}) == len(findings)
    assert any(estate.key in one.message for one in findings)


def test_a_tier_that_names_its_sizes_needs_no_type_in_the_map(estate: Estate, found: Group) -> None:
    """`size` and `grow` say what is built; a mapped type would say it twice."""
    sized = replace(found.tier("db"), standby=StandbySize(size="t3.small", grow="m5.large"))
    only = replace(found, tiers=(sized,))
    assert carried(only, replace(_whole_map(estate), types={}), "away") == ()


def test_product_codes_forbid_the_copy() -> None:
    """A marketplace image can't be copied to another account: an error before the night it is needed."""
    instance = Instance("db", "i-1", "t", "z", "s", "ami-1", "running", product_codes=("marketplace:abc",))
    scaling = ScalingGroup("web", "ami-2", "t", 0, 2, 1, product_codes=("marketplace:def",))
    tiers = (Tier("db", instances=(instance,)), Tier("web", scaling_group=scaling))
    group = replace(GROUP, tiers=tiers)
    mapping = Map(zones={"z": "z"}, subnets={"s": "s"}, types={"t": "t"})
    findings = carried(group, mapping, "away")
    assert [(one.word, one.severity, one.where) for one in findings] == [
        ("carried-with-loss", "error", "tiers.db"),
        ("carried-with-loss", "error", "tiers.web"),
    ]
    assert "marketplace:abc" in findings[0].message


def test_what_a_standby_will_lack_is_said(estate: Estate, found: Group) -> None:
    """The second listener of the load balancer is not carried."""
    said = [one.message for one in uncarried(estate.site, found)]
    assert said == ["load balancer shop-lb: listener 8443 is not carried"]


def test_a_key_is_found_under_each_of_its_names() -> None:
    """A map may name a KMS key by ARN, id or alias."""
    arn = "arn:aws:kms:eu-west-1:1:key/abc"
    assert partner({arn: "x"}, arn) == "x"
    assert partner({"abc": "x"}, arn) == "x"
    assert partner({"alias/aws/ebs": "x"}, "alias/aws/ebs") == "x"
    assert partner({"other": "x"}, arn) is None


def test_values_are_the_domains_own(found: Group) -> None:
    """Discovery hands back the domain's values and no mapping of the API."""
    assert all(isinstance(one, Instance) for tier in found.tiers for one in tier.instances)
    assert isinstance(found.tier("web").load_balancer, LoadBalancer)


def test_a_site_that_fails_says_so(estate: Estate) -> None:
    """An unreachable site is a CloudError, never an empty tier."""
    dead: Any = replace(estate.ground.door, url="http://127.0.0.1:9", prepare=None, account=None).open()
    with pytest.raises(CloudError) as caught:
        members(dead, GROUP)
    assert caught.value.happened == "no"
