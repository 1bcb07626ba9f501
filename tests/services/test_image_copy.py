"""One image by hand over every way there is, on the real clouds of the lab: what arrives, that nothing is done twice,
that it goes on after any death, and that what can't be done is said.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drpilot.actions import landing
from drpilot.actions.staging import CargoInput
from drpilot.actions.views import tags_of
from drpilot.base.errors import DrpilotError
from drpilot.domain.ports import Answer, Context
from drpilot.services.imagecopy import copy_image
from tests.lab.delivery_world import until
from tests.services.imageworld import PREFIX, Died, Pair, legacy_image, pair, standing_for_a_group
from tests.transfer.craft import REFERENCE, owner, stranger

IMAGE_SHA256 = (REFERENCE / "image.sha256").read_text().split()[0]
IMAGE_BYTES = 26_214_400


@pytest.fixture(scope="module")
def _out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("out"), "aws", "eucalyptus-4.4") as made:
        made.image("shop-web")
        made.keep()
        yield made


@pytest.fixture(scope="module")
def _in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("in"), "eucalyptus-4.4", "aws") as made:
        made.image("shop-web")
        made.bundle()
        made.bundle("sealed", sealed=True)
        made.keep()
        yield made


@pytest.fixture
def out(_out: Pair) -> Pair:
    """From AWS to Eucalyptus 4.4."""
    _out.back()
    return _out


@pytest.fixture
def into(_in: Pair) -> Pair:
    """From Eucalyptus 4.4 to AWS."""
    _in.back()
    return _in


def named(world: Pair, name: str) -> str:
    """The id of an image of home."""
    images = world.clouds["home"].table("images")
    return next(key for key, row in images.items() if row["Name"] == name)


def clean(world: Pair, before: dict[str, dict[str, set[str]]]) -> dict[str, dict[str, int]]:
    """How many things of each kind stand that did not before; instances that have ended don't count."""
    found: dict[str, dict[str, int]] = {}
    for site in ("home", "away"):
        now = world.things(site)
        more = {kind: len(now[kind] - before[site].get(kind, set())) for kind in now}
        found[site] = {kind: count for kind, count in more.items() if count}
    return found


def standing(world: Pair) -> dict[str, dict[str, set[str]]]:
    """What stands on both sites."""
    return {site: world.things(site) for site in ("home", "away")}


def same_bytes(world: Pair, image: str, copy: str) -> None:
    """The root of the copy has the source's blocks, and there are some."""
    wanted = world.blocks("home", world.root("home", image))
    assert wanted
    assert world.blocks("away", world.root("away", copy)) == wanted


def test_aws_to_eucalyptus_by_import(out: Pair) -> None:
    """Blocks are staged, imported, snapshotted and registered as a whole-disk image; nothing else is left, and a
    second command changes nothing.
    """
    image, before = named(out, "shop-web"), standing(out)
    planned = out.plan(image)
    assert (planned.way.kind, planned.way.path.read, planned.way.path.write) == ("staged", "ebs", "import")
    done = out.copy(image)
    same_bytes(out, image, done.image)
    row = out.clouds["away"].table("images")[done.image]
    assert (row["Name"], row["Architecture"], row["VirtualizationType"]) == ("shop-web", "x86_64", "hvm")
    assert clean(out, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}
    assert {step for step, _, _ in out.told} >= {"read", "import", "seal"}
    _done_once_is_done(out, image, done.image)
    same_bytes(out, image, once_more(out, image, done.image))


def _done_once_is_done(out: Pair, image: str, copy: str) -> None:
    """The copy is found, also by who wants another name, by its description where it lost its tags, and by a
    replication of a group that launches the image.
    """
    out.life.calls.clear()
    again, other = out.copy(image), out.copy(image, name="another")
    assert (again.image, again.already, other.image, other.already) == (copy, True, copy, True)
    with out.clouds["away"].transaction():
        row = out.clouds["away"].table("images").get(copy)
        assert row is not None
        row["Tags"] = []
    assert out.copy(image).image == copy
    assert out.life.calls == []
    found, adopted = standing_for_a_group(out, image)
    assert (found and found["ImageId"], adopted) == (copy, True)


def once_more(world: Pair, image: str, old: str, **more: Any) -> str:
    """A second copy after the first one's image and snapshot were deleted: a new one, and nothing beside it."""
    ec2, root = world.doors["away"]("ec2"), world.root("away", old)
    before = standing(world)
    ec2.deregister_image(ImageId=old)
    ec2.delete_snapshot(SnapshotId=root)
    done = world.copy(image, **more)
    assert (done.already, done.image == old) == (False, False)
    assert world.root("away", done.image) != root
    assert clean(world, before)["away"] == {"image": 1, "snapshot": 1}
    return done.image


@pytest.mark.crash
def test_aws_to_eucalyptus_survives_any_death(out: Pair) -> None:
    """Dying again and again after one to three changing calls leaves exactly one image and one snapshot."""
    image, before = named(out, "shop-web"), standing(out)
    done, deaths = out.copy_dying(image)
    assert deaths >= 5
    same_bytes(out, image, done.image)
    assert clean(out, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}
    assert out.life.count("ImportVolume") == out.life.count("RegisterImage") == 1


def test_lost_replies_double_nothing(out: Pair) -> None:
    """The reply of each call that makes something is cut off after its effect: looked for, and not made again."""
    image, before = named(out, "shop-web"), standing(out)
    for call in ("ImportVolume", "CreateSnapshot", "RegisterImage", "DeleteVolume"):
        out.fault("away", f"lost-reply:ec2.{call}@1")
    done = out.copy(image)
    same_bytes(out, image, done.image)
    assert clean(out, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}


@pytest.mark.crash
def test_what_is_not_listed_yet_is_waited_for(out: Pair) -> None:
    """Listings lag behind and the process dies right after RegisterImage: it is looked for, not made again."""
    image, before = named(out, "shop-web"), standing(out)
    for call in ("DescribeImages", "DescribeSnapshots"):
        out.fault("away", f"stale-read=60:ec2.{call}")  # half a second
    out.settle_s, out.life.last = 1.0, "RegisterImage"
    with pytest.raises(Died):
        out.copy(image)
    done = out.copy(image)
    same_bytes(out, image, done.image)
    assert (out.life.count("RegisterImage"), out.life.count("CreateSnapshot")) == (1, 1)
    assert clean(out, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}


def tokens_of_carry(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tokens of the attempts that write a snapshot, from now on."""
    found: set[str] = set()

    class Noted(landing.Carry):
        def start(self, ctx: Context, given: CargoInput) -> Answer[landing.LandedOutput]:
            found.add(ctx.token)
            return super().start(ctx, given)

    monkeypatch.setattr(landing, "Carry", Noted)
    return found


def test_eucalyptus_to_aws_by_a_mover(into: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mover stages the root, EBS direct writes it; the mover, its volumes and the stage are gone at the end, and the
    snapshot carries the token of the attempt that made it.
    """
    tokens = tokens_of_carry(monkeypatch)
    image, before = named(into, "shop-web"), standing(into)
    planned = into.plan(image)
    assert (planned.way.path.read, planned.way.path.write) == ("mover", "ebs")
    done = into.copy(image, name="web at AWS")
    same_bytes(into, image, done.image)
    row = into.clouds["away"].table("images")[done.image]
    assert (row["Name"], row["VirtualizationType"]) == ("web at AWS", "hvm")
    root = into.clouds["away"].table("snapshots")[into.root("away", done.image)]
    assert {tags_of(root)["drpilot:attempt"]} == tokens
    left = clean(into, before)
    assert left["away"] == {"image": 1, "snapshot": 1}
    assert not {"volume", "bucket", "image", "snapshot"} & left["home"].keys()
    assert into.life.count("RunInstances") == 1
    same_bytes(into, image, once_more(into, image, done.image))
    assert into.life.count("RunInstances") == 2


@pytest.mark.crash
def test_eucalyptus_to_aws_survives_any_death(into: Pair) -> None:
    """One mover, one snapshot, one image, however often the command dies."""
    image, before = named(into, "shop-web"), standing(into)
    done, deaths = into.copy_dying(image)
    assert deaths >= 5
    same_bytes(into, image, done.image)
    left = clean(into, before)
    assert left["away"] == {"image": 1, "snapshot": 1}
    assert not {"volume", "bucket"} & left["home"].keys()


def image_sha256(world: Pair, snapshot: str) -> str:
    """The SHA-256 of the first bytes of a snapshot, as long as the image of the reference bundle."""
    cloud, whole = world.clouds["away"], bytearray(IMAGE_BYTES)
    for index, key in cloud.store.block_map(snapshot).items():
        block = cloud.store.get_block(key)
        whole[index * len(block) : (index + 1) * len(block)] = block
    return hashlib.sha256(whole[:IMAGE_BYTES]).hexdigest()


def test_a_bundle_becomes_an_ami(into: Pair) -> None:
    """A bundle of the real tools is unpacked with its owner's key into a snapshot that has image.sha256."""
    image, before = named(into, "web-bundle"), standing(into)
    assert into.plan(image).way.kind == "unbundled"
    done = into.copy(image, private_key=owner(), key_name="owner.pem")
    assert image_sha256(into, into.root("away", done.image)) == IMAGE_SHA256
    row = into.clouds["away"].table("images")[done.image]
    assert (row["RootDeviceType"], row["VirtualizationType"], row["Name"]) == ("ebs", "hvm", "web-bundle")
    assert clean(into, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}
    again = once_more(into, image, done.image, private_key=owner(), key_name="owner.pem")
    assert image_sha256(into, into.root("away", again)) == IMAGE_SHA256


@pytest.mark.crash
def test_an_unbundling_survives_any_death(into: Pair) -> None:
    """Blocks that were written are not written again, and one snapshot is made."""
    image, before = named(into, "web-bundle"), standing(into)
    done, deaths = into.copy_dying(image, every=8, private_key=owner(), key_name="owner.pem")
    assert deaths >= 3
    assert image_sha256(into, into.root("away", done.image)) == IMAGE_SHA256
    assert clean(into, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}


def test_keys_that_do_not_open(into: Pair) -> None:
    """Without a key it is usage; with a stranger's, or for a bundle the cloud sealed for itself, refused and said."""
    image, before = named(into, "web-bundle"), standing(into)
    with pytest.raises(DrpilotError) as none:
        into.copy(image)
    assert (none.value.word, none.value.exit_code) == ("usage", 2)
    for name, key in (("web-bundle", stranger()), ("sealed", owner())):
        with pytest.raises(DrpilotError) as refused:
            into.copy(named(into, name), private_key=key, key_name="k.pem")
        assert (refused.value.word, refused.value.exit_code) == ("bundle-sealed", 5)
        assert "cloud alone" in refused.value.row.cause
    assert into.life.calls == []
    assert clean(into, before) == {"home": {}, "away": {}}


def test_a_damaged_bundle_leaves_nothing(into: Pair) -> None:
    """A part that is not what its manifest says ends the copy; the snapshot that was begun is deleted."""
    image, before = named(into, "web-bundle"), standing(into)
    key = f"{PREFIX}/{next(REFERENCE.glob('*.part.00')).name}"
    data = next(REFERENCE.glob("*.part.00")).read_bytes()
    into.doors["home"]("s3").put_object(
        Bucket="images-web-bundle", Key=key, Body=data[:-32] + bytes(32), ACL="aws-exec-read"
    )
    with pytest.raises(DrpilotError) as refused:
        into.copy(image, private_key=owner(), key_name="k.pem")
    assert refused.value.word == "part-damaged"
    assert clean(into, before)["away"] == {}


@pytest.fixture(scope="module")
def _private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(tmp_path_factory.mktemp("private"), "eucalyptus-4.4", "eucalyptus-5") as made:
        made.image("shop-web")
        made.bundle()
        made.keep()
        yield made


@pytest.fixture
def private(_private: Pair) -> Pair:
    """Between two private clouds."""
    _private.back()
    return _private


def boots(world: Pair, image: str, block: int = 9) -> str:
    """The SHA-256 of the root of an instance launched from an image of away, in a network 10.`block`."""
    ec2, cloud = world.doors["away"]("ec2"), world.clouds["away"]
    network = ec2.create_vpc(CidrBlock=f"10.{block}.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=network, CidrBlock=f"10.{block}.1.0/24", AvailabilityZone="cluster01")
    made = ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, SubnetId=subnet["Subnet"]["SubnetId"])
    instance = made["Instances"][0]["InstanceId"]
    until(lambda: cloud.table("instances")[instance]["State"]["Name"] == "running", "the instance runs")
    return hashlib.sha256(cloud.store.read_volume(f"{instance}-root", 0, IMAGE_BYTES)).hexdigest()


def test_a_bundle_gets_a_new_manifest(private: Pair) -> None:
    """The other cloud's certificate is asked of it; parts are the same bytes, and an instance boots from them."""
    image = named(private, "web-bundle")
    assert private.plan(image).way.kind == "retargeted"
    done = private.copy(image, private_key=owner(), key_name="k.pem")
    bucket, _, key = done.location.partition("/")
    s3, part = private.doors["away"]("s3"), next(REFERENCE.glob("*.part.00"))
    assert s3.get_object(Bucket=bucket, Key=part.name)["Body"].read() == part.read_bytes()
    assert key.endswith(".manifest.xml")
    assert boots(private, done.image) == IMAGE_SHA256
    private.life.calls.clear()
    assert private.copy(image).image == done.image
    assert private.life.calls == []
    private.doors["away"]("ec2").deregister_image(ImageId=done.image)
    s3.delete_object(Bucket=bucket, Key=part.name)
    private.fault("away", "latency=0.5:s3.PutObject")  # nothing is registered before its parts are there
    again = private.copy(image, private_key=owner(), key_name="k.pem")
    assert (again.already, again.location) == (False, done.location)
    assert s3.get_object(Bucket=bucket, Key=part.name)["Body"].read() == part.read_bytes()
    assert boots(private, again.image, block=8) == IMAGE_SHA256


def test_a_bundle_of_aws_runs_on_eucalyptus(out: Pair) -> None:
    """An instance-store AMI is registered there for its account under a new manifest, and boots with image.sha256."""
    image = legacy_image(out, "legacy")
    assert out.plan(image).way.kind == "retargeted"
    done = out.copy(image, private_key=owner(), key_name="k.pem")
    row = out.clouds["away"].table("images")[done.image]
    assert (row["RootDeviceType"], row["VirtualizationType"]) == ("instance-store", "hvm")
    assert boots(out, done.image) == IMAGE_SHA256


@pytest.mark.crash
def test_a_retargeting_survives_any_death(private: Pair) -> None:
    """One image, and no part sent twice once it is there."""
    image, before = named(private, "web-bundle"), standing(private)
    private.life.last = "PutObject"  # once right after the part
    done, deaths = private.copy_dying(image, private_key=owner(), key_name="k.pem")
    assert deaths >= 2
    assert clean(private, before)["away"]["image"] == 1
    assert private.life.count("PutObject") == 2
    assert boots(private, done.image) == IMAGE_SHA256


def test_what_nothing_can_do_is_a_persons(private: Pair) -> None:
    """Between two private clouds no bucket is beside mover and import: exit code 4, every step, and nothing begun."""
    image, before = named(private, "shop-web"), standing(private)
    with pytest.raises(DrpilotError) as refused:
        private.copy(image)
    error = refused.value
    assert (error.word, error.exit_code) == ("image-by-hand", 4)
    steps = error.data["steps"]
    assert len(steps) == 6
    assert f"blocks push s3://BUCKET/{image}@away --device /dev/vdb" in steps[1]
    assert f"drpilot:source-image={image}" in steps[-1]
    assert clean(private, before) == {"home": {}, "away": {}}
    marks = dict(word.rstrip(";").split("=") for word in steps[-1].split() if word.startswith("drpilot:"))
    made = private.bundle("by-a-person")  # any image will do
    with private.clouds["away"].transaction():
        row = dict(private.clouds["home"].table("images").peek()[made])
        row["Tags"] = [{"Key": key, "Value": value} for key, value in marks.items()]
        private.clouds["away"].table("images")[made] = row
    assert private.copy(image).image == made


def test_aws_to_aws_copies_by_itself(tmp_path: Path) -> None:
    """CopyImage with its ClientToken, all volumes with it; repeated after any death it is one image."""
    with pair(tmp_path, "aws", "aws") as world:
        image = world.image("shop-web")
        before = standing(world)
        assert world.plan(image).way.kind == "copy"
        done, deaths = world.copy_dying(image)
        assert deaths == 1
        assert world.life.count("CopyImage") == 1
        same_bytes(world, image, done.image)
        assert clean(world, before)["away"]["image"] == 1
        same_bytes(world, image, once_more(world, image, done.image))


@pytest.mark.parametrize("end", ["available", "failed"])
def test_a_copy_on_its_way_is_waited_for(out: Pair, end: str) -> None:
    """A replication's copy that is pending is not there already: it is taken when it becomes available, and where it
    fails another one is made.
    """
    image, away = named(out, "shop-web"), out.clouds["away"]
    tags = {"drpilot:source-image": image, "drpilot:group": "shop", "drpilot:run": "9"}
    with away.transaction():
        row = {
            **out.clouds["home"].table("images").peek()[image],
            "ImageId": "emi-0000beef",
            "State": "pending",
        }
        row["Tags"] = [{"Key": key, "Value": value} for key, value in tags.items()]
        away.table("images")["emi-0000beef"] = row
    planned, told = out.plan(image), []
    assert planned.there is None
    assert (planned.coming or {})["ImageId"] == "emi-0000beef"

    def tell(step: str, fraction: float | None, note: str) -> None:
        told.append((step, note))
        if told.count(("wait", "emi-0000beef is pending")) == 2:
            with away.transaction():
                found = away.table("images").get("emi-0000beef")
                assert found is not None
                found["State"] = end

    done = copy_image(out.stage, planned, tell)
    assert (done.already, done.image == "emi-0000beef") == (False, end == "available")
    assert out.life.count("RegisterImage") == (end == "failed")
    if end == "failed":
        same_bytes(out, image, done.image)


@pytest.mark.crash
@pytest.mark.parametrize("name", ["web-bundle", "shop-web"])
def test_what_was_begun_and_then_deleted_is_begun_anew(into: Pair, name: str) -> None:
    """A command dies with its snapshot begun, and a person deletes that: the same command makes another one."""
    image, before = named(into, name), standing(into)
    keys = {"private_key": owner(), "key_name": "k.pem"} if name == "web-bundle" else {}
    into.life.last = "StartSnapshot"
    with pytest.raises(Died):
        into.copy(image, **keys)
    (begun,) = into.things("away")["snapshot"] - before["away"].get("snapshot", set())
    into.doors["away"]("ec2").delete_snapshot(SnapshotId=begun)
    done = into.copy(image, **keys)
    assert clean(into, before)["away"] == {"image": 1, "snapshot": 1}
    assert into.life.count("StartSnapshot") == 2
    if name == "shop-web":
        same_bytes(into, image, done.image)


@pytest.mark.crash
def test_what_another_machine_began_is_gone_on_with(into: Pair) -> None:
    """A command dies with its snapshot begun, and the next one knows nothing of it: one snapshot is made."""
    image, before = named(into, "web-bundle"), standing(into)
    into.life.last = "StartSnapshot"
    with pytest.raises(Died):
        into.copy(image, private_key=owner(), key_name="k.pem")
    shutil.rmtree(into.folder / "transfers")
    done = into.copy(image, private_key=owner(), key_name="k.pem")
    assert image_sha256(into, into.root("away", done.image)) == IMAGE_SHA256
    assert clean(into, before) == {"home": {}, "away": {"image": 1, "snapshot": 1}}


def test_images_that_are_none(out: Pair) -> None:
    """An unknown id is not found; one site twice is usage."""
    with pytest.raises(DrpilotError) as unknown:
        out.plan("ami-0123456789abcdef0")
    assert (unknown.value.word, unknown.value.exit_code) == ("unknown-image", 9)
