"""What a dialect changes in the parts that all simulated clouds share: ids, zones, volume types.

Sources: the message classes and id generators of Eucalyptus 3.4.3, 4.4.2 and 5.1.0. What only one dialect has
(its front door, its tables of fields, its own operations) stands in `drpilot.lab.eucalyptus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["DIALECTS", "Traits"]


@dataclass(frozen=True, slots=True)
class Traits:
    """One dialect.

    `family` is aws or eucalyptus, `version` the latter's. An id is its prefix, a dash, `lead` and `digits` hex
    digits. Without `zones` a region's zones are named after it. `volume_type` is the only one there is, where
    there is only one. `platforms` are the networking modes a site may run in, the default first.
    """

    dialect: str
    family: str = "aws"
    version: str = ""
    lead: str = "0"
    digits: int = 16
    upper: bool = False
    image: str = "ami"
    zones: tuple[str, ...] = ()
    volume_type: str = ""
    instance_type: str = "m5.large"
    platforms: tuple[str, ...] = ("VPC",)

    @property
    def eucalyptus(self) -> bool:
        """Whether the site is a Eucalyptus cloud."""
        return self.family == "eucalyptus"

    def new_id(self, prefix: str, hexes: str) -> str:
        """An id from at least `digits` hex digits in lower case."""
        tail = self.lead + hexes[: self.digits]
        return f"{self.prefix(prefix)}-{tail.upper() if self.upper else tail}"

    def prefix(self, usual: str) -> str:
        """The prefix of an id where EC2 itself has `usual`."""
        return self.image if usual == "ami" else usual

    def usual(self, prefix: str) -> str:
        """EC2's own prefix for one of this dialect: kernels and ramdisks are images too."""
        if not self.eucalyptus:
            return prefix
        return {"emi": "ami", "eki": "ami", "eri": "ami", "ami": ""}.get(prefix, prefix)

    def named(self, given: str) -> str:
        """An id as the rows have it: 3.x takes it in any case."""
        head, dash, tail = given.partition("-")
        return f"{head.lower()}{dash}{tail.upper()}" if self.upper else given


_EUCALYPTUS = Traits(
    "eucalyptus",
    family="eucalyptus",
    image="emi",
    zones=("cluster01", "cluster02"),
    volume_type="standard",
    instance_type="m1.small",
    platforms=("VPC", "EC2"),
)

DIALECTS: Mapping[str, Traits] = {
    traits.dialect: traits
    for traits in (
        Traits("aws"),
        replace(
            _EUCALYPTUS,
            dialect="eucalyptus-3.4",
            version="3.4",
            lead="",
            digits=8,
            upper=True,
            platforms=("EC2",),
        ),
        replace(_EUCALYPTUS, dialect="eucalyptus-4.4", version="4.4", lead="", digits=8),
        replace(_EUCALYPTUS, dialect="eucalyptus-5", version="5"),
    )
}
"""The dialects a site of the lab may have, by name."""
