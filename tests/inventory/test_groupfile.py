"""The group file: what it becomes, where its mistakes stand, and the draft of a first one."""

# ruff: noqa: E501 - tables of texts and what is said of them: one a line

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.group import (
    Approvals,
    Bucket,
    Check,
    DrillPolicy,
    Group,
    Instance,
    LoadBalancer,
    Map,
    Objectives,
    Retention,
    ScalingGroup,
    Selector,
    StandbySize,
    Tier,
    Traffic,
    Volume,
)
from drpilot.inventory.groupfile import draft, read, require_group
from drpilot.inventory.survey import Subnet, Survey, Surveyed

SHOP = """\
drpilot: 1
group: shop
primary: milan
secondary: ireland
objectives: {rpo: 15m, rto: 30m}
replicate: {every: 10m, keep: {last: 6, hourly: 24, daily: 14}}
drill: {cron: "0 3 * * sun", timezone: Europe/Rome, expires: 2h}
approvals: {failover: 2, switchover: 1, commit: 1}
map:
  zones: {cluster01: eu-west-1a, cluster02: eu-west-1b}
  types: {m1.large: t3.large, m1.xlarge: m5.xlarge}
tiers:
  db:
    instances: {tag: tier=db}
    freeze: [/opt/shop/bin/freeze, /opt/shop/bin/thaw]
    standby: {size: t3.small, grow: m5.xlarge, otherwise: [m5a.xlarge]}
    check: {tcp: 5432}
  app:
    scaling_group: shop-app
    standby: {count: 0, grow: 3}
    check: {http: "http://{address}:8080/healthz", contains: ok}
  web:
    instances: {ids: [i-0a, i-0b]}
    load_balancer: shop-lb
traffic: {name: shop.example.org., zone: Z0A1B2C3D4, site: ireland, ttl: 30}
fence: [scale, deny]
cooldown: 20m
tag: app=shop
"""
SITES = ("milan", "ireland")


@pytest.mark.row(5)
def test_reads_a_whole_group() -> None:
    """Every key of the file stands in the group, tiers in their order."""
    assert require_group(SHOP, "shop.yaml", SITES) == Group(
        "shop",
        "milan",
        "ireland",
        Objectives(900.0, 1800.0),
        (
            Tier(
                "db",
                Selector("tier=db"),
                standby=StandbySize("t3.small", "m5.xlarge", ("m5a.xlarge",)),
                check=Check(5432),
                freeze=("/opt/shop/bin/freeze", "/opt/shop/bin/thaw"),
            ),
            Tier(
                "app",
                scaling_group_name="shop-app",
                standby=StandbySize(grow_count=3),
                check=Check(None, "http://{address}:8080/healthz", "ok"),
            ),
            Tier("web", Selector(None, ("i-0a", "i-0b")), load_balancer_name="shop-lb"),
        ),
        Map(
            zones={"cluster01": "eu-west-1a", "cluster02": "eu-west-1b"},
            types={"m1.large": "t3.large", "m1.xlarge": "m5.xlarge"},
        ),
        600.0,
        Retention(6, 24, 14),
        DrillPolicy("0 3 * * sun", "Europe/Rome", 7200.0),
        Approvals(2, 1, 1),
        Traffic("shop.example.org", "Z0A1B2C3D4", "ireland", 30),
        ("scale", "deny"),
        1200.0,
        "app=shop",
    )


def test_defaults() -> None:
    """The least a group file holds; the rest has the defaults of the domain."""
    text = "drpilot: 1\ngroup: g\nprimary: milan\nsecondary: ireland\nobjectives: {rpo: 15m, rto: 1h}\ntiers: {a: {scaling_group: x}}\n"
    group = require_group(text, "g.yaml", SITES)
    assert group == Group(
        "g", "milan", "ireland", Objectives(900.0, 3600.0), (Tier("a", scaling_group_name="x"),)
    )


def swapped(old: str, new: str) -> str:
    """The shop with one text replaced."""
    assert SHOP.count(old) >= 1
    return SHOP.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("tiers:", "teirs:", "1:1: key 'tiers' is missing; 12:1: unknown key 'teirs' (did you mean 'tiers'?)"),
        ("group: shop", "group: Shop", "2:8: group: 'Shop' does not have the form ^[a-z][a-z0-9-]*$"),
        ("primary: milan", "primary: milano", "3:1: site 'milano' is not in drpilot.yaml (did you mean 'milan'?)"),
        ("secondary: ireland", "secondary: milan", "4:1: primary and secondary are the same site"),
        ("site: ireland, ttl", "site: rome, ttl", "25:54: site 'rome' is not in drpilot.yaml"),
        ("rpo: 15m", "rpo: 15", "5:19: objectives.rpo: '15' is not a duration; write a number with a unit, such as 90s, 15m or 1h30m"),
        ("rto: 30m", "rto: 0s", "5:29: objectives.rto: must be longer than nothing"),
        (", rto: 30m", "", "5:13: key 'rto' is missing under 'objectives'"),
        ("last: 6", "last: 0", "6:38: replicate.keep.last: must be at least 1, not '0'"),
        ("hourly: 24", "hourly: 024", "6:49: replicate.keep.hourly: '024' is not a whole number in decimals without leading zeros"),
        ('"0 3 * * sun"', '"0 3 * *"', "7:15: drill.cron: '0 3 * *' is no cron expression; it has five fields: minute hour day month weekday"),
        ('"0 3 * * sun"', '"0 25 * * sun"', "7:15: drill.cron: '0 25 * * sun' is no cron expression: Bad hour"),
        ('"0 3 * * sun"', '"0 0 31 2 *"', "7:15: drill.cron: '0 0 31 2 *' is no cron expression: Bad day-of-month"),
        ("Europe/Rome", "Europe/Rom", "7:40: drill.timezone: 'Europe/Rom' is no time zone; write one such as Europe/Rome"),
        ("Europe/Rome", "../etc", "7:40: drill.timezone: '../etc' is no time zone; write one such as Europe/Rome"),
        ("failover: 2", "failover: 0", "8:23: approvals.failover: must be at least 1, not '0'"),
        ("cluster02: eu-west-1b", "cluster02: eu-west-1a", "10:34: map.zones: cluster01 and cluster02 both become eu-west-1a"),
        ("cluster02: eu-west-1b", "cluster01: eu-west-1b", "10:34: key 'cluster01' stands here twice, first in line 10"),
        ("eu-west-1b", "''", "10:45: map.zones.cluster02: has no partner yet; name what it becomes on the other site"),
        ("  types:", "  tyeps:", "11:3: unknown key 'tyeps' (did you mean 'types'?)"),
        ("  db:", "  DB:", "13:3: tiers.DB: 'DB' does not have the form ^[a-z][a-z0-9_-]*$"),
        ("{tag: tier=db}", "{tag: tier}", "14:22: tiers.db.instances.tag: 'tier' is no tag; write KEY=VALUE"),
        ("{tag: tier=db}", "{tag: 'drpilot:x=y'}", "14:22: tiers.db.instances.tag: tags that begin with drpilot: are drpilot's own"),
        ("{tag: tier=db}", "{}", "14:5: instances are found by a tag or by ids, one of both"),
        ("{tag: tier=db}", "{tag: a=b, ids: [i-1]}", "14:5: instances are found by a tag or by ids, one of both"),
        ("[i-0a, i-0b]", "[vol-1]", "23:23: tiers.web.instances.ids: 'vol-1' does not have the form ^i-[0-9A-Za-z]+$"),
        ("freeze, /opt/shop/bin/thaw]", "freeze]", "15:5: freeze holds two commands: one that freezes, one that thaws"),
        ("{count: 0, grow: 3}", "{count: 0, grow: 3}\n    bootstrap: [/opt/shop/bin/first]", "21:5: bootstrap is for instances; a scaling group's machines come at any time: give them user data"),
        ("freeze: [/opt/shop/bin/freeze, /opt/shop/bin/thaw]", "bootstrap: ['']", "15:17: tiers.db.bootstrap: must have at least 1 characters, not ''"),
        ("freeze: [/opt/shop/bin/freeze, /opt/shop/bin/thaw]", "bootstrap: /opt/first", "15:16: tiers.db.bootstrap: a list is wanted, not '/opt/first'"),
        ("grow: m5.xlarge", "grow: 3", "16:31: instances grow to a type such as m5.xlarge, not to 3"),
        ("{size: t3.small", "{count: 1, size: t3.small", "16:15: count is for a scaling group; instances wait stopped, as size"),
        ("{count: 0, grow: 3}", "{count: 0, grow: m5.large}", "20:25: a scaling group grows to a number of instances, not to 'm5.large'"),
        ("{count: 0, grow: 3}", "{size: t3.small, grow: 3}", "20:15: size is for instances; a scaling group has count and grow"),
        ("tcp: 5432", "tcp: 70000", "17:18: tiers.db.check.tcp: must be at most 65535, not '70000'"),
        ("{tcp: 5432}", "{}", "17:5: a check needs tcp or http"),
        ("{tcp: 5432}", "{tcp: 1, contains: x}", "17:21: contains looks into the answer of http"),
        ("http://{address}", "http://{addr}", "21:19: tiers.app.check.http: 'http://{addr}:8080/healthz' is no URL; write http://{address}:8080/healthz or a whole one"),
        ("scaling_group: shop-app", "instances: {tag: tier=db}", "19:5: tier 'db' has tier=db already; 20:15: count is for a scaling group; instances wait stopped, as size; 20:25: instances grow to a type such as m5.xlarge, not to 3"),
        ("    scaling_group: shop-app\n", "", "18:3: tier 'app' needs either instances or a scaling_group"),
        ("    load_balancer:", "    scaling_group: x\n    load_balancer:", "22:3: tier 'web' needs either instances or a scaling_group, not both"),
        ("ttl: 30", "ttl: 0", "25:74: traffic.ttl: must be at least 1, not '0'"),
        ("[scale, deny]", "[scale, scale]", "26:16: rung 'scale' stands twice"),
        ("[scale, deny]", "[shoot]", "26:9: fence: must be 'traffic', 'scale', 'stop', 'deny' or 'credentials', not 'shoot'"),
        ("tag: app=shop", "tag: [app]", "28:1: tag: a text is wanted, not a list"),
    ],
)  # fmt: skip
def test_mistakes_have_their_place(old: str, new: str, wanted: str) -> None:
    """Each seeded mistake is found at its line and column, and nothing else is."""
    document = read(swapped(old, new), "shop.yaml", SITES)
    assert document.group is None
    found = [
        f"{finding.where.removeprefix('shop.yaml:')}: {finding.message}" for finding in document.findings
    ]
    assert "; ".join(sorted(found, key=lambda line: [int(part) for part in line.split(":")[:2]])) == wanted


def test_a_late_replication_is_a_warning() -> None:
    """A replication slower than the objective is said, but the group can be protected."""
    document = read(swapped("every: 10m", "every: 1h"), "shop.yaml", SITES)
    assert document.group is not None
    (finding,) = document.findings
    assert (finding.severity, finding.where) == ("warning", "shop.yaml:6:13")
    assert finding.message == "a point every 1h can't keep an RPO of 15m"


def test_findings_of_later_checks_get_their_place() -> None:
    """What names a path, such as `map.zones`, is put at the line of that key."""
    document = read(SHOP, "shop.yaml", SITES)
    later = [
        Finding("unmapped", "error", "x", where)
        for where in ("map.zones", "map.kms_keys", "tiers.db", "nowhere")
    ]
    places = [finding.where for finding in document.located(later)]
    assert places == ["shop.yaml:10:3", "shop.yaml:9:1", "shop.yaml:13:3", "shop.yaml:1:1"]
    assert document.position("tiers", "db", "instances") == "shop.yaml:14:5"


def test_require_raises_one_error_with_all_findings() -> None:
    """All mistakes of a file come in one error with exit code 6."""
    text = SHOP.replace("milan", "milano").replace("rung", "x")
    with pytest.raises(DrpilotError) as caught:
        require_group(text.replace("[scale, deny]", "[stop, stop]"), "shop.yaml", SITES)
    assert caught.value.exit_code == 6
    assert [row["word"] for row in caught.value.data["findings"]] == ["unknown-site", "wrong-value"]


@given(st.integers(0, len(SHOP)), st.integers(0, 12), st.text("abz:{}[],\"'\n -#&*!0", max_size=4))
def test_any_damage_gives_a_group_or_findings(start: int, length: int, put: str) -> None:
    """Cut or overwrite the file anywhere: there is a group, or there are errors with a position."""
    document = read(SHOP[:start] + put + SHOP[start + length :], "shop.yaml", SITES)
    errors = [finding for finding in document.findings if finding.severity == "error"]
    assert (document.group is None) == bool(errors)
    assert all(re.fullmatch(r"shop\.yaml:\d+:\d+", finding.where) for finding in document.findings)


# -- draft ---------------------------------------------------------------------------------------------------------

VOLUME = Volume(
    "db-1/dev/sdf", "vol-1", "/dev/sdf", 8, "gp3", encrypted=True, kms_key="arn:aws:kms:x:1:key/k1"
)
DB = Instance(
    "db-1", "i-1", "m5.xlarge", "z1", "subnet-1", "ami-1", "running",
    security_groups=("shop-db",), key_pair="ops", profile="shop", volumes=(VOLUME,), tags={"tier": "db"},
)  # fmt: skip
APP = ScalingGroup("shop-app", "ami-2", "t3.small", 1, 4, 3, ("subnet-1", "subnet-2"), security_groups=("shop-app",), key_pair="ops")  # fmt: skip
WEB = ScalingGroup("shop-web", "ami-3", "x9.huge", 1, 4, 2, ("subnet-2",), security_groups=("odd group",))
BALANCER = LoadBalancer("shop-lb", "arn", "shop-lb.example.org", "internet-facing", "application", ("subnet-1",), ("shop-web",), 80, "HTTP", "tg", 8080, "HTTP", "/healthz")  # fmt: skip
PRIMARY = Survey(
    "milan",
    {
        "web": Surveyed(scaling_groups=(WEB,), load_balancers=(BALANCER,)),
        "app": Surveyed(scaling_groups=(APP,)),
        "db": Surveyed((DB,)),
        "": Surveyed((Instance("batch", "i-9", "m5.large", "z1", "subnet-1", "ami-9", "running"),)),
    },
    ("z1", "z2", "z3"),
    (Subnet("subnet-1", "z1", "10.0.0.0/24", "one"), Subnet("subnet-2", "z2", "10.0.1.0/24", "two"), Subnet("subnet-3", "z3", "10.0.2.0/24")),
)  # fmt: skip
SECONDARY = Survey(
    "ireland",
    {},
    ("a", "b"),
    (Subnet("subnet-7", "a", "10.1.0.0/24", "other"), Subnet("subnet-8", "a", "10.1.1.0/24", "one"), Subnet("subnet-9", "b", "10.1.2.0/24")),
    ("ops",),
    ("shop-app", "shop-db", "shop-web"),
    ("t3.small", "m5.xlarge"),
)  # fmt: skip


@pytest.mark.row(27)
def test_draft() -> None:
    """The draft orders tiers from data to users, pairs by name and order, and marks every guess."""
    text = draft("shop", PRIMARY, SECONDARY, "app=shop")
    lines = text.splitlines()
    assert "  zones: {z1: a, z2: b}" in [line.split("  #")[0].rstrip() for line in lines]
    assert "  subnets: {subnet-1: subnet-8, subnet-2: subnet-9}" in [
        line.split("#")[0].rstrip() for line in lines
    ]
    assert re.search(
        r"types: \{m5.xlarge: m5.xlarge, t3.small: t3.small, x9.huge: \"\"\} *# \? x9.huge: no partner found",
        text,
    )
    assert re.search(r'security_groups: \{.*"odd group": "".*# \? odd group: no partner found', text)
    assert re.search(r'kms_keys: \{"arn:aws:kms:x:1:key/k1": ""\}', text)
    assert [line.strip(" :") for line in lines if re.fullmatch(r"  (db|app|web):", line)] == [
        "db",
        "app",
        "web",
    ]
    assert "# in no tier, because they have no tag `tier`: batch" in lines
    assert "# ? the name that leads to shop-lb.example.org" in lines
    assert sum("# ?" in line for line in lines) >= 8


def test_a_draft_without_gaps_is_a_group_file() -> None:
    """Once the missing partners are written in, the draft reads as a group with the tiers found."""
    text = draft("shop", PRIMARY, SECONDARY, "app=shop")
    document = read(text, "shop.yaml", SITES)
    assert document.group is None
    assert {finding.message.split(": ")[1] for finding in document.findings} == {
        "has no partner yet; name what it becomes on the other site"
    }
    filled = re.sub(r'""', lambda match: f"filled-{match.start()}", text)
    group = require_group(filled, "shop.yaml", SITES)
    assert [tier.name for tier in group.tiers] == ["db", "app", "web"]
    assert group.tiers[0].standby == StandbySize("t3.small", "m5.xlarge")
    assert group.tiers[0].selector == Selector("tier=db")
    assert group.tiers[1].standby.grow_count == 3
    assert group.tiers[2].check == Check(None, "http://{address}:8080/healthz")
    assert group.tiers[2].load_balancer_name == "shop-lb"
    assert group.tag == "app=shop"


def test_a_draft_of_mixed_labels() -> None:
    """One value of the tag `tier` with instances and scaling groups becomes several tiers with names of their own."""
    tcp = LoadBalancer(
        "nlb", "arn", "nlb.example.org", "internal", "network", (), (), 80, "TCP", "tg-2", 9000, "TCP"
    )
    both = Surveyed(
        (DB,), (APP, ScalingGroup("shop-b", "ami", "t3.small", 0, 2, 0, target_groups=("tg-2",))), (tcp,)
    )
    text = draft("mixed", Survey("milan", {"Front End": both, "9": Surveyed((), (WEB,))}), SECONDARY)
    assert re.findall(r"^  ([a-z0-9-]+):$", text, re.MULTILINE) == [
        "front-end",
        "front-end-1",
        "tier",
        "front-end-2",
    ]
    assert "check: {tcp: 9000}" in text
    assert "grow: 1}" in text
    assert "{tag: tier=db}" in text
    alike = Survey("milan", {"a b": Surveyed((DB,)), "a-b": Surveyed((), (APP,))})
    assert re.findall(r"^  ([a-z0-9-]+):$", draft("x", alike, SECONDARY), re.MULTILINE) == ["a-b", "a-b-2"]


BUCKETS = """\
buckets:
  assets: {primary: shop-assets, secondary: shop-assets-dr/all/, delete: true}
  uploads: {primary: shop-uploads/in, secondary: shop-uploads}
"""


def test_buckets_are_members_with_a_place_on_each_site() -> None:
    """A bucket or a folder of one, by the name each site has for it; what lies beside another one is no overlap."""
    group = require_group(SHOP + BUCKETS, "shop.yaml", SITES)
    assert group.buckets == (
        Bucket("assets", "shop-assets", "shop-assets-dr/all", delete=True),
        Bucket("uploads", "shop-uploads/in", "shop-uploads"),
    )
    assert group.bucket_on(group.bucket("assets"), "ireland") == "shop-assets-dr/all"
    assert require_group(SHOP, "shop.yaml", SITES).buckets == ()


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("primary: shop-assets,", "primary: Shop,", "30:21: buckets.assets.primary: 'Shop' is no name of a bucket; write 3 to 63 small letters, digits, dots, hyphens"),
        ("primary: shop-assets,", "primary: shop-assets/,", "30:21: buckets.assets.primary: 'shop-assets/' names no folder; write BUCKET or BUCKET/PREFIX"),
        ("delete: true", "delete: 1", "30:74: buckets.assets.delete: '1' is not true or false"),
        ("shop-uploads/in, secondary: shop-uploads", "shop-assets/in, secondary: shop-uploads", "31:13: shop-assets/in lies in shop-assets of bucket assets, or around it"),
        ("secondary: shop-uploads", "secondary: shop-assets-dr", "31:39: shop-assets-dr lies in shop-assets-dr/all of bucket assets, or around it"),
        (", secondary: shop-uploads", "", "31:12: key 'secondary' is missing under 'buckets.uploads'"),
    ],
)  # fmt: skip
def test_mistakes_about_buckets_have_their_place(old: str, new: str, wanted: str) -> None:
    """A name that is none, a folder in another one: found at line and column, on the side it stands."""
    text = SHOP + BUCKETS
    assert old in text
    document = read(text.replace(old, new), "shop.yaml", SITES)
    assert document.group is None
    found = [f"{one.where.removeprefix('shop.yaml:')}: {one.message}" for one in document.findings]
    assert found == [wanted]


def test_a_bootstrap_is_a_program_with_its_arguments() -> None:
    """One word each, as they stand there."""
    text = SHOP.replace(
        "    load_balancer: shop-lb\n",
        '    load_balancer: shop-lb\n    bootstrap: [/opt/first, "two words", -v]\n',
    )
    group = require_group(text, "shop.yaml", SITES)
    assert group.tier("web").bootstrap == ("/opt/first", "two words", "-v")
    assert group.tier("db").bootstrap == ()
