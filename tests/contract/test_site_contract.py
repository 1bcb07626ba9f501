"""What every cloud behind the door must do: the contract of `Site`, on the lab twice and on moto.

The lab is our own work, so moto is the second opinion; what it gets wrong stands in `grounds.GAPS`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.clouds.dryrun import DryRunSite
from drpilot.clouds.witness import S3Witness
from drpilot.domain.fence import Claim
from drpilot.domain.ports import CloudError, FailureClass, Stale
from tests.contract.grounds import BLOCK, Ground, block_of
from tests.grounds import key_file

F = FailureClass


# -- who -------------------------------------------------------------------------------------------------


def test_the_site_says_who_we_are(ground: Ground) -> None:
    """The account is the pinned one."""
    identity = ground.door.open().connect()
    assert identity.account == ground.door.account
    assert identity.arn.startswith("arn:aws:")


def test_the_clocks_are_compared(ground: Ground) -> None:
    """The site's date is near ours, because it runs on this machine."""
    skew_s = ground.door.open().connect().skew_s
    assert skew_s is not None
    assert abs(skew_s) < 30


def test_another_account_is_refused(ground: Ground) -> None:
    """A site pinned to another account answers no call."""
    door = replace(ground.door, account="000000000000")
    with pytest.raises(DrpilotError) as caught:
        door.open().connect()
    assert caught.value.word == "wrong-account"
    with pytest.raises(CloudError) as refused:
        door.open().call("ec2", "DescribeRegions", {})
    assert refused.value.code == "WrongAccount"


def test_a_wrong_secret_is_refused(ground: Ground) -> None:
    """A key whose secret is wrong is an authentication failure, in the words of the catalogue."""
    folder = ground.door.keys.parent / "wrong"
    folder.mkdir(exist_ok=True)
    text = ground.door.keys.read_text()
    secret = next(line.split("=")[1].strip() for line in text.splitlines() if "secret" in line)
    door = replace(ground.door, keys=key_file(folder, text.replace(secret, "wrong" + secret[5:])))
    with pytest.raises(DrpilotError) as caught:
        door.open().connect()
    assert caught.value.word == "credentials"
    assert secret not in str(caught.value.as_json())


# -- once and only once ----------------------------------------------------------------------------------


def test_one_token_makes_one_instance(ground: Ground) -> None:
    """The same RunInstances with the same token gives the same instance."""
    token, words = ground.fresh("token"), ground.launch_words()
    first = ground.call("RunInstances", token=token, **words)["Instances"][0]["InstanceId"]
    again = ground.call("RunInstances", token=token, **words)["Instances"][0]["InstanceId"]
    assert first == again


def test_one_token_makes_one_volume(ground: Ground) -> None:
    """The same CreateVolume with the same token gives the same volume."""
    token = ground.fresh("token")
    given = {"AvailabilityZone": ground.zone, "Size": 1}
    first, again = (ground.call("CreateVolume", token=token, **given)["VolumeId"] for _ in range(2))
    assert first == again


def test_two_tokens_make_two_volumes(ground: Ground) -> None:
    """Different tokens, and no token at all, make different volumes: the door fills in none."""
    given = {"AvailabilityZone": ground.zone, "Size": 1}
    tokens = [ground.fresh("token"), ground.fresh("token"), None, None]
    made = [ground.call("CreateVolume", token=token, **given)["VolumeId"] for token in tokens]
    assert len(set(made)) == 4


def test_a_token_used_for_something_else_is_refused(ground: Ground) -> None:
    """IdempotentParameterMismatch is a conflict, and nothing happened."""
    token = ground.fresh("token")
    ground.call("CreateVolume", token=token, AvailabilityZone=ground.zone, Size=1)
    error = ground.refusal("CreateVolume", token=token, AvailabilityZone=ground.zone, Size=2)
    assert (error.code, error.kind, error.happened) == ("IdempotentParameterMismatch", F.CONFLICT, "no")


def test_tags_of_the_create_call_find_what_it_made(ground: Ground) -> None:
    """What takes no token is found again by the tag of its create call, and by nothing else."""
    mark = ground.fresh("run")
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "drpilot:run", "Value": mark}]}]
    made = ground.snapshot(ground.volume(), TagSpecifications=tags)
    ground.snapshot(ground.volume())
    filters = [{"Name": "tag:drpilot:run", "Values": [mark]}]
    pages = ground.site.pages("ec2", "DescribeSnapshots", {"Filters": filters})
    assert [one["SnapshotId"] for page in pages for one in page["Snapshots"]] == [made]


# -- dry run ---------------------------------------------------------------------------------------------


def test_a_dry_run_of_the_cloud_changes_nothing(ground: Ground) -> None:
    """DryRun answers DryRunOperation, is trusted after the proof, and makes no volume."""
    mark = ground.fresh("dry")
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "dry", "Value": mark}]}]
    given = {"AvailabilityZone": ground.zone, "Size": 1, "TagSpecifications": tags}
    assert ground.site.dry_run_trusted() is True
    assert ground.site.allowed("CreateVolume", given) is True
    found = ground.call("DescribeVolumes", Filters=[{"Name": "tag:dry", "Values": [mark]}])
    assert found.get("Volumes", []) == []


def test_a_dry_run_of_ours_changes_nothing(ground: Ground) -> None:
    """Behind DryRunSite a changing call never leaves."""
    dry = DryRunSite(ground.site)
    with pytest.raises(CloudError):
        dry.call("ec2", "CreateVolume", {"AvailabilityZone": ground.zone, "Size": 1})
    assert [one.operation for one in dry.refused] == ["CreateVolume"]
    assert dry.call("ec2", "DescribeRegions", {})["Regions"]


# -- refusals --------------------------------------------------------------------------------------------


def test_a_malformed_id_is_invalid_and_an_unknown_one_not_found(ground: Ground) -> None:
    """Two different answers: one says the caller is wrong, the other that it is not there."""
    unknown = ground.refusal("DescribeInstances", InstanceIds=["i-0123456789abcdef0"])
    malformed = ground.refusal("DescribeInstances", InstanceIds=["nonsense"])
    assert (unknown.kind, unknown.code) == (F.NOT_FOUND, "InvalidInstanceID.NotFound")
    assert (malformed.kind, malformed.code) == (F.INVALID, "InvalidInstanceID.Malformed")


def test_what_is_not_there_is_not_found(ground: Ground) -> None:
    """Volumes and snapshots that never were, and objects in buckets that never were."""
    assert ground.refusal("DescribeVolumes", VolumeIds=["vol-0123456789abcdef0"]).kind is F.NOT_FOUND
    assert ground.refusal("DescribeSnapshots", SnapshotIds=["snap-0123456789abcdef0"]).kind is F.NOT_FOUND
    assert ground.refusal("GetObject", service="s3", Bucket="nobodys-bucket", Key="x").kind is F.NOT_FOUND


def test_an_action_nobody_knows_is_refused_and_did_not_happen(ground: Ground) -> None:
    """An action the cloud lacks is a definite no."""
    error = ground.refusal("CreateIpam")
    assert (error.kind, error.code, error.happened) == (F.INVALID, "InvalidAction", "no")


def test_an_unknown_image_can_not_be_launched(ground: Ground) -> None:
    """A wrong image id is found out before an instance is made."""
    words = {**ground.launch_words(), "ImageId": "ami-0123456789abcdef0"}
    assert ground.refusal("RunInstances", **words).kind is F.NOT_FOUND


def test_a_protected_instance_is_not_terminated(ground: Ground) -> None:
    """Termination protection is a precondition, not a permission."""
    instance = ground.instance()
    ground.call("ModifyInstanceAttribute", InstanceId=instance, DisableApiTermination={"Value": True})
    error = ground.refusal("TerminateInstances", InstanceIds=[instance])
    assert (error.code, error.kind, error.happened) == ("OperationNotPermitted", F.PRECONDITION, "no")


# -- listings --------------------------------------------------------------------------------------------


def test_all_pages_together_have_each_thing_once(ground: Ground) -> None:
    """Twelve volumes in pages of five: each exactly once, whatever page size the cloud takes."""
    mark = ground.fresh("paged")
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "paged", "Value": mark}]}]
    made = {ground.volume(TagSpecifications=tags) for _ in range(12)}
    given = {"Filters": [{"Name": "tag:paged", "Values": [mark]}], "MaxResults": 5}
    found = [
        one["VolumeId"]
        for page in ground.site.pages("ec2", "DescribeVolumes", given)
        for one in page["Volumes"]
    ]
    assert len(found) == 12
    assert set(found) == made


def test_the_clouds_pages_are_as_small_as_asked_for(ground: Ground) -> None:
    """No page holds more than MaxResults."""
    for _ in range(6):
        ground.volume()
    pages = list(ground.site.pages("ec2", "DescribeVolumes", {"MaxResults": 5}))
    assert len(pages) > 1
    assert all(len(page["Volumes"]) <= 5 for page in pages)


def test_record_sets_are_listed_over_pages(ground: Ground) -> None:
    """Route 53 pages by name and type; three records in pages of one."""
    zone = ground.call(
        "CreateHostedZone", service="route53", Name=f"{ground.fresh('zone')}.org", CallerReference="c"
    )
    zone_id, name = zone["HostedZone"]["Id"], zone["HostedZone"]["Name"]
    changes = [
        {
            "Action": "UPSERT",
            "ResourceRecordSet": {
                "Name": f"{host}.{name}",
                "Type": "A",
                "TTL": 60,
                "ResourceRecords": [{"Value": "127.0.0.1"}],
            },
        }
        for host in ("a", "b", "c")
    ]
    batch = {"Changes": changes}
    ground.call("ChangeResourceRecordSets", service="route53", HostedZoneId=zone_id, ChangeBatch=batch)
    given = {"HostedZoneId": zone_id, "MaxItems": "1"}
    pages = ground.site.pages("route53", "ListResourceRecordSets", given)
    names = [one["Name"] for page in pages for one in page["ResourceRecordSets"] if one["Type"] == "A"]
    assert names == [f"{host}.{name}" for host in ("a", "b", "c")]


# -- volumes, snapshots, images --------------------------------------------------------------------------


def test_a_snapshot_is_pending_before_it_is_completed(ground: Ground) -> None:
    """A capture takes time; drpilot must wait for it and see its progress."""
    made = ground.call("CreateSnapshot", VolumeId=ground.volume())
    assert made["State"] == "pending"
    seen = ground.call("DescribeSnapshots", SnapshotIds=[made["SnapshotId"]])["Snapshots"][0]
    assert seen["State"] == "pending"
    assert seen["Progress"] != "100%"
    ground.completed(made["SnapshotId"])


def test_several_volumes_are_captured_in_one_call(ground: Ground) -> None:
    """CreateSnapshots takes all volumes of an instance, each with the tags of the call."""
    instance = ground.instance()
    given = {"InstanceSpecification": {"InstanceId": instance}, "Description": "one instant"}
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "point", "Value": "p"}]}]
    made = ground.call("CreateSnapshots", **given, TagSpecifications=tags)["Snapshots"]
    volumes = [one["Ebs"]["VolumeId"] for one in ground.instances(instance)[0]["BlockDeviceMappings"]]
    assert sorted(one["VolumeId"] for one in made) == sorted(volumes)
    assert all({"Key": "point", "Value": "p"} in one["Tags"] for one in made)


def test_a_volume_is_not_smaller_than_its_snapshot(ground: Ground) -> None:
    """A restore that would cut data off is refused."""
    snapshot = ground.snapshot(ground.volume(2))
    error = ground.refusal("CreateVolume", AvailabilityZone=ground.zone, Size=1, SnapshotId=snapshot)
    assert error.kind is F.INVALID


def test_a_volume_is_attached_only_in_its_zone(ground: Ground) -> None:
    """A volume in another zone than the instance is refused, definitely."""
    instance = ground.instance()
    other = ground.call("CreateVolume", AvailabilityZone=f"{ground.site.region}b", Size=1)["VolumeId"]
    ground.until(lambda: ground.states("DescribeVolumes", "Volumes", VolumeIds=[other]) == ["available"])
    error = ground.refusal("AttachVolume", VolumeId=other, InstanceId=instance, Device="/dev/sdf")
    assert (error.code, error.happened) == ("InvalidVolume.ZoneMismatch", "no")


def test_a_volume_is_attached_and_seen_at_its_instance(ground: Ground) -> None:
    """AttachVolume is observed at the volume and at the instance."""
    instance, volume = ground.instance(), ground.volume()
    ground.call("AttachVolume", VolumeId=volume, InstanceId=instance, Device="/dev/sdf")
    ground.until(lambda: ground.states("DescribeVolumes", "Volumes", VolumeIds=[volume]) == ["in-use"])
    mapped = {
        one["DeviceName"]: one["Ebs"]["VolumeId"]
        for one in ground.instances(instance)[0]["BlockDeviceMappings"]
    }
    assert mapped["/dev/sdf"] == volume


def test_an_image_keeps_its_block_devices(ground: Ground) -> None:
    """RegisterImage says afterwards which snapshot it boots from."""
    snapshot = ground.snapshot(ground.volume())
    image = ground.registered(snapshot)
    found = ground.call("DescribeImages", ImageIds=[image])["Images"][0]
    assert found["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"] == snapshot


def test_the_snapshot_of_an_image_can_not_be_deleted(ground: Ground) -> None:
    """Retention must take the image first: InvalidSnapshot.InUse is a conflict."""
    snapshot = ground.snapshot(ground.volume())
    ground.registered(snapshot)
    error = ground.refusal("DeleteSnapshot", SnapshotId=snapshot)
    assert (error.code, error.kind) == ("InvalidSnapshot.InUse", F.CONFLICT)


def test_a_snapshot_is_copied_to_the_other_site(ground: Ground) -> None:
    """A shared snapshot is copied by the site that wants it, with tags in the call, and keeps its size."""
    snapshot, mark = ground.snapshot(ground.volume(2)), ground.fresh("copy")
    if ground.other.account != ground.site.account:
        share = {"Attribute": "createVolumePermission", "OperationType": "add"}
        ground.call("ModifySnapshotAttribute", SnapshotId=snapshot, UserIds=[ground.other.account], **share)
    given = {"SourceRegion": ground.site.region, "SourceSnapshotId": snapshot}
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "drpilot:run", "Value": mark}]}]
    copied = ground.other.call("ec2", "CopySnapshot", {**given, "TagSpecifications": tags})["SnapshotId"]

    def seen() -> dict[str, object]:
        filters = [{"Name": "tag:drpilot:run", "Values": [mark]}]
        found = ground.other.call("ec2", "DescribeSnapshots", {"Filters": filters})["Snapshots"]
        return dict(found[0])

    ground.until(lambda: seen()["State"] == "completed")
    assert (seen()["SnapshotId"], seen()["VolumeSize"]) == (copied, 2)


# -- blocks ----------------------------------------------------------------------------------------------


def test_blocks_come_back_as_they_were_written(ground: Ground) -> None:
    """What PutSnapshotBlock took, GetSnapshotBlock gives, byte for byte."""
    blocks = {0: block_of(0), 3: block_of(3)}
    snapshot = ground.written(blocks)
    assert ground.blocks(snapshot) == blocks


def test_listed_blocks_come_in_order_and_in_pages(ground: Ground) -> None:
    """Blocks written out of order are listed in order, over more than one page (at least 100 a page)."""
    indexes = [5, *range(200, 90, -1), 0]
    snapshot = ground.written(dict.fromkeys(indexes, block_of(1)))
    pages = list(ground.site.pages("ebs", "ListSnapshotBlocks", {"SnapshotId": snapshot, "MaxResults": 100}))
    assert [one["BlockIndex"] for page in pages for one in page["Blocks"]] == sorted(indexes)
    assert len(pages) > 1
    assert all(page["BlockSize"] == BLOCK for page in pages)


def test_a_block_with_a_wrong_checksum_is_refused(ground: Ground) -> None:
    """Bytes that changed on the way never reach the snapshot."""
    snapshot = ground.call("StartSnapshot", service="ebs", VolumeSize=1)["SnapshotId"]
    with pytest.raises(CloudError) as caught:
        ground.put(snapshot, 0, block_of(0), checksum="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    assert (caught.value.kind, caught.value.happened) == (F.INVALID, "no")


def test_a_child_snapshot_has_the_blocks_of_its_parent(ground: Ground) -> None:
    """An incremental copy holds what did not change, too."""
    parent = ground.written({0: block_of(0), 1: block_of(1)})
    child = ground.written({1: block_of(9)}, ParentSnapshotId=parent)
    assert ground.blocks(child) == {0: block_of(0), 1: block_of(9)}


def test_changed_blocks_are_those_that_differ(ground: Ground) -> None:
    """ListChangedBlocks names what an incremental copy must carry, and nothing else."""
    first = ground.written({0: block_of(0), 1: block_of(1), 2: block_of(2)})
    second = ground.written({1: block_of(9), 5: block_of(5)}, ParentSnapshotId=first)
    given = {"FirstSnapshotId": first, "SecondSnapshotId": second}
    pages = ground.site.pages("ebs", "ListChangedBlocks", given)
    assert [one["BlockIndex"] for page in pages for one in page["ChangedBlocks"]] == [1, 5]


def test_a_snapshot_of_a_volume_can_be_read_by_blocks(ground: Ground) -> None:
    """A volume made from written blocks and captured again still holds them."""
    written = ground.written({2: block_of(2)})
    made = ground.call("CreateVolume", AvailabilityZone=ground.zone, SnapshotId=written)["VolumeId"]
    ground.until(lambda: ground.states("DescribeVolumes", "Volumes", VolumeIds=[made]) == ["available"])
    assert ground.blocks(ground.snapshot(made)) == {2: block_of(2)}


# -- the witness -----------------------------------------------------------------------------------------


def _witness(ground: Ground) -> S3Witness:
    bucket = ground.fresh("witness")
    where = {"LocationConstraint": ground.site.region}
    ground.call("CreateBucket", service="s3", Bucket=bucket, CreateBucketConfiguration=where)
    return S3Witness(ground.site, bucket, "claims")


def test_the_witness_keeps_a_claim(ground: Ground) -> None:
    """What is written conditionally is read back with its ETag."""
    witness = _witness(ground)
    assert witness.read("shop") == (None, "")
    claim = Claim("shop", 2, "away", "shop/1", "home")
    etag = witness.write(claim, replaces="")
    assert witness.read("shop") == (claim, etag)
    confirmed = Claim("shop", 2, "away")
    second = witness.write(confirmed, replaces=etag)
    assert witness.read("shop") == (confirmed, second)


def test_of_two_claims_one_is_stale(ground: Ground) -> None:
    """A claim over nothing, and a claim over an old ETag, both lose against what is there."""
    witness = _witness(ground)
    mine, theirs = Claim("shop", 2, "away", "shop/1", "home"), Claim("shop", 2, "away", "shop/2", "home")
    etag = witness.write(mine, replaces="")
    with pytest.raises(Stale, match="claimed by shop/1"):
        witness.write(theirs, replaces="")
    witness.write(Claim("shop", 2, "away"), replaces=etag)
    with pytest.raises(Stale, match="epoch 2, active away"):
        witness.write(theirs, replaces=etag)


def test_the_same_claim_again_is_settled_by_reading(ground: Ground) -> None:
    """A write whose answer was lost finds itself: no second epoch, no conflict."""
    witness = _witness(ground)
    claim = Claim("shop", 2, "away", "shop/1", "home")
    etag = witness.write(claim, replaces="")
    assert witness.write(claim, replaces="") == etag
