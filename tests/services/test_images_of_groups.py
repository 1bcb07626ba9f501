"""Images that a person brought over for a group: what the group takes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drpilot.domain.ports import FailureClass, StepFailed
from tests.lab.delivery_world import until
from tests.services.imageworld import Pair, pair, standing_for_a_group


def encrypted_by_hand(world: Pair, image: str, key: str) -> str:
    """A copy of an image under a key, as a person makes and tags it for a group."""
    marks = {"drpilot:group": "shop", "drpilot:member": "shop-web", "drpilot:source-image": image}
    tags = [{"Key": name, "Value": value} for name, value in marks.items()]
    made = world.doors["away"]("ec2").copy_image(
        Name="by-hand", SourceImageId=image, SourceRegion=world.sites["home"].region, Encrypted=True,
        KmsKeyId=key, TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
    )  # fmt: skip
    table = world.clouds["away"].table("images")
    until(lambda: table[made["ImageId"]]["State"] == "available", "the copy")
    return str(made["ImageId"])


def test_an_image_by_hand_must_be_encrypted_as_its_group_is(tmp_path: Path) -> None:
    """A plain image, and one under another key, are refused for a group that encrypts, whoever brought them; one under
    the key is taken, by whichever name the map has for it; a group that does not encrypt takes any.
    """
    with pair(tmp_path, "aws", "aws") as world:
        image, ec2, kms = world.image("shop-web"), world.doors["away"]("ec2"), world.doors["away"]("kms")
        right, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        kms.create_alias(AliasName="alias/shop", TargetKeyId=right.rpartition("/")[2])
        plain = world.copy(image).image
        assert (standing_for_a_group(world, image)[0] or {})["ImageId"] == plain

        def refused() -> str:
            with pytest.raises(StepFailed) as error:
                standing_for_a_group(world, image, ("arn:home/1", right))
            assert error.value.kind is FailureClass.PRECONDITION
            return error.value.message

        assert f"its snapshot {world.root('away', plain)} is not encrypted" in refused()
        for key in (other, right):
            ec2.deregister_image(ImageId=plain)
            plain = encrypted_by_hand(world, image, key)
            if key == other:
                assert f"is encrypted under {other}" in refused()
        for name in (right, right.rpartition("/")[2], "alias/shop"):
            found, adopted = standing_for_a_group(world, image, ("arn:home/1", name))
            assert (found and found["ImageId"], adopted) == (plain, True)
