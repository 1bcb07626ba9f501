"""How data gets from one cloud to the other: chosen by what both can do, never by their names.

The ladder, best first. Two clouds that know CopySnapshot and CopyImage copy by themselves. Else the bytes go over a
stage in a bucket: they are read by EBS direct, or by a mover, a machine on the source with the snapshots attached;
they are written by EBS direct, or by ImportVolume. Where neither end fits, a person carries them and says so.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal

__all__ = ["COPY", "Path", "path_between"]

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
