"""Counting a whole cloud: what is twice and what is left over, as pure functions of inventories."""

from __future__ import annotations

from typing import Any

from drpilot.census import duplicates, identifiers, leftovers


def row(
    kind: str, id_: str, site: str = "away", *, default: bool = False, body: Any = None, **tags: str
) -> dict[str, Any]:
    """One inventory row; `attempt`, `member`, `point` become drpilot's tags."""
    ours = ("attempt", "member", "point", "run", "fence")
    named = {f"drpilot:{key}" if key in ours else key: value for key, value in tags.items()}
    return {"site": site, "kind": kind, "id": id_, "tags": named, "default": default, "row": body or {}}


def test_the_same_attempt_and_member_twice_is_a_duplicate() -> None:
    """One making, two things; other members, sites and kinds are not."""
    rows = [
        row("volume", "vol-1", attempt="t", member="a"),
        row("volume", "vol-2", attempt="t", member="a"),
        row("volume", "vol-3", attempt="t", member="b"),
        row("volume", "vol-4", site="home", attempt="t", member="a"),
        row("instance", "i-1", attempt="t", member="a"),
    ]
    assert duplicates(rows) == ["volume vol-1, vol-2 on away"]


def test_the_same_point_and_member_twice_is_a_duplicate() -> None:
    """Two attempts that both made a copy of one member of one point."""
    rows = [row("snapshot", f"snap-{n}", attempt=str(n), member="a", point="p") for n in (1, 2)]
    assert duplicates(rows) == ["snapshot snap-1, snap-2 on away"]
    assert duplicates([row("snapshot", "snap-1", point="p"), row("snapshot", "snap-2", point="p")]) == []


def test_snapshots_of_one_call_differ_by_their_volume() -> None:
    """CreateSnapshots gives all of them the same tags."""
    same = [row("snapshot", f"snap-{n}", attempt="t", body={"VolumeId": f"vol-{n}"}) for n in (1, 2)]
    assert duplicates(same) == []
    twice = [row("snapshot", f"snap-{n}", attempt="t", body={"VolumeId": "vol-1"}) for n in (1, 2)]
    assert len(duplicates(twice)) == 1


def test_two_addresses_of_ours_for_one_member_are_a_duplicate() -> None:
    """Whichever attempts allocated them; one a member and site, and what somebody else has is not counted."""
    rows = [
        row("elastic-ip", "eipalloc-1", attempt="t", member="a"),
        row("elastic-ip", "eipalloc-2", attempt="u", member="a"),
        row("elastic-ip", "eipalloc-3", attempt="u", member="b"),
        row("elastic-ip", "eipalloc-4", site="home", attempt="v", member="a"),
        row("elastic-ip", "eipalloc-5", member="a"),
    ]
    assert duplicates(rows) == ["elastic-ip eipalloc-1, eipalloc-2 on away"]


def test_an_address_is_left_over_unless_its_machine_is_owned() -> None:
    """Bound to an owned standby it is accounted for; bound to nothing, or to nobody's machine, it is not."""
    rows = [
        row("instance", "i-standby"),
        row("elastic-ip", "eipalloc-1", body={"InstanceId": "i-standby"}),
        row("elastic-ip", "eipalloc-2", attempt="t"),
        row("elastic-ip", "eipalloc-3", body={"InstanceId": "i-other"}),
    ]
    left = leftovers(rows, [("away", "eipalloc-3")], {"i-standby"})
    assert left == ["elastic-ip eipalloc-2 on away"]


def test_left_over_is_what_is_new_and_nobody_owns() -> None:
    """Known before, owned by the journal, beneath an owned thing, made by the cloud: accounted for. The rest is not."""
    rows = [
        row("vpc", "vpc-old"),
        row("security-group", "sg-default", default=True),
        row("instance", "i-standby"),
        row("volume", "vol-of-standby", body={"Attachments": [{"InstanceId": "i-standby"}]}),
        row("instance", "i-scaled", **{"aws:autoscaling:groupName": "web"}),
        row("image", "ami-1", body={"BlockDeviceMappings": [{"Ebs": {"SnapshotId": "snap-under"}}]}),
        row("snapshot", "snap-under"),
        row("listener", "arn:l", body={"LoadBalancerArn": "arn:lb"}),
        row("load-balancer", "arn:lb"),
        row("network-interface", "eni-1"),
        row("security-group", "sg-deny", fence="deny"),
        row("volume", "vol-lost", run="r"),
    ]
    owned = {"i-standby", "web", "ami-1", "arn:lb"}
    assert leftovers(rows, [("away", "vpc-old")], owned) == ["volume vol-lost on away"]
    assert "snapshot snap-under on away" in leftovers(rows, [], owned - {"ami-1"})


def test_identifiers_are_every_text_inside() -> None:
    """Keys and values, however deep."""
    assert identifiers({"a": [{"b": "c"}, "d", 1, None]}) == {"a", "b", "c", "d"}
