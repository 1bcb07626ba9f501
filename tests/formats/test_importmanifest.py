"""Import manifests: the one a real euca-import-volume wrote, and the ones drpilot writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from drpilot.base.errors import DrpilotError
from drpilot.formats.importmanifest import ImportManifest, ImportPart, read_import, slices, write_import
from tests.transfer.craft import REFERENCE

REAL = (REFERENCE / "import-manifest.xml").read_bytes()


def test_a_real_one_is_read() -> None:
    """Size, volume and parts are understood, and URLs come without their XML escapes."""
    found = read_import(REAL, "m")
    assert (found.format, found.size_bytes, found.volume_gib, len(found.parts)) == ("RAW", 26214400, 1, 3)
    assert [(part.start, part.end) for part in found.parts] == slices(26214400)
    assert found.parts[0].get_url.endswith("&Expires=1797925000&Signature=nsP3ofFoZXwypXSSYABJEn4iTrw%3D")
    assert found.parts[2].key.endswith("/img/compress25.img.part.2")
    assert found.importer == ("euca2ools", "3.4.1", "0")
    assert read_import(write_import(found), "m") == found


@given(
    some.integers(1, 10_000),
    some.integers(1, 5_000),
    some.text("a&<>'\" é", min_size=1).map(lambda t: f"u{t}u"),
)
def test_what_is_written_is_read_back(size: int, part: int, text: str) -> None:
    """Whatever the size and the names, an import manifest survives, and its parts cover every byte once."""
    parts = tuple(ImportPart(start, end, text, text, text, text) for start, end in slices(size, part))
    assert sum(one.end - one.start + 1 for one in parts) == size
    manifest = ImportManifest("RAW", size, 1, text, parts, ("drpilot", "1", "0"))
    assert read_import(write_import(manifest), "m") == manifest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2010-11-15", "2007-10-10"),
        (">RAW<", ">TAR<"),
        ('start="10485760"', 'start="10485761"'),
        ("<size>26214400", "<size>26214401"),
        ('count="3"', 'count="4"'),
        ('index="1"', 'index="2"'),
        ("<volume-size>1", "<volume-size>x"),
        ("<parts", "<pieces"),
    ],
)
def test_nonsense_is_refused(old: str, new: str) -> None:
    """One thing wrong, one error that names the file."""
    text = REAL.decode()
    assert old in text
    with pytest.raises(DrpilotError) as refused:
        read_import(text.replace(old, new, 1).encode(), "m.xml")
    assert refused.value.word == "manifest-malformed"


def test_a_gap_between_parts_is_refused() -> None:
    """Parts must follow each other: a byte between two of them would be silently zero."""
    found = read_import(REAL, "m")
    gap = replace(found, parts=(found.parts[0], *found.parts[2:]))
    with pytest.raises(DrpilotError):
        read_import(write_import(gap), "m")
