"""What the one screen says of a burst: what starts, who is sent there, what it uses, when it ends, what stays."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from drpilot.base.units import format_duration
from drpilot.cli.render import moment

if TYPE_CHECKING:
    from drpilot.domain.burst import BurstOffer
    from drpilot.domain.plan import Proposal

__all__ = ["burst_facts"]


def burst_facts(proposal: Proposal, burst: BurstOffer, now: datetime) -> Iterator[tuple[str, list[str]]]:
    """The lines of the screen, by label."""
    kind = f" {burst.type}" if burst.type else ""
    image = f"image {burst.image} of point {proposal.point}" if burst.image else f"point {proposal.point}"
    taken = f", taken {moment(proposal.point_at, now)}" if proposal.point_at is not None else ""
    yield (
        "STARTS",
        [
            f"on {burst.site}: {burst.tier} +{burst.capacity}{kind} (at most {burst.maximum})",
            f"{image}{taken}",
        ],
    )
    if burst.user_data:
        yield "FIRST BOOT", [f"user data of the group file, SHA-256 {burst.user_data[:12]}"]
    yield (
        "USERS",
        [
            f"{burst.weight} % to {burst.site} by weighted DNS, {100 - burst.weight} % stay on {proposal.source}",
            "only once every extra machine is healthy behind its load balancer",
        ],
    )
    yield "USES", list(_uses(burst))
    yield (
        "ENDS",
        [
            f"after {format_duration(burst.lasts_s)} at the longest; earlier: drpilot burst {proposal.group} --end"
        ],
    )
    yield (
        "STAYS",
        [f"{proposal.source} is the active side: no epoch, no fence, no data tier, no standby is touched"],
    )
    if proposal.warnings:
        yield "WARNING", list(proposal.warnings)


def _uses(burst: BurstOffer) -> Iterator[str]:
    yield f"{burst.machine_hours:g} machine hours at the longest"
    if burst.vcpus is None:
        yield f"{burst.site} does not tell its quota: nobody looked whether a failover has room beside it"
        return
    free = (burst.vcpus_limit or 0) - (burst.vcpus_used or 0) - burst.vcpus
    yield (
        f"{burst.vcpus} vCPUs, {burst.vcpus_used} of {burst.vcpus_limit} are used; "
        f"{free} stay free, a failover needs {burst.vcpus_failover}"
    )
