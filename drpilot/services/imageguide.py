"""What a person does where nothing automatic brings an image to the other side, to the last command."""

from __future__ import annotations

from drpilot.actions.images import BY_HAND, SOURCE_SITE
from drpilot.actions.staging import root_of
from drpilot.base.errors import DrpilotError
from drpilot.domain.path import ImageWay
from drpilot.domain.plain import Json
from drpilot.services.byhand import Stage

__all__ = ["by_hand", "steps_by_hand"]


def by_hand(stage: Stage, described: Json, way: ImageWay) -> DrpilotError:
    """The error `image-by-hand`: why, and in `data` and the hint what to do."""
    steps = steps_by_hand(stage, described, way)
    error = DrpilotError(
        "image-by-hand",
        image=described["ImageId"],
        source=stage.source.name,
        target=stage.target.name,
        what=way.why or way.path.why,
        data={"steps": steps},
    )
    error.hint = "; ".join(f"{number}. {step}" for number, step in enumerate(steps, 1))
    return error


def steps_by_hand(stage: Stage, described: Json, way: ImageWay) -> list[str]:
    """The steps, in order; the last gives the image the tags by which drpilot finds it from then on. Pure."""
    source, target, image = stage.source.name, stage.target.name, str(described["ImageId"])
    marks = f"drpilot:tier={BY_HAND} drpilot:source-image={image} {SOURCE_SITE}={source}"
    last = f"tag the new image {marks}; then `drpilot image copy` and `drpilot replicate` find it"
    if described.get("ProductCodes"):
        return [f"subscribe to the same product on {target} and start from its image there", last]
    root = root_of(described)
    if not root:
        location = described.get("ImageLocation") or "its bucket"
        return [
            f"drpilot bundle download {location} --site {source} --output DIR, or fetch DIR from its maker",
            f"drpilot bundle extract DIR/MANIFEST --private-key FILE --output DIR, and import the image on {target}",
            last,
        ]
    register = f"snapshot that volume and register it (hvm, {described.get('Architecture', 'x86_64')},"
    register += f" root device {described.get('RootDeviceName')})"
    if "ebs" in stage.source.capabilities:
        return [
            f"on {target}: a volume as large as {root}, attached to any machine there, say as /dev/vdb",
            f"on that machine: drpilot blocks pull {root}@{source} --device /dev/vdb",
            f"on {target}: {register}",
            last,
        ]
    place = f"s3://BUCKET/{image}@{target}"
    return [
        f"on {source}: a volume of {root}, attached to any machine there, say as /dev/vdb",
        f"on that machine: drpilot blocks push {place} --device /dev/vdb",
        f"on {target}: a volume of the same size, attached to any machine there, say as /dev/vdb",
        f"on that machine: drpilot blocks pull {place} --device /dev/vdb",
        f"on {target}: {register}",
        last,
    ]
