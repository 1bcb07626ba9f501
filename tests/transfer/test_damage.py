"""Bundles that are damaged, lie, or were changed on purpose: one clear error, and no file, not even a part of one."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from drpilot.base.clock import Chance
from drpilot.base.errors import DrpilotError
from drpilot.formats.manifest import Manifest, Part, read, write
from drpilot.formats.tarframe import header, trailer_bytes
from drpilot.transfer.places import Folder
from drpilot.transfer.unbundling import check_signature, extract, secrets_of
from drpilot.transfer.verifying import verify
from tests.transfer.craft import MANIFEST, Forged, forged, make, owner, stranger

MIB = 1 << 20
EXPECTED = {
    *("manifest-malformed", "unsafe-name", "wrong-key", "signature-wrong"),
    *("part-missing", "part-damaged", "image-damaged", "image-overflow"),
}


def framed(data: bytes) -> bytes:
    head = header("image", len(data))
    return head + data + bytes(trailer_bytes(len(head), len(data)))


def opened(path: Path, out: Path) -> str:
    """Extract as the command does; the word of the error, or an empty text."""
    out.mkdir(exist_ok=True)
    try:
        manifest = read(path.read_bytes(), str(path))
        secrets, _ = secrets_of(manifest, owner(), "key.pem")
        if manifest.is_signed:
            check_signature(manifest, owner().public_key(), str(path), "key.pem")
        extract(manifest, secrets, Folder(path.parent, manifest.name), out / "image")
    except DrpilotError as error:
        assert list(out.iterdir()) == []
        return error.word
    return ""


def failing(bundle: Forged, out: Path, manifest: Manifest | None = None) -> DrpilotError:
    """The error of an extraction that must fail and leave nothing."""
    out.mkdir(exist_ok=True)
    with pytest.raises(DrpilotError) as refused:
        extract(manifest or bundle.manifest, bundle.secrets, Folder(bundle.folder, "forged"), out / "image")
    assert list(out.iterdir()) == []
    return refused.value


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Manifest]:
    """A sound bundle of several parts."""
    (tmp_path / "disk").write_bytes(bytes(3000) + Chance(3).bits(8 * 5000).to_bytes(5000) + b"text " * 500)
    return tmp_path / "bundle", make(tmp_path / "disk", tmp_path / "bundle", part_bytes=1024, profile="plain")


def test_a_sound_bundle_is_opened(small: tuple[Path, Manifest], tmp_path: Path) -> None:
    """What these tests damage opens when it is not damaged."""
    assert opened(small[0] / "image.manifest.xml", tmp_path / "out") == ""
    assert (tmp_path / "out" / "image").read_bytes() == (tmp_path / "disk").read_bytes()


def test_a_wrong_key(small: tuple[Path, Manifest]) -> None:
    """A stranger's key gives wrong-key and names the account whose key is wanted."""
    with pytest.raises(DrpilotError) as refused:
        secrets_of(small[1], stranger(), "mine.pem")
    assert refused.value.word == "wrong-key"
    assert refused.value.exit_code == 7
    assert "mine.pem" in refused.value.title
    assert "123456789012" in refused.value.hint


def test_a_tampered_manifest(small: tuple[Path, Manifest], tmp_path: Path) -> None:
    """Another account in a signed manifest is noticed by the signature alone."""
    path = small[0] / "image.manifest.xml"
    path.write_text(path.read_text().replace("123456789012", "999999999999"))
    assert opened(path, tmp_path / "out") == "signature-wrong"


@pytest.mark.parametrize("place", [0, 500, -1])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_damaged_part_is_named(
    small: tuple[Path, Manifest], tmp_path: Path, place: int, number: int
) -> None:
    """One changed byte anywhere gives part-damaged and the part's name, not an error further down the line."""
    folder, manifest = small
    part = folder / manifest.parts[number].name
    data = bytearray(part.read_bytes())
    data[min(place, len(data) - 1)] ^= 0x10
    part.write_bytes(data)
    with pytest.raises(DrpilotError) as refused:
        extract(manifest, secrets_of(manifest, owner(), "k")[0], Folder(folder, "image"), tmp_path / "image")
    assert refused.value.word == "part-damaged"
    assert part.name in refused.value.title
    assert not (tmp_path / "image").exists()


def test_a_damaged_part_is_named_though_the_stream_breaks_first(tmp_path: Path) -> None:
    """In a part of megabytes the gzip stream breaks long before the SHA-1 is known; the part is named all the same."""
    (tmp_path / "disk").write_bytes(Chance(3).bits(8 * 6 * MIB).to_bytes(6 * MIB))
    manifest = make(tmp_path / "disk", tmp_path / "bundle")
    part = tmp_path / "bundle" / manifest.parts[0].name
    data = bytearray(part.read_bytes())
    data[0] ^= 0xFF
    part.write_bytes(data)
    for _ in range(5):
        assert opened(tmp_path / "bundle" / "image.manifest.xml", tmp_path / "out") == "part-damaged"


def test_parts_longer_than_announced(small: tuple[Path, Manifest], tmp_path: Path) -> None:
    """Parts with right digests whose sizes together exceed bundled_size are refused at the byte that is too many."""
    folder, manifest = small
    less = replace(manifest, bundled_bytes=manifest.bundled_bytes - 16)
    with pytest.raises(DrpilotError) as refused:
        extract(less, secrets_of(manifest, owner(), "k")[0], Folder(folder, "image"), tmp_path / "image")
    assert refused.value.word == "part-damaged"
    assert "longer than" in refused.value.title


def test_a_missing_or_longer_part(small: tuple[Path, Manifest], tmp_path: Path) -> None:
    """A part that is not there, and one that goes on beyond what the manifest announces."""
    folder, manifest = small
    part = folder / manifest.parts[-1].name
    part.write_bytes(part.read_bytes() + bytes(16))
    assert opened(folder / "image.manifest.xml", tmp_path / "out") == "part-damaged"
    part.unlink()
    assert opened(folder / "image.manifest.xml", tmp_path / "out") == "part-missing"


def test_a_bomb(tmp_path: Path) -> None:
    """A gigabyte of zeros in a megabyte, announced as a thousand bytes, stops at the announced size."""
    bomb = gzip.compress(header("image", 1 << 30), 1) + gzip.compress(bytes(64 * MIB), 1) * 16
    bundle = forged(tmp_path / "bomb", b"", 1000, packed=bomb)
    assert bundle.manifest.bundled_bytes < 8 * MIB
    assert failing(bundle, tmp_path / "out").word == "image-overflow"


def test_a_bomb_behind_the_image(tmp_path: Path) -> None:
    """Zeros without end behind a true image are no image either."""
    packed = gzip.compress(framed(b"data"), 1) + gzip.compress(bytes(20 * MIB), 1)
    error = failing(forged(tmp_path / "bomb", framed(b"data"), 4, packed=packed), tmp_path / "out")
    assert error.word == "image-damaged"
    assert "without end" in error.title


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (b"not gzip at all", "not gzip"),
        (b"", "not gzip"),
        (gzip.compress(framed(b"data"))[:-4], "not gzip"),
        (gzip.compress(framed(b"data")) + b"more", "not gzip"),
        (gzip.compress(b"not a tar" * 100), "tar header"),
        (gzip.compress(framed(b"longer")), "announces 6 bytes, the manifest 4"),
        (gzip.compress(framed(b"data")[:600]), "ends before"),
        (gzip.compress(framed(b"datb")), "SHA-1 of its tar stream"),
    ],
    ids=["plain", "empty", "cut", "more", "no-tar", "longer", "short", "other"],  # the bytes hold the time
)
def test_what_the_parts_hold(tmp_path: Path, packed: bytes, says: str) -> None:
    """Right digests around a wrong inside: not gzip, cut, not a tar, another size, another content."""
    error = failing(forged(tmp_path / "bundle", framed(b"data"), 4, packed=packed), tmp_path / "out")
    assert error.word == "image-damaged"
    assert says in error.title


def test_ciphertext_that_is_none(tmp_path: Path) -> None:
    """Bytes that are no whole number of blocks, or end in no padding, are refused."""
    bundle = forged(tmp_path / "bundle", framed(b"data"), 4)
    part = bundle.folder / "forged.part.00"
    for data in (part.read_bytes()[:-5], part.read_bytes()[:-16], b""):
        part.write_bytes(data)
        sha1 = hashlib.sha1(data).hexdigest()
        manifest = replace(bundle.manifest, parts=(Part(part.name, sha1),), bundled_bytes=len(data))
        assert failing(bundle, tmp_path / "out", manifest).word == "image-damaged"


# -- fuzz -------------------------------------------------------------------------------------------------------

cuts = some.tuples(some.integers(0, 10_000), some.integers(0, 10_000))
changes = some.one_of(
    some.tuples(some.just("replace"), cuts, some.binary(max_size=4)),
    some.tuples(some.just("delete"), cuts, some.just(b"")),
    some.tuples(some.just("repeat"), cuts, some.just(b"")),
    some.tuples(
        some.just("insert"),
        cuts,
        some.sampled_from([b"<", b">", b"'", b"&", b"&#0;", b"<!--", b"]]>", b"\xff", b"0", b"/"]),
    ),
)


def mutated(data: bytes, change: tuple[str, tuple[int, int], bytes]) -> bytes:
    """`data` with one thing done to it."""
    what, (place, length), new = change
    place %= len(data) + 1
    end = place + length % 60
    if what == "delete":
        return data[:place] + data[end:]
    if what == "repeat":
        return data[:end] + data[place:]
    return data[:place] + new + data[place + (len(new) if what == "replace" else 0) :]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=some.lists(changes, min_size=1, max_size=3), signed=some.booleans())
def test_any_manifest(
    small: tuple[Path, Manifest], change: list[tuple[str, tuple[int, int], bytes]], signed: bool
) -> None:
    """A manifest changed anywhere opens to the same image or gives one of the errors it can give; nothing is left."""
    import tempfile

    folder, manifest = small
    data = (folder / "image.manifest.xml").read_bytes() if signed else write(manifest, None)
    for one in change:
        data = mutated(data, one)
    path = folder / "mutated.manifest.xml"
    path.write_bytes(data)
    with tempfile.TemporaryDirectory() as out:
        word = opened(path, Path(out))
        assert word in EXPECTED | {""}
        if not word:
            assert (Path(out) / "image").read_bytes() == (folder.parent / "disk").read_bytes()


@settings(max_examples=300)
@given(
    some.one_of(some.binary(max_size=300), changes.map(lambda change: mutated(MANIFEST.read_bytes(), change)))
)
def test_any_bytes_as_a_manifest(data: bytes) -> None:
    """Whatever the bytes, reading them gives a manifest or one of two errors."""
    word = ""
    try:
        read(data, "m")
    except DrpilotError as error:
        word = error.word
    assert word in ("", "manifest-malformed", "unsafe-name")


# -- verify -----------------------------------------------------------------------------------------------------------


def test_verify_says_all_that_is_wrong(small: tuple[Path, Manifest]) -> None:
    """Two damaged parts and a missing one are three findings; a sound bundle has none."""
    folder, manifest = small
    source, key = Folder(folder, "image"), (owner(), "key")
    sound = verify(manifest, source, key=key)
    assert (sound.signature, sound.image, sound.findings) == ("valid", "whole", ())
    assert verify(manifest, source).signature == "unchecked"
    for number in (0, 1):
        (folder / manifest.parts[number].name).write_bytes(b"x")
    (folder / manifest.parts[2].name).unlink()
    found = verify(manifest, source, key=key)
    assert (found.image, len(found.findings)) == ("unchecked", 3)
    assert all(manifest.parts[number].name in found.findings[number].message for number in range(3))


def test_verify_on_signatures(small: tuple[Path, Manifest]) -> None:
    """A wrong signature is an error, a missing one a warning, a wrong key a finding of its own."""
    folder, manifest = small
    source = Folder(folder, "image")
    assert [one.severity for one in verify(replace(manifest, signature="UNSIGNED"), source).findings] == [
        "warning"
    ]
    wrong = verify(manifest, source, signer=stranger().public_key())
    assert (wrong.signature, [one.severity for one in wrong.findings]) == ("wrong", ["error"])
    closed = verify(manifest, source, key=(stranger(), "mine.pem"))
    assert "mine.pem" in closed.findings[0].message
    assert closed.image == "unchecked"


def test_verify_on_an_image(tmp_path: Path) -> None:
    """Parts may all be right and the image still wrong: only unpacking it shows that."""
    bundle = forged(tmp_path / "bundle", framed(b"data"), 4, packed=gzip.compress(framed(b"datb")))
    source = Folder(bundle.folder, "forged")
    assert [one.severity for one in verify(bundle.manifest, source).findings] == ["warning"]
    found = verify(bundle.manifest, source, key=(owner(), "key"))
    assert found.image == "wrong"
    assert "SHA-1 of its tar stream" in found.findings[-1].message
