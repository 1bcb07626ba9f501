"""Tags where create calls take none: the mark in the description, CreateTags after it, and finding by either."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from drpilot.clouds.marks import asked_by_mark, completed, packed, unpacked
from drpilot.domain.plain import Json
from drpilot.domain.ports import CloudError
from tests.clouds.strict import form, opened, strict, tag_filters
from tests.grounds import Heard, answering, response

TAGS = {
    "drpilot:run": "0abc",
    "drpilot:step": "tiers/db/capture",
    "drpilot:attempt": "0123456789abcdef0123456789abcdef",
    "drpilot:group": "shop",
    "drpilot:member": "db 1",
}


def _specified(kind: str, tags: dict[str, str] | None = None) -> Json:
    listed = [{"Key": key, "Value": value} for key, value in (tags or TAGS).items()]
    return {"ResourceType": kind, "Tags": listed}


# -- the mark --------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
_KEYS = st.from_regex(r"drpilot:[a-z][a-z-]{0,10}", fullmatch=True)


@drawn(st.dictionaries(_KEYS, _TEXT, max_size=4), st.text(st.characters(codec="ascii"), max_size=300))
def test_a_mark_is_read_back(more: dict[str, str], text: str) -> None:
    """What is packed comes out again, whole pairs at a time, in 255 characters that every cloud takes."""
    tags = {**more, **{key: TAGS[key] for key in ("drpilot:run", "drpilot:step", "drpilot:attempt")}}
    line = packed(tags, text)
    found = unpacked(line)
    assert len(line) <= 255
    assert found is not None
    assert found.items() <= tags.items()
    assert {
        key: found[key] for key in ("drpilot:run", "drpilot:step", "drpilot:attempt")
    }.items() <= tags.items()
    mark = line.split(" - ", 1)[0]
    assert all(char.isalnum() or char in " ._-:/()#,@[]+=&;{}!$*" for char in mark)
    if sum(len(key) + 3 * len(value.encode()) for key, value in tags.items()) < 200:
        assert found == tags


def test_what_is_too_long_loses_whole_pairs_from_the_end() -> None:
    """Run, step and attempt always stand; of the rest as much as fits."""
    tags = {**TAGS, "drpilot:tier": "x" * 120, "drpilot:point": "y" * 60}
    found = unpacked(packed(tags))
    assert found is not None
    assert set(TAGS) | {"drpilot:point"} == set(found)


def test_a_person_s_words_stay_behind_the_mark() -> None:
    """A description that is no mark is kept where it fits; tags that are not ours leave it alone."""
    assert packed(TAGS, "denies everything").endswith(" - denies everything")
    assert packed({"Name": "x"}, "words") == "words"
    assert unpacked("words") is None
    assert unpacked("drpilot: lets nothing out of a drill") is None


def test_only_listings_by_our_tags_are_asked_again() -> None:
    """Other filters stay in the question, ours are answered from the mark."""
    ours = {"Name": "tag:drpilot:run", "Values": ["0abc"]}
    other = {"Name": "tag:app", "Values": ["shop"]}
    asked = asked_by_mark({"Filters": [ours, other], "OwnerIds": ["self"]})
    assert asked == {
        "Filters": [other, {"Name": "description", "Values": ["drpilot:*"]}],
        "OwnerIds": ["self"],
    }
    assert asked_by_mark({"Filters": [other]}) is None
    assert asked_by_mark({}) is None
    item = {"Description": packed(TAGS), "Tags": [{"Key": "app", "Value": "shop"}]}
    (found,) = completed([item], {"Filters": [ours, other]})
    assert {"Key": "drpilot:member", "Value": "db 1"} in found["Tags"]
    assert completed([item], {"Filters": [{"Name": "tag:drpilot:run", "Values": ["other"]}]}) == []


# -- at the door -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "given", "kind", "id_"),
    [
        (
            "CreateSnapshot",
            {"VolumeId": "vol-1", "Description": "drpilot:shop/1/x"},
            "snapshot",
            "snap-1A2B3C4D",
        ),
        ("RegisterImage", {"Name": "image"}, "image", "emi-15A1386E"),
        ("CreateImage", {"InstanceId": "i-1", "Name": "image"}, "image", "emi-15A1386E"),
        (
            "CreateSecurityGroup",
            {"GroupName": "x", "Description": "drpilot: denies"},
            "security-group",
            "sg-0A0B0C0D",
        ),
        ("CreateVolume", {"AvailabilityZone": "a", "Size": 1}, "volume", "vol-5A6B7C8D"),
        ("RunInstances", {"ImageId": "emi-1", "MinCount": 1, "MaxCount": 1}, "instance", "i-6F2A0C11"),
    ],
)
def test_tags_are_set_right_after_where_the_call_takes_none(
    operation: str, given: Json, kind: str, id_: str, tmp_path: Path
) -> None:
    """The create call carries the mark where it has a description; CreateTags follows with every tag."""
    with strict("eucalyptus-4.4", tmp_path) as (site, cloudside):
        site.call(
            "ec2",
            operation,
            {**given, "TagSpecifications": [_specified(kind), _specified("other", {"x": "y"})]},
            token="t",
        )
        assert [action for action, _ in cloudside.calls] == [operation, "CreateTags"]
        made, tagged = cloudside.calls[0][1], cloudside.calls[1][1]
    assert tagged["ResourceId.1"] == id_
    assert {tagged[f"Tag.{n}.Key"]: tagged[f"Tag.{n}.Value"] for n in range(1, 6)} == TAGS
    described = made.get("Description") or made.get("GroupDescription")
    if operation in ("CreateVolume", "RunInstances"):
        assert described is None
    else:
        assert described is not None
        assert described.startswith(
            "drpilot:0abc/tiers/db/capture/0123456789abcdef0123456789abcdef group=shop member=db+201"
        )


@pytest.mark.parametrize("operation", ["CreateSnapshot", "CreateVolume"])
def test_5_sets_them_in_the_call_itself(operation: str, tmp_path: Path) -> None:
    """5.1 takes TagSpecifications of a snapshot and a volume: one call, nothing after it."""
    given: Json = {"VolumeId": "v"} if operation == "CreateSnapshot" else {"AvailabilityZone": "a", "Size": 1}
    with strict("eucalyptus-5", tmp_path) as (site, cloudside):
        site.call("ec2", operation, {**given, "TagSpecifications": [_specified("snapshot")]})
        assert [action for action, _ in cloudside.calls] == [operation]


def test_tags_that_could_not_be_set_leave_the_outcome_unknown(tmp_path: Path) -> None:
    """The thing was made: whoever called must look for it before making it again."""
    refusal = response(
        "<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>", 403
    )
    given = {"VolumeId": "v", "TagSpecifications": [_specified("snapshot")]}
    with (
        strict("eucalyptus-4.4", tmp_path, {"CreateTags": refusal}) as (site, _),
        pytest.raises(CloudError) as caught,
    ):
        site.call("ec2", "CreateSnapshot", given)
    assert (caught.value.code, caught.value.happened) == ("NotTagged", "unknown")
    assert "snap-1A2B3C4D was made" in caught.value.message


def _snapshot(id_: str, description: str, tags: dict[str, str]) -> str:
    listed = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    head = f"<snapshotId>{id_}</snapshotId><description>{description}</description>"
    return f"<item>{head}<tagSet>{listed}</tagSet></item>"


def test_what_lost_its_tags_is_found_by_its_description(tmp_path: Path) -> None:
    """Between create and CreateTags the process died: the listing by tag still gives the snapshot, with its tags."""
    lost = _snapshot("snap-lost", packed(TAGS), {})
    others = [
        _snapshot("snap-kept", packed(TAGS), {"drpilot:run": "0abc"}),
        _snapshot("snap-other", packed({**TAGS, "drpilot:run": "0xyz"}), {}),
        _snapshot("snap-people", "drpilot was here", {}),
    ]
    kept = _snapshot("snap-kept", packed(TAGS), {"drpilot:run": "0abc", "drpilot:step": "tiers/db/capture"})

    def script(heard: Heard, _: int) -> bytes:
        by_tag = "tag:drpilot:run" in tag_filters(form(heard))
        items = kept if by_tag else lost + "".join(others)
        return response(f"<X><snapshotSet>{items}</snapshotSet></X>")

    filters = [
        {"Name": "tag:drpilot:run", "Values": ["0abc"]},
        {"Name": "tag:drpilot:step", "Values": ["tiers/db/capture"]},
        {"Name": "tag-key", "Values": ["drpilot:member"]},
        {"Name": "status", "Values": ["completed"]},
    ]
    with answering(script) as server:
        site = opened("eucalyptus-4.4", server, tmp_path)
        pages = list(site.pages("ec2", "DescribeSnapshots", {"Filters": filters, "OwnerIds": ["self"]}))
        second = form(server.heard[-1])
    found = {item["SnapshotId"]: item for page in pages for item in page["Snapshots"]}
    assert list(found) == ["snap-kept", "snap-lost"]
    assert {tag["Key"]: tag["Value"] for tag in found["snap-lost"]["Tags"]} == TAGS
    assert tag_filters(second) == {"status": "completed", "description": "drpilot:*"}


def test_a_listing_that_asks_for_no_tag_of_ours_is_asked_once(tmp_path: Path) -> None:
    """The second question is for what the first can't find; nobody else pays for it."""
    with strict("eucalyptus-4.4", tmp_path) as (site, cloudside):
        list(site.pages("ec2", "DescribeSnapshots", {"Filters": [{"Name": "tag:app", "Values": ["shop"]}]}))
        assert len(cloudside.calls) == 1
