"""Two clouds of the lab in this process with one image each to bring over, and a way to die after any changing call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from drpilot.actions import images
from drpilot.base.clock import Chance, RealClock
from drpilot.base.retry import Patience
from drpilot.clouds.blocks import SdkBlocks
from drpilot.clouds.objects import object_plane
from drpilot.clouds.session import Clients, CredentialsReference, SiteSettings
from drpilot.clouds.site import BotoSite, Ways
from drpilot.domain.group import Group, Map, Objectives, ScalingGroup, Tier
from drpilot.domain.plain import Json
from drpilot.domain.ports import Transfers
from drpilot.lab import disk, private_shop, shop
from drpilot.lab.cloud import Cloud
from drpilot.lab.eucalyptus import keyring
from drpilot.lab.images import new_image
from drpilot.lab.process import start_in_process
from drpilot.lab.wire import attach
from drpilot.services.byhand import Hand, Stage
from drpilot.services.imagecopy import Carried, ImageCopy, Planned, copy_image, plan_copy
from drpilot.transfer.bucket import Address, NewBucketBundle
from drpilot.transfer.places import Folder
from drpilot.transfer.retargeting import Target, copy_parts, retargeted
from drpilot.transfer.unbundling import secrets_of
from tests.actions.doors import Door
from tests.actions.world import plan
from tests.transfer.craft import MANIFEST, REFERENCE, owner

CLOCK = RealClock()
PREFIX = "web/v1"


class Died(BaseException):
    """The process ended here."""


@dataclass
class Lifeline:
    """Counts changing calls; with `left` set, the process dies after so many of them."""

    left: int | None = None
    last: str = ""  # the operation after which the process dies, once
    calls: list[tuple[str, str]] = field(default_factory=list)

    def changed(self, site: str, operation: str) -> None:
        """A changing call was answered."""
        self.calls.append((site, operation))
        if operation == self.last:
            self.last = ""
            raise Died
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise Died

    def count(self, operation: str) -> int:
        """How often an operation was answered."""
        return sum(name == operation for _, name in self.calls)


@dataclass
class Pair:
    """Home and away."""

    folder: Path
    clouds: dict[str, Cloud]
    doors: dict[str, Door]
    sites: dict[str, BotoSite]
    life: Lifeline
    told: list[tuple[str, float | None, str]] = field(default_factory=list)
    settle_s: float = 0.0

    @property
    def stage(self) -> Stage:
        """The stage from home to away."""
        carrying = Transfers(
            lambda name: SdkBlocks(self.sites[name]),
            self.folder / "transfers",
            Chance(5),
            lambda name: object_plane(self.sites[name], "sdk"),
            lambda name: self.sites[name].endpoint("s3"),
        )
        return Stage(self.sites["home"], self.sites["away"], carrying, CLOCK, self.settle_s)

    def plan(self, image: str, **more: Any) -> Planned:
        """What would be done."""
        return plan_copy(self.stage, ImageCopy(image, **more))

    def copy(self, image: str, **more: Any) -> Carried:
        """The whole command."""
        return copy_image(self.stage, self.plan(image, **more), lambda *one: self.told.append(one))

    def copy_dying(self, image: str, *, every: int = 1, **more: Any) -> tuple[Carried, int]:
        """The command again and again, dying after `every` to 3 * `every` changing calls; what it came to, and how
        often it died.
        """
        chance, deaths = Chance(11), 0
        while deaths < 300:
            self.life.left = every * (1 + (deaths and chance.bits(8) % 3))
            try:
                done = self.copy(image, **more)
            except Died:
                deaths += 1
            else:
                return done, deaths
            finally:
                self.life.left = None
        raise AssertionError(f"never done; {self.life.calls[-20:]}")

    def blocks(self, site: str, snapshot: str) -> dict[int, str]:
        """A snapshot's blocks that are not zeros."""
        zeros = self.clouds[site].store.put_block(bytes(disk.BLOCK_BYTES))
        found = self.clouds[site].store.block_map(snapshot)
        return {index: key for index, key in found.items() if key != zeros}

    def root(self, site: str, image: str) -> str:
        """The snapshot behind an image."""
        return str(self.clouds[site].table("images")[image]["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])

    def things(self, site: str) -> dict[str, set[str]]:
        """What stands on a site, by kind; what has ended is left out."""
        found: dict[str, set[str]] = {}
        for item in self.clouds[site].inventory():
            found.setdefault(item["kind"], set()).add(item["id"])
        return found

    def keep(self) -> None:
        """Keep both clouds as they are."""
        for cloud in self.clouds.values():
            cloud.save("here")

    def back(self) -> None:
        """As kept."""
        for cloud in self.clouds.values():
            cloud.restore("here")
            with cloud.transaction():
                cloud.faults.heal()
        self.life.calls.clear()
        self.told.clear()
        self.settle_s = 0.0

    def fault(self, site: str, *rules: str) -> None:
        """Put faults in force."""
        with self.clouds[site].transaction():
            for rule in rules:
                self.clouds[site].faults.set(rule)

    # -- images --------------------------------------------------------------------------------------------

    def image(self, name: str, first: bytes | None = None) -> str:
        """An image on home that boots from a snapshot."""
        size = plan(140, home=self.clouds["home"].dialect)
        block = first or disk.root_block("web")
        if self.clouds["home"].dialect == "aws":
            return shop.image(self.doors["home"], size, name, block)
        return private_shop.image(self.doors["home"], size, name, block, {"app": "shop"})

    def bundle(self, name: str = "web-bundle", *, sealed: bool = False) -> str:
        """The reference bundle as an image of home: its parts, its manifest made for home's cloud and account.

        `sealed`: as the cloud's own BundleInstance makes it, both keys for the cloud alone.
        """
        home = self.clouds["home"]
        cloud = keyring.private_key(home).public_key()
        from drpilot.formats.manifest import read

        manifest = read(MANIFEST.read_bytes(), "reference")
        secrets, _ = secrets_of(manifest, owner(), "key")
        new = Target(cloud, owner(), owner=cloud if sealed else owner().public_key(), user=home.account)
        written = retargeted(manifest, secrets, new)
        bucket = f"images-{name}"
        self.doors["home"]("s3").create_bucket(Bucket=bucket)
        prefix = "" if home.traits.version == "3.4" else PREFIX
        sink = NewBucketBundle(self.sites["home"], Address(bucket, prefix))
        copy_parts(manifest, Folder(REFERENCE, manifest.name), sink)
        sink.manifest(MANIFEST.name, written)
        location = f"{bucket}/{prefix + '/' if prefix else ''}{MANIFEST.name}"
        made = self.doors["home"]("ec2").register_image(
            ImageLocation=location, Name=name, Architecture="x86_64", VirtualizationType="hvm"
        )
        return str(made["ImageId"])


def legacy_image(world: Pair, name: str) -> str:
    """The reference bundle in a bucket of an AWS home, and its image as EC2 describes one of instance store. The lab
    registers none there, so the row is laid by hand; parts and manifest are objects like any other.
    """
    home = world.clouds["home"]
    s3 = world.doors["home"]("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": home.region})
    for path in (MANIFEST, *REFERENCE.glob("*.part.*")):
        s3.put_object(Bucket=name, Key=f"{PREFIX}/{path.name}", Body=path.read_bytes())
    row = {
        "State": "available",
        "RootDeviceType": "instance-store",
        "RootDeviceName": "/dev/sda1",
        "ImageLocation": f"{name}/{PREFIX}/{MANIFEST.name}",
    }
    with home.transaction():
        return str(new_image(home, name, row)["ImageId"])


def _door(cloud: Cloud, folder: Path, life: Lifeline) -> BotoSite:
    settings = cloud.settings
    (key, secret), *_ = settings.keys.items()
    keys = folder / f"{settings.name}.keys"
    keys.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    keys.chmod(0o600)
    wanted = SiteSettings(
        name=settings.name,
        cloud=settings.dialect,
        region=settings.region,
        account=settings.account,
        endpoints={"default": "http://127.0.0.1:9"},
        credentials=CredentialsReference("file", str(keys)),
    )

    def prepare(session: Any) -> None:
        attach(session, cloud, read_timeout_s=2.0)

    clients = Clients(wanted, environment={}, prepare=prepare)

    def watch(site: str, service: str, operation: str, phase: str) -> None:
        if phase == "after" and clients.dialect.changes(service, operation):
            life.changed(site, operation)

    patience = Patience(attempts=3, first_s=0.01, max_s=0.05)
    return BotoSite(clients, Ways(clock=CLOCK, chance=Chance(7), patience=patience, observer=watch))


def standing_for_a_group(
    world: Pair, image: str, keys: tuple[str, str] | None = None
) -> tuple[Json | None, bool]:
    """What a replication of a group that launches the image sees on the other side; `keys`: it launches it encrypted
    under the first, whose partner is the second.
    """
    scaled = ScalingGroup("shop-web", image, "m1.small", 1, 1, 1, encrypted_key=keys[0] if keys else None)
    tiers = (Tier("web", scaling_group=scaled),)
    table = Map(kms_keys={keys[0]: keys[1]} if keys else {})
    group = Group("shop", "home", "away", Objectives(60.0, 60.0), tiers, map=table)
    hand = Hand(world.stage, group, "7", "tiers/web/image", "t", CLOCK.now(), {})
    return images.standing(hand, images.TierInput(tier="web"))


@contextmanager
def pair(folder: Path, home: str, away: str) -> Iterator[Pair]:
    """Both clouds, ticking 120 times as fast; a private home has a network and the image of movers."""
    clouds = start_in_process(folder / "lab", {"home": home, "away": away}, speed=120.0, background=True)
    try:
        doors = {name: Door(cloud, folder) for name, cloud in clouds.items()}
        life = Lifeline()
        sites = {name: _door(cloud, folder, life) for name, cloud in clouds.items()}
        made = Pair(folder, clouds, doors, sites, life)
        if home.startswith("eucalyptus") and home != "eucalyptus-3.4":
            doors["home"]("s3").create_bucket(Bucket=private_shop.BUCKET)
            ec2 = doors["home"]("ec2")
            network = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
            ec2.create_subnet(VpcId=network, CidrBlock="10.7.1.0/24", AvailabilityZone="cluster01")
            mover = made.image(private_shop.MOVER_IMAGE, disk.root_block("mover"))
            ec2.create_tags(Resources=[mover], Tags=[{"Key": "Name", "Value": private_shop.MOVER_IMAGE}])
        yield made
        for cloud in clouds.values():
            assert cloud.errors == []
    finally:
        for cloud in clouds.values():
            cloud.close()


def pem_of(folder: Path) -> Path:
    """The bundle owner's private key as a file."""
    path = folder / "owner.pem"
    path.write_bytes(
        owner().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path
