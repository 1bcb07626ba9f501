"""Retention: the decision that a point may go is durable before anything of it is deleted.

`point.expire` only decides (the lifecycle refuses what is pinned, last or last proven); `point.delete`
removes what points in state `expiring` left on both sites, and nothing that does not carry this group's
tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from drpilot.actions.views import Nothing, images, not_found, snapshots, tagged
from drpilot.domain.point import RecoveryPoint, expired
from drpilot.domain.ports import (
    Action,
    Answer,
    CloudError,
    Context,
    Done,
    Effect,
    Idempotency,
    Model,
    Move,
    Site,
    Unseen,
    Waiting,
)

__all__ = ["Delete", "Expire", "behind"]


class ExpireOutput(Model):
    """The points that retention no longer keeps, oldest first."""

    points: tuple[str, ...]


class Expire(Action[Nothing, ExpireOutput]):
    """Decide which points the group's `keep` no longer covers, for each direction by itself."""

    name = "point.expire"
    summary = "decide which points retention no longer keeps"
    idempotency = Idempotency.PURE
    effect = Effect.NONE
    Input = Nothing
    Output = ExpireOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[ExpireOutput]:
        return self.observe(ctx, given)

    def observe(self, ctx: Context, given: Nothing) -> Answer[ExpireOutput]:
        points = ctx.points()
        stale: list[RecoveryPoint] = []
        for site in sorted({point.site for point in points}):
            here = [point for point in points if point.site == site and point.id != ctx.point_id]
            here += [point for point in points if point.id == ctx.point_id and point.site == site]
            stale += expired(here, ctx.group.retention, ctx.clock.now())
        stale = [point for point in stale if point.id != ctx.point_id]
        moves = tuple(Move("point", point.id, "expire", unless=("expiring", "deleted")) for point in stale)
        return Done(ExpireOutput(points=tuple(point.id for point in stale)), moves)


@dataclass(slots=True)
class _Left:
    """What expiring points still have on one site."""

    images: list[str]
    snapshots: list[str]


class DeleteOutput(Model):
    """Points whose replicas are gone by observation."""

    points: tuple[str, ...]


class Delete(Action[Nothing, DeleteOutput]):
    """Delete the images and snapshots of expiring points on both sites.

    Images go first, since a snapshot that backs an image can't be deleted (InvalidSnapshot.InUse). What a
    point that is kept still uses is kept too.
    """

    name = "point.delete"
    summary = "delete what expiring points left on both sites"
    idempotency = Idempotency.RERUN
    effect = Effect.DESTROY
    permissions = ("ec2:DeregisterImage", "ec2:DeleteSnapshot", "ec2:DescribeImages", "ec2:DescribeSnapshots")
    at = ("target", "source")
    Input = Nothing
    Output = DeleteOutput

    def start(self, ctx: Context, given: Nothing) -> Answer[DeleteOutput]:
        for role in ("target", "source"):
            site = ctx.site(role)
            left = self._left(ctx, site)
            for image in left.images:
                _gone(site, "DeregisterImage", {"ImageId": image})
            for snapshot in left.snapshots:
                _gone(site, "DeleteSnapshot", {"SnapshotId": snapshot})
        answer = self.observe(ctx, given)
        if isinstance(answer, Unseen):
            return Waiting({}, after_s=2.0, note=answer.why)
        return answer

    @staticmethod
    def _going(ctx: Context) -> list[RecoveryPoint]:
        return [point for point in ctx.points() if point.state == "expiring"]

    def _left(self, ctx: Context, site: Site) -> _Left:
        going = self._going(ctx)
        if not going:
            return _Left([], [])
        used = _used(point for point in ctx.points() if point.state != "expiring")
        ours = tagged(group=ctx.group.name)
        named = {
            id_
            for point in going
            for replica in point.replicas
            for id_ in (replica.id, replica.source_id)
            if id_
        }
        by_point = [{"Name": "tag:drpilot:point", "Values": sorted(point.id for point in going)}]
        found_images = {item["ImageId"]: item for item in images(site, ours + by_point)}
        found = {item["SnapshotId"]: item for item in snapshots(site, ours + by_point)}
        if named:
            by_image = [{"Name": "image-id", "Values": sorted(named)}]
            found_images |= {item["ImageId"]: item for item in images(site, ours + by_image)}
            by_id = [{"Name": "snapshot-id", "Values": sorted(named)}]
            found |= {item["SnapshotId"]: item for item in snapshots(site, ours + by_id)}
        kept_images = images(site, [{"Name": "image-id", "Values": sorted(used)}]) if used else []
        used |= behind(kept_images)
        backing = behind(found_images.values()) - set(found) - used
        if backing:
            by_id = [{"Name": "snapshot-id", "Values": sorted(backing)}]
            found |= {item["SnapshotId"]: item for item in snapshots(site, ours + by_id)}
        return _Left(sorted(set(found_images) - used), sorted(set(found) - used))

    def observe(self, ctx: Context, given: Nothing) -> Answer[DeleteOutput]:
        left = [self._left(ctx, ctx.site(role)) for role in ("target", "source")]
        count = sum(len(side.images) + len(side.snapshots) for side in left)
        if count:
            return Unseen(True, f"{count} images and snapshots of expiring points still stand")
        moves: list[Move] = []
        going = self._going(ctx)
        for point in going:
            for replica in point.replicas:
                moves += _ended(f"{point.id}|{replica.kind}|{replica.member}")
            moves.append(Move("point", point.id, "deleted", {"unseen": True}, unless=("deleted",)))
        return Done(DeleteOutput(points=tuple(point.id for point in going)), tuple(moves))


def _ended(key: str) -> list[Move]:
    """The last moves of a replica, from whichever state it reached."""
    usable = ("available", "proven", "quarantined", "failed", "expiring", "deleted")
    return [
        Move("replica", key, "fail", unless=usable),
        Move("replica", key, "expire", unless=("expiring", "deleted")),
        Move("replica", key, "deleted", {"unseen": True}, unless=("deleted",)),
    ]


def _used(points: Iterable[RecoveryPoint]) -> set[str]:
    """Ids of everything that points which are kept refer to, on either site."""
    return {
        id_
        for point in points
        for replica in point.replicas
        for id_ in (replica.id, replica.source_id)
        if id_
    }


def behind(found: Iterable[Mapping[str, Any]]) -> set[str]:
    """Ids of the snapshots that back images."""
    backing = set()
    for image in found:
        for mapping in image.get("BlockDeviceMappings") or []:
            snapshot = (mapping.get("Ebs") or {}).get("SnapshotId")
            if snapshot:
                backing.add(snapshot)
    return backing


def _gone(site: Site, operation: str, params: dict[str, str]) -> None:
    """Delete; that it is gone already is as wanted."""
    try:
        site.call("ec2", operation, params)
    except CloudError as error:
        if not not_found(error) and "NotFound" not in error.code and "Unavailable" not in error.code:
            raise
