"""Bundles made by drpilot: opened again by drpilot and by standard tools, byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from drpilot.base.clock import Chance, ManualClock
from drpilot.base.errors import DrpilotError
from drpilot.formats import seal
from drpilot.transfer.bundling import PART_BYTES, Order, Watch, bundle
from drpilot.transfer.codec import PROFILES, Inflater, NotGzip, Uplink, deflated
from drpilot.transfer.newfile import NewFile
from drpilot.transfer.places import Folder, NewFolderBundle
from drpilot.transfer.unbundling import extract, secrets_of
from tests.transfer.craft import (
    MANIFEST,
    REFERENCE,
    by_standard_tools,
    cloud,
    key_files,
    like_amazon,
    make,
    owner,
)

MIB = 1 << 20


def again(manifest, folder: Path, target: Path) -> bytes:
    """The image of a bundle, by drpilot."""
    secrets, who = secrets_of(manifest, owner(), "key")
    assert who == "owner"
    extract(manifest, secrets, Folder(folder, manifest.name), target)
    return target.read_bytes()


def written(path: Path, runs: list[tuple[str, int]]) -> bytes:
    """A file made of runs of holes, zeros, text and random bytes; its content."""
    chance = Chance(1)
    with path.open("wb") as file:
        for kind, size in runs:
            if kind == "hole":
                file.seek(size, os.SEEK_CUR)
            elif kind == "zeros":
                file.write(bytes(size))
            elif kind == "text":
                file.write((b"all work and no play " * (size // 21 + 1))[:size])
            else:
                file.write(chance.bits(8 * size).to_bytes(size) if size else b"")
        file.truncate()
    return path.read_bytes()


def test_the_real_bundle(tmp_path: Path) -> None:
    """The bundle of euca2ools 3.4.1 gives the image whose SHA-256 stands beside it, with its zeros as holes."""
    from drpilot.formats.manifest import read

    manifest = read(MANIFEST.read_bytes(), "m")
    image = again(manifest, REFERENCE, tmp_path / "image")
    wanted = (REFERENCE / "image.sha256").read_text().split()[0]
    assert hashlib.sha256(image).hexdigest() == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


@settings(max_examples=25)
@given(
    runs=some.lists(
        some.tuples(some.sampled_from(["hole", "zeros", "text", "random"]), some.integers(0, 60_000)),
        max_size=5,
    ),
    profile=some.sampled_from(["fast", "small", "plain", "auto"]),
    part_bytes=some.sampled_from([1024, 16_384, PART_BYTES]),
)
def test_any_image_comes_back(runs: list[tuple[str, int]], profile: str, part_bytes: int) -> None:
    """Whatever an image holds, however it is compressed and cut, drpilot and the standard tools give it back."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = written(folder / "disk", runs)
        manifest = make(folder / "disk", folder / "bundle", profile=profile, part_bytes=part_bytes)
        assert again(manifest, folder / "bundle", folder / "back") == data
        pem, _ = key_files(folder)
        assert by_standard_tools(folder / "bundle" / "image.manifest.xml", pem, folder) == data


@pytest.mark.parametrize(
    "size", [0, 1, 511, 512, 513, MIB - 512, MIB, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1]
)
def test_sizes_at_the_edges(tmp_path: Path, size: int) -> None:
    """Random images of every size at an edge come back, by drpilot and by the standard tools."""
    data = written(tmp_path / "disk", [("random", size)])
    manifest = make(tmp_path / "disk", tmp_path / "bundle")
    assert again(manifest, tmp_path / "bundle", tmp_path / "back") == data
    pem, _ = key_files(tmp_path)
    assert by_standard_tools(tmp_path / "bundle" / "image.manifest.xml", pem, tmp_path) == data


def test_64_mib_of_random_bytes(tmp_path: Path) -> None:
    """An image larger than its parts comes back from all of them."""
    data = written(tmp_path / "disk", [("random", 64 * MIB)])
    manifest = make(tmp_path / "disk", tmp_path / "bundle")
    assert [part.name for part in manifest.parts] == [f"image.part.{number:02d}" for number in range(7)]
    sizes = [(tmp_path / "bundle" / part.name).stat().st_size for part in manifest.parts]
    assert sizes[:-1] == [PART_BYTES] * 6
    assert sum(sizes) == manifest.bundled_bytes
    assert again(manifest, tmp_path / "bundle", tmp_path / "back") == data


def test_holes_stay_holes(tmp_path: Path) -> None:
    """A sparse image is read around its holes and written with them: it takes its data's room, not its size's."""
    data = written(
        tmp_path / "disk", [("text", 5000), ("hole", 40 * MIB), ("text", 5000), ("hole", 7 * MIB + 5)]
    )
    manifest = make(tmp_path / "disk", tmp_path / "bundle")
    assert manifest.bundled_bytes < 100_000
    assert again(manifest, tmp_path / "bundle", tmp_path / "back") == data
    assert (tmp_path / "back").stat().st_blocks * 512 <= 4 * MIB


def test_no_trailing_empty_part(tmp_path: Path) -> None:
    """Where the ciphertext is a whole number of parts, no part without a byte is written or listed."""
    (tmp_path / "disk").write_bytes(b"x" * 5000)
    size = make(tmp_path / "disk", tmp_path / "one").bundled_bytes
    manifest = make(tmp_path / "disk", tmp_path / "exact", part_bytes=size // 2 if size % 32 == 0 else size)
    sizes = [(tmp_path / "exact" / part.name).stat().st_size for part in manifest.parts]
    assert len(set(sizes)) == 1
    assert sum(sizes) == size
    assert sorted(path.name for path in (tmp_path / "exact").iterdir()) == sorted(
        ["image.manifest.xml", *(part.name for part in manifest.parts)]
    )


@pytest.mark.parametrize("holes", [False, True])
def test_amazons_bundles_are_opened(tmp_path: Path, holes: bool) -> None:
    """A bundle made from tar -S, gzip -9, openssl and split, with single-digit names, gives its image."""
    from drpilot.formats.manifest import read

    runs = [("text", 70_000), ("hole" if holes else "random", 3 * MIB), ("random", 30_000), ("hole", MIB)]
    data = written(tmp_path / "amazon.img", runs)
    path = like_amazon(tmp_path / "amazon.img", tmp_path / "bundle")
    manifest = read(path.read_bytes(), "m")
    assert 7 < len(manifest.parts) <= 10
    assert again(manifest, tmp_path / "bundle", tmp_path / "back") == data


def test_a_trailing_empty_part_is_accepted(tmp_path: Path) -> None:
    """The empty last part that euca2ools writes is read as nothing."""
    from dataclasses import replace

    from drpilot.formats.manifest import Part

    (tmp_path / "disk").write_bytes(b"data")
    manifest = make(tmp_path / "disk", tmp_path / "bundle")
    (tmp_path / "bundle" / "empty").write_bytes(b"")
    longer = replace(manifest, parts=(*manifest.parts, Part("empty", hashlib.sha1(b"").hexdigest())))
    assert again(longer, tmp_path / "bundle", tmp_path / "back") == b"data"


def test_the_same_keys_give_the_same_parts(tmp_path: Path) -> None:
    """Neither time nor the order of threads gets into a bundle."""
    written(tmp_path / "disk", [("random", 3 * MIB), ("text", 3 * MIB)])
    secrets = seal.fresh(Chance(7))
    order = Order("image", "123456789012", cloud().public_key(), workers=4)
    made = [
        bundle(tmp_path / "disk", order, secrets, NewFolderBundle(tmp_path / name), Watch())
        for name in ("a", "b")
    ]
    assert made[0].parts == made[1].parts


# -- when it fails ----------------------------------------------------------------------------------------------


def test_what_is_no_image(tmp_path: Path) -> None:
    """A missing file and a folder are refused with an error of their own, and nothing is written."""
    for path, word in ((tmp_path / "none", "unknown-file"), (tmp_path, "file-unreadable")):
        with pytest.raises(DrpilotError) as refused:
            make(path, tmp_path / "out")
        assert refused.value.word == word
    assert not any((tmp_path / "out").iterdir())


def test_nothing_is_replaced(tmp_path: Path) -> None:
    """A part or manifest that is there already stops the bundle, and stays as it was; what was made goes again."""
    written(tmp_path / "disk", [("random", 3000)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "image.part.01").write_text("mine")
    with pytest.raises(DrpilotError) as refused:
        make(tmp_path / "disk", tmp_path / "out", part_bytes=1024)
    assert refused.value.word == "output-exists"
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [
        ("image.part.01", "mine")
    ]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """When a part can't be written, the error says so and the folder is as it was before."""
    written(tmp_path / "disk", [("random", 3 * MIB)])
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20))\n"
        "sys.path.insert(0, '.')\n"
        "from pathlib import Path; from tests.transfer.craft import make\n"
        "from drpilot.base.errors import DrpilotError\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "try:\n    make(folder / 'disk', folder / 'out', part_bytes=1 << 20)\n"
        "    make(folder / 'disk', folder / 'out', name='second')\n"
        "except DrpilotError as error:\n    print(error.word, error.title)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("file-unwritable ")
    assert "File too large" in done.stdout
    assert not any(path.name.startswith("second") for path in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "image.manifest.xml").exists()


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    """An extraction that is killed half way leaves no file, hidden or not."""
    written(tmp_path / "disk", [("random", 8 * MIB)])
    make(tmp_path / "disk", tmp_path / "bundle")
    script = (
        "import os, signal, sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path; from tests.transfer.craft import owner\n"
        "from drpilot.formats.manifest import read\n"
        "from drpilot.transfer.places import Folder\n"
        "from drpilot.transfer.unbundling import extract, secrets_of\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "manifest = read((folder / 'bundle' / 'image.manifest.xml').read_bytes(), 'm')\n"
        "def told(done, size):\n    if done > size // 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "source = Folder(folder / 'bundle', 'image')\n"
        "extract(manifest, secrets_of(manifest, owner(), 'k')[0], source, folder / 'out' / 'image', told)\n"
    )
    (tmp_path / "out").mkdir()
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_without_nameless_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without O_TMPFILE a file is hidden until it is whole, and is removed when it is not."""
    real = os.open

    def old_kernel(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", old_kernel)
    with NewFile(tmp_path / "given up") as file:
        file.write(0, b"half")
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
    assert list(tmp_path.iterdir()) == []
    with NewFile(tmp_path / "whole") as file:
        file.write(0, b"all of it")
        file.publish()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("whole", b"all of it")]


# -- codecs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [(), ("isal",), ("isal", "zlib_ng")])
def test_every_codec_gives_the_image_back(tmp_path: Path, missing: tuple[str, ...]) -> None:
    """With the fast libraries and without, all profiles make bundles that come back, and what is missing is named."""
    data = written(tmp_path / "disk", [("text", 3 * MIB), ("random", MIB), ("hole", 2 * MIB)])
    script = (
        f"import sys; sys.path.insert(0, '.')\nfor name in {missing!r}: sys.modules[name] = None\n"
        "from pathlib import Path; from tests.transfer.craft import make, owner\n"
        "from drpilot.transfer.codec import fallback\n"
        "from drpilot.transfer.places import Folder\n"
        "from drpilot.transfer.unbundling import extract, secrets_of\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "for profile in ('fast', 'small', 'plain'):\n"
        "    manifest = make(folder / 'disk', folder / profile, profile=profile)\n"
        "    secrets, _ = secrets_of(manifest, owner(), 'k')\n"
        "    extract(manifest, secrets, Folder(folder / profile, 'image'), folder / f'{profile}.img')\n"
        "print(*fallback(('fast', 'small', 'plain')))\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [name.replace("_", "-") for name in missing]
    for profile in ("fast", "small", "plain"):
        assert (tmp_path / f"{profile}.img").read_bytes() == data


def test_several_gzip_members() -> None:
    """A stream of several members, with zeros behind them, is inflated whole; other bytes behind it are not."""
    import gzip

    inflater = Inflater()
    stream = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert b"".join(inflater.feed(stream + bytes(100))) == b"one two"
    inflater.finish()
    junk = Inflater()
    with pytest.raises(NotGzip):
        junk.finish() if list(junk.feed(stream + b"junk")) else None
    cut = Inflater()
    list(cut.feed(stream[:-3]))
    with pytest.raises(NotGzip):
        cut.finish()


def test_inflated_pieces_are_bounded() -> None:
    """However well a stream was compressed, no piece is longer than a mebibyte."""
    import gzip

    pieces = list(Inflater().feed(gzip.compress(bytes(20 * MIB))))
    assert max(len(piece) for piece in pieces) <= MIB
    assert sum(len(piece) for piece in pieces) == 20 * MIB


def test_auto_takes_the_smaller_codec_when_it_fills_the_line() -> None:
    """Fast until both rates are known; small as soon as it gives more than the line takes; fast again when not."""
    line = Uplink(ManualClock(), workers=2)
    assert line.choice.name == "fast"
    line.rate(packed_bytes=500_000, seconds=0.01)  # two workers: 100 MB/s
    assert line.choice.name == "fast"
    line.sent(10_000_000, 1.0, lanes=3)  # 30 MB/s
    assert line.choice.name == "small"
    for _ in range(20):
        line.sent(10_000_000, 0.1, lanes=3)  # 300 MB/s
    assert line.choice.name == "fast"
    told = Uplink(ManualClock(), workers=2, bytes_per_s=40e6)
    told.rate(packed_bytes=500_000, seconds=0.01)
    assert told.choice.name == "small"


def test_auto_changes_within_a_bundle(tmp_path: Path) -> None:
    """A bundle whose codec changed on its way is one gzip stream: it comes back whole, and smaller than all fast."""
    data = written(tmp_path / "disk", [("text", 2 * MIB)])
    pieces = [deflated(PROFILES[name], data[:MIB]) for name in ("fast", "small")]
    assert pieces[0] != pieces[1]
    packed = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + pieces[0] + pieces[1] + b"\x03\0"
    import zlib

    assert zlib.decompressobj(31).decompress(packed) == data[:MIB] * 2
