"""The shop on one kind of cloud and its landing place on another, in this process; images and snapshots of the other
side are made by hand there, since how data gets from one to the other is not the matter here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from drpilot.base.clock import rfc3339
from drpilot.domain.group import Instance
from drpilot.lab import disk, private_shop, shop
from drpilot.lab.dataset import volume_blocks
from drpilot.lab.process import start_in_process
from drpilot.lab.shop_plan import public_key
from tests.actions.doors import Door, door_to
from tests.actions.world import BUCKET, CLOCK, Run, World, plan
from tests.networks import reserved

POINT = "point1"
SPEED = 240.0
_ROLES = {"db": "db", "app": "app", "web": "web"}


class UnlikeWorld:
    """Two kinds of cloud, with what a complete point would have left on the other side."""

    def __init__(self, world: World, doors: dict[str, Any], size: shop.Plan, landing: dict[str, Any]) -> None:
        self.world, self.doors, self.plan, self.landing = world, doors, size, landing
        self.empty: set[tuple[str, str]] = set()
        self.before: set[tuple[str, str]] = set()

    def point(self) -> None:
        """Register the images of all three tiers on away by hand, and snapshots of the data volumes."""
        group = self.world.group("home")
        facts = self.world.facts
        moment = CLOCK.now()
        facts.points[POINT] = {
            "state": "available",
            "source": "home",
            "site": "away",
            "requested_at": moment,
            "captured_at": rfc3339(moment),
        }
        for tier in group.tiers:
            count = self.plan.data_volumes if tier.name == "db" else 0
            image = self.image(tier.name, disk.root_block(_ROLES[tier.name], count))
            shown = self.doors["away"]("ec2").describe_images(ImageIds=[image])["Images"][0]
            keys = [one.key for one in tier.instances]
            for key in [*keys, *([tier.scaling_group.key] if tier.scaling_group else [])]:
                facts_ = {"root_device": shown["RootDeviceName"]}
                self._replica("image", key, tier.name, image, facts_)
            for instance in tier.instances:
                self._volumes(tier.name, instance)
        self.world.runs += 1

    def _replica(self, kind: str, member: str, tier: str, id_: str, facts: dict[str, Any]) -> None:
        row = {"state": "available", "site": "away", "id": id_, "tier": tier, "size_gib": 1, "facts": facts}
        self.world.facts.replicas[POINT, kind, member] = row

    def image(self, name: str, first: bytes) -> str:
        """An image on away whose root begins with `first`."""
        size = replace(self.plan, home=self.plan.away)
        if self.plan.away == "aws":
            return str(shop.image(self.doors["away"], size, f"copy-{name}", first))
        return str(private_shop.image(self.doors["away"], size, f"copy-{name}", first, {"app": "shop"}))

    def _volumes(self, tier: str, instance: Instance) -> None:
        for number, volume in enumerate(one for one in instance.volumes if not one.root):
            id_ = self._snapshot(f"copy-{number}", volume_blocks(self.plan.contents, number))
            facts = {"instance": instance.key, "device": volume.device, "type": volume.type}
            self._replica("snapshot", volume.key, tier, id_, facts)
        root = next(one for one in instance.volumes if one.root)
        image = self.world.facts.replicas[POINT, "image", instance.key]["id"]
        shown = self.doors["away"]("ec2").describe_images(ImageIds=[image])["Images"][0]
        id_ = shown["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
        facts = {"instance": instance.key, "device": root.device, "root": True, "type": root.type}
        self._replica("snapshot", root.key, tier, id_, facts)

    def _snapshot(self, name: str, blocks: dict[int, bytes]) -> str:
        away, size = self.doors["away"], replace(self.plan, home=self.plan.away)
        if self.plan.away == "aws":
            return str(shop.snapshot(away, size, name, blocks))
        return str(private_shop.snapshot(away, size, name, blocks, {"app": "shop"}))

    def other_key(self) -> bytes:
        """An OpenSSH public key that is not the shop's."""
        return public_key(replace(self.plan, seed="another"))

    def run(self, mode: str = "replicate") -> Run:
        """A run of a mode whose point stands already."""
        return self.world.begin(mode, "home", "away", POINT)


def dialects(pair: str, version: str) -> dict[str, str]:
    """The kinds of cloud of a pair; a version may have the word EDGE behind it."""
    private = f"eucalyptus-{version.split(maxsplit=1)[0]}"
    home, away = (private, "aws") if pair == "euca-aws" else ("aws", private)
    return {"home": home, "away": away, "edge": "aws"}


@contextmanager
def opened(folder: Path, pair: str, version: str) -> Iterator[UnlikeWorld]:
    """The clouds, ticking 60 times as fast, with the shop at home and nothing replicated."""
    with reserved() as first:
        yield from _opened(folder, (pair, version), first)


def _opened(folder: Path, which: tuple[str, str], first: int) -> Iterator[UnlikeWorld]:
    pair, version = which
    kinds = dialects(pair, version)
    clouds = start_in_process(folder / "lab", kinds, speed=SPEED, background=True)
    try:
        doors: dict[str, Any] = {name: Door(cloud, folder) for name, cloud in clouds.items()}
        size = replace(plan(first), home=kinds["home"], away=kinds["away"])
        for name, block in (("home", size.home_network), ("away", size.away_network)):
            if kinds[name] != "aws":
                clouds[name].tune(classic_network=block)
                clouds[name].classic = clouds[name].classic or version.endswith("EDGE")
        if version == "3.4":
            private = "home" if pair == "euca-aws" else "away"
            size = replace(size, write=clouds[private].store.write_volume)
        built = shop.build(doors["home"], doors["edge"], size)
        prepared = shop.prepare(doors["away"], size)
        if pair == "aws-euca" and version != "3.4":
            doors["away"]("s3").create_bucket(Bucket=private_shop.BUCKET)
        doors["edge"]("s3").create_bucket(Bucket=BUCKET)
        calls: list[tuple[str, str, str]] = []
        sites = {name: door_to(cloud, folder, calls) for name, cloud in clouds.items()}
        text = shop.group_file(built, prepared, size)
        world = World(clouds, sites, text, built, calls=calls, folder=folder)
        world.look("home")
        yield UnlikeWorld(world, doors, size, prepared)
    finally:
        for cloud in clouds.values():
            cloud.close()
