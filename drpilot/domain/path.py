"""How data gets from one cloud to the other: chosen by what both can do, never by their names.

The ladder, best first. Two clouds that know CopySnapshot and CopyImage copy by themselves. Else the bytes go over a
stage in a bucket: they are read by EBS direct, or by a mover, a machine on the source with the snapshots attached;
they are written by EBS direct, or by ImportVolume. Where neither end fits, a person carries them and says so.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

__all__ = ["COPY", "ImageWay", "Path", "image_way", "path_between"]

Kind = Literal["copy", "staged", "manual"]


@dataclass(frozen=True, slots=True)
class Path:
    """The path from a source to a target.

    `kind` says which; `read` and `write` how bytes reach the stage and leave it (empty where there is none), `stage`
    the role of the site whose bucket it is. `why` is what stood in the way of the better ones, for the plan.
    """

    kind: Kind = "copy"
    read: Literal["", "ebs", "mover"] = ""
    write: Literal["", "ebs", "import"] = ""
    stage: Literal["", "source", "target"] = ""
    why: str = ""

    @property
    def words(self) -> str:
        """The path in words, as a plan shows it."""
        if self.kind == "copy":
            return "the clouds copy snapshots and images themselves"
        if self.kind == "manual":
            return f"a person carries the bytes: {self.why}"
        read = {"ebs": "read by EBS direct", "mover": "read by a mover on the source"}[self.read]
        write = {"ebs": "written by EBS direct", "import": "imported by ImportVolume"}[self.write]
        return f"{read}, staged in a bucket of the {self.stage}, {write}: {self.why}"


COPY = Path()
_COPIES = ("ec2:CopySnapshot", "ec2:CopyImage")


def path_between(source: AbstractSet[str], target: AbstractSet[str]) -> Path:
    """The path between two sites by their capabilities. Pure."""
    lacking = [
        f"the {role} has no {name.removeprefix('ec2:')}"
        for role, able in (("source", source), ("target", target))
        for name in _COPIES
        if name not in able
    ]
    if not lacking:
        return COPY
    why = lacking[0]
    read: Literal["", "ebs", "mover"] = "ebs" if "ebs" in source else "mover" if "s3" in source else ""
    write: Literal["", "ebs", "import"] = (
        "ebs" if "ebs" in target else "import" if {"ec2:ImportVolume", "s3"} <= target else ""
    )
    if not read or not write:
        ends = "neither EBS direct nor ImportVolume" if read else "neither EBS direct nor a bucket"
        return Path("manual", why=f"the {'target' if read else 'source'} has {ends}")
    # ImportVolume reads only what lies in its own cloud; a mover writes to the bucket beside it.
    if write == "import" and read == "mover":
        return Path(
            "manual", why="the source needs a mover and the target ImportVolume: no bucket is beside both"
        )
    stage: Literal["", "source", "target"] = "source" if read == "mover" else "target"
    return Path("staged", read, write, stage, why)


@dataclass(frozen=True, slots=True)
class ImageWay:
    """The way of one image from a source to a target.

    `copy`: by CopyImage. `staged`: its root goes by `path`. `unbundled`: its bundle is unpacked into a snapshot.
    `retargeted`: its bundle is registered there under a new manifest, the parts as they are. `manual`: by a person.
    """

    kind: Literal["copy", "staged", "unbundled", "retargeted", "manual"]
    path: Path = COPY
    why: str = ""

    @property
    def words(self) -> str:
        """The way in words, as it is said before it begins."""
        return {
            "copy": "the target copies the image itself, by CopyImage",
            "staged": f"the blocks of its root: {self.path.words}; then registered from a snapshot",
            "unbundled": "its bundle is unpacked and written by EBS direct, then registered from the snapshot",
            "retargeted": "its bundle gets a new manifest for the target, the parts byte for byte, then is registered",
            "manual": f"a person carries it: {self.why or self.path.why}",
        }[self.kind]


def image_way(source: AbstractSet[str], target: AbstractSet[str], *, bundled: bool) -> ImageWay:
    """The way of an image between two sites by their capabilities; `bundled` is one in a bucket. Pure."""
    if "ec2:CopyImage" in source and "ec2:CopyImage" in target:
        return ImageWay("copy")
    if not bundled:
        path = path_between(source, target)
        return ImageWay("manual" if path.kind == "manual" else "staged", path)
    if "s3" not in source:
        return ImageWay("manual", why="the source has no object store to read its bundle from")
    if "ebs" in target:
        return ImageWay("unbundled")
    if "s3" in target:
        return ImageWay("retargeted")
    return ImageWay("manual", why="the target has neither EBS direct nor an object store")
