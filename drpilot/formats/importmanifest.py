"""The manifest by which ImportVolume and ImportInstance find a disk image in a bucket (version 2010-11-15).

Its parts are plain slices of the image, without compression or digests; each carries presigned URLs, so the cloud needs
no other right to read them. Source: Amazon EC2, VM Import Manifest schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from drpilot.base.errors import DrpilotError
from drpilot.formats.xmltree import Element, parse

__all__ = ["ImportManifest", "ImportPart", "read_import", "slices", "write_import"]

VERSION = "2010-11-15"
FORMATS = ("RAW", "VMDK", "VHD")
PART_BYTES = 10_485_760
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ImportPart:
    """One slice of the image: bytes `start` to `end`, both included, under `key`; the URLs are presigned."""

    start: int
    end: int
    key: str
    head_url: str
    get_url: str
    delete_url: str


@dataclass(frozen=True, slots=True)
class ImportManifest:
    """An image for import. `self_destruct_url` deletes the manifest itself; `volume_gib` is the volume to make."""

    format: str
    size_bytes: int
    volume_gib: int
    self_destruct_url: str
    parts: tuple[ImportPart, ...]
    importer: tuple[str, str, str] = ("", "", "")


def slices(size_bytes: int, part_bytes: int = PART_BYTES) -> list[tuple[int, int]]:
    """First and last byte of each part of an image."""
    return [(start, min(start + part_bytes, size_bytes) - 1) for start in range(0, size_bytes, part_bytes)]


def read_import(data: bytes, file: str) -> ImportManifest:
    """An import manifest from the bytes of its file, called `file` in errors; raises `manifest-malformed`."""
    root = parse(data, file)
    try:
        return _manifest(root)
    except ValueError as error:
        raise DrpilotError("manifest-malformed", file=file, what=str(error)) from error


def _manifest(root: Element) -> ImportManifest:
    version = root.value("version")
    if root.tag != "manifest" or version != VERSION:
        raise ValueError(f"its root is <{root.tag}> of version {version!r}; an import manifest has {VERSION}")
    form = root.value("file-format").upper()
    if form not in FORMATS:
        raise ValueError(f"its format is {form[:40]!r}, not one of {', '.join(FORMATS)}")
    told = root.child("import")
    listed = told.child("parts") if told is not None else None
    if told is None or listed is None:
        raise ValueError("it lists no parts")
    parts = tuple(_part(one, place) for place, one in enumerate(listed.all("part")))
    if listed.attributes.get("count", str(len(parts))) != str(len(parts)):
        raise ValueError(f"it lists {len(parts)} parts and says {listed.attributes['count'][:40]}")
    size = _number(told.value("size"), "size")
    ends = [-1, *(part.end for part in parts)]
    if any(part.start != end + 1 for part, end in zip(parts, ends, strict=False)) or ends[-1] != size - 1:
        raise ValueError("its parts do not follow each other from the first byte to the last")
    importer = root.child("importer") or Element("importer", {}, 0)
    return ImportManifest(
        format=form,
        size_bytes=size,
        volume_gib=_number(told.value("volume-size"), "volume-size"),
        self_destruct_url=root.value("self-destruct-url"),
        parts=parts,
        importer=(importer.value("name", ""), importer.value("version", ""), importer.value("release", "")),
    )


def _part(part: Element, place: int) -> ImportPart:
    if part.attributes.get("index", str(place)) != str(place):
        raise ValueError("its parts are not in their order")
    span = part.child("byte-range")
    if span is None:
        raise ValueError("a part has no <byte-range>")
    start, end = (_number(span.attributes.get(name, ""), f"byte-range {name}") for name in ("start", "end"))
    if end < start:
        raise ValueError("a byte-range ends before it starts")
    return ImportPart(
        start,
        end,
        part.value("key"),
        part.value("head-url"),
        part.value("get-url"),
        part.value("delete-url"),
    )


def _number(text: str, what: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"{what} is {text[:40]!r}, not a number")
    return int(text)


def write_import(manifest: ImportManifest) -> bytes:
    """The file of `manifest`."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>',
        "<manifest>",
        f"  <version>{VERSION}</version>",
        f"  <file-format>{manifest.format}</file-format>",
        "  <importer>",
        *(
            f"    <{tag}>{escape(value)}</{tag}>"
            for tag, value in zip(("name", "version", "release"), manifest.importer, strict=True)
        ),
        "  </importer>",
        f"  <self-destruct-url>{escape(manifest.self_destruct_url)}</self-destruct-url>",
        "  <import>",
        f"    <size>{manifest.size_bytes}</size>",
        f"    <volume-size>{manifest.volume_gib}</volume-size>",
        f'    <parts count="{len(manifest.parts)}">',
        *_part_lines(manifest.parts),
        "    </parts>",
        "  </import>",
        "</manifest>",
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _part_lines(parts: Iterable[ImportPart]) -> Iterable[str]:
    for place, part in enumerate(parts):
        yield f"      <part index={quoteattr(str(place))}>"
        yield f'        <byte-range start="{part.start}" end="{part.end}"/>'
        yield f"        <key>{escape(part.key)}</key>"
        for tag, url in (("head", part.head_url), ("get", part.get_url), ("delete", part.delete_url)):
            yield f"        <{tag}-url>{escape(url)}</{tag}-url>"
        yield "      </part>"
