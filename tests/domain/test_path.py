"""Which way bytes take between two clouds, for every pair of what they can do."""

from __future__ import annotations

from itertools import product

import pytest

from drpilot.clouds.dialects import DIALECTS
from drpilot.domain.path import COPY, Path, image_way, path_between

ABLE = ("ec2:CopySnapshot", "ec2:CopyImage", "ebs", "ec2:ImportVolume", "s3")
SETS = [
    frozenset(name for name, has in zip(ABLE, bits, strict=True) if has)
    for bits in product((False, True), repeat=len(ABLE))
]


def test_every_pair_has_a_path_that_both_ends_can_walk() -> None:
    """All 1,024 pairs: native copies exactly where both copy everything; what is staged is read and written by means
    that are there, in a bucket that is beside whoever needs it; what is left says why.
    """
    for source, target in product(SETS, SETS):
        path = path_between(source, target)
        copies = {"ec2:CopySnapshot", "ec2:CopyImage"} <= source & target
        assert (path.kind == "copy") == copies
        if path.kind == "copy":
            assert path == COPY
            continue
        assert path.why
        readable = "ebs" in source or "s3" in source
        writable = "ebs" in target or {"ec2:ImportVolume", "s3"} <= target
        if path.kind == "manual":
            only_apart = "ebs" not in source and "ebs" not in target
            assert not (readable and writable) or only_apart
            assert (path.read, path.write, path.stage) == ("", "", "")
            continue
        assert readable
        assert writable
        assert path.read == ("ebs" if "ebs" in source else "mover")
        assert path.write == ("ebs" if "ebs" in target else "import")
        assert path.stage == ("source" if path.read == "mover" else "target")


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        ("aws", "aws", ("copy", "", "", "")),
        ("aws", "eucalyptus-4.4", ("staged", "ebs", "import", "target")),
        ("aws", "eucalyptus-5", ("staged", "ebs", "import", "target")),
        ("aws", "eucalyptus-3.4", ("manual", "", "", "")),
        ("eucalyptus-3.4", "aws", ("staged", "mover", "ebs", "source")),
        ("eucalyptus-4.4", "aws", ("staged", "mover", "ebs", "source")),
        ("eucalyptus-5", "aws", ("staged", "mover", "ebs", "source")),
    ],
)
def test_the_paths_of_the_known_kinds_of_cloud(source: str, target: str, wanted: tuple[str, ...]) -> None:
    """Each pair of dialects takes the best path that its clouds really have."""
    path: Path = path_between(DIALECTS[source].capabilities, DIALECTS[target].capabilities)
    assert (path.kind, path.read, path.write, path.stage) == wanted
    assert path.words


@pytest.mark.parametrize(
    ("source", "target", "bundled", "wanted"),
    [
        ("aws", "aws", False, "copy"),
        ("aws", "aws", True, "copy"),
        ("aws", "eucalyptus-4.4", False, "staged"),
        ("aws", "eucalyptus-4.4", True, "retargeted"),
        ("aws", "eucalyptus-3.4", False, "manual"),
        ("aws", "eucalyptus-3.4", True, "retargeted"),
        ("eucalyptus-5", "aws", False, "staged"),
        ("eucalyptus-3.4", "aws", True, "unbundled"),
        ("eucalyptus-4.4", "eucalyptus-5", False, "manual"),
        ("eucalyptus-4.4", "eucalyptus-5", True, "retargeted"),
    ],
)
def test_the_way_of_one_image(source: str, target: str, bundled: bool, wanted: str) -> None:
    """An image goes by what both clouds can do and where its bytes lie; each way says itself."""
    able = (DIALECTS[source].capabilities, DIALECTS[target].capabilities)
    way = image_way(*able, bundled=bundled)
    assert way.kind == wanted
    assert way.words
    assert image_way(able[0] - {"s3"}, able[1], bundled=True).kind == (
        "copy" if wanted == "copy" else "manual"
    )
