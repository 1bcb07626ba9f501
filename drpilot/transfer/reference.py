"""How people name what is copied: snapshots, places in buckets, devices and files.

snap-0123abc@SITE          a snapshot; as a source
snapshot@SITE              a new snapshot; as a target
s3://BUCKET/PREFIX@SITE    raw parts in a bucket
bundle:MANIFEST            the image of a bundle, by its manifest file; as a source
-                          standard input, of --size; as a source
anything else              a device or a file; ./ in front of a name that looks like one of the above
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from drpilot.base.errors import DrpilotError

__all__ = ["FORMS", "Reference", "parse_reference"]

FORMS = "snap-…@SITE, snapshot@SITE, s3://BUCKET/PREFIX@SITE, bundle:MANIFEST, or a path"
_SNAPSHOT = re.compile(r"(snap-[0-9A-Za-z]+)@([A-Za-z0-9._-]+)")
_NEW = re.compile(r"snapshot@([A-Za-z0-9._-]+)")
_PARTS = re.compile(r"s3://([^/@]+)(?:/(.*))?@([A-Za-z0-9._-]+)")

Kind = Literal["snapshot", "new", "parts", "bundle", "stream", "path"]


@dataclass(frozen=True, slots=True)
class Reference:
    """`name` is the snapshot's id, the bucket or the path; `site` and `prefix` where the kind has them."""

    kind: Kind
    name: str = ""
    site: str = ""
    prefix: str = ""


def parse_reference(text: str) -> Reference:
    """Read a name; raises DrpilotError `usage` for what looks like one form and isn't."""
    if found := _SNAPSHOT.fullmatch(text):
        return Reference("snapshot", found[1], found[2])
    if found := _NEW.fullmatch(text):
        return Reference("new", "", found[1])
    if found := _PARTS.fullmatch(text):
        return Reference("parts", found[1], found[3], (found[2] or "").strip("/"))
    if text.startswith("bundle:") and text != "bundle:":
        return Reference("bundle", text.removeprefix("bundle:"))
    if text == "-":
        return Reference("stream", "standard input")
    if not text or "://" in text or re.match(r"(snap-[0-9A-Za-z]+|snapshot)(@|$)", text):
        raise DrpilotError(
            "usage", what=f"{text!r} is not written as {FORMS}", hint="drpilot blocks copy --help"
        )
    return Reference("path", text)
