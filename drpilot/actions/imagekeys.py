"""Whether an image that a person brought over is encrypted as the machines of its group are.

What drpilot copies it encrypts itself; an image that was made by hand may be in plain text, and machines started from
it would write plain data for as long as nobody looks. Source: EC2 API reference, DescribeSnapshots (`KmsKeyId` is an
ARN).
"""

from __future__ import annotations

from collections.abc import Iterator

from drpilot.actions.carry import kms_key
from drpilot.actions.views import snapshots
from drpilot.domain.plain import Json
from drpilot.domain.ports import Context, FailureClass, Site, StepFailed

__all__ = ["refuse_other_key"]


def refuse_other_key(ctx: Context, key: str | None, image: Json) -> None:
    """StepFailed (precondition) where a snapshot of an image on the target is not encrypted under the partner of the
    source's `key`; under any key, where the map names no partner. A cloud without KMS encrypts nothing.
    """
    target = ctx.site("target")
    if not key or "kms" not in target.capabilities or image["State"] != "available":
        return
    partner = kms_key(ctx, key)
    wrong = list(_differing(target, image, _arn(target, partner) if partner else ""))
    if wrong:
        wanted = f"under {partner}" if partner else "under a key of its own"
        what = f"{image['ImageId']} on {target.name} was brought by hand, and {'; '.join(wrong)}"
        mend = f"copy it on {target.name} with encryption {wanted}, give the copy its tags, and deregister it"
        raise StepFailed(FailureClass.PRECONDITION, f"{what}: the group's machines are encrypted; {mend}")


def _arn(site: Site, key: str) -> str:
    """The ARN of a key that the map names by id, ARN or alias."""
    return str(site.call("kms", "DescribeKey", {"KeyId": key})["KeyMetadata"]["Arn"])


def _differing(site: Site, image: Json, arn: str) -> Iterator[str]:
    """What is wrong with each snapshot of an image, in words."""
    mapped = [(item.get("Ebs") or {}).get("SnapshotId") for item in image.get("BlockDeviceMappings") or []]
    wanted = sorted({str(snapshot) for snapshot in mapped if snapshot})
    if not wanted:
        yield "it has no snapshot that could be encrypted"
        return
    known = {
        item["SnapshotId"]: item for item in snapshots(site, [{"Name": "snapshot-id", "Values": wanted}])
    }
    for name in wanted:
        found = known.get(name)
        if found is None:
            yield f"its snapshot {name} is not one of this account"
        elif not found.get("Encrypted"):
            yield f"its snapshot {name} is not encrypted"
        elif arn and found.get("KmsKeyId") != arn:
            yield f"its snapshot {name} is encrypted under {found.get('KmsKeyId')}"
