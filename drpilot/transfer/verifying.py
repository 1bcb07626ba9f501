"""What is wrong with a bundle, all of it: parts, sizes, signature, and with a key the image itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from drpilot.base.errors import DrpilotError, Finding
from drpilot.formats import seal
from drpilot.formats.manifest import Manifest
from drpilot.transfer.bundling import Progress
from drpilot.transfer.places import PartSource
from drpilot.transfer.unbundling import Nowhere, secrets_of, unbundle

__all__ = ["Checked", "verify"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: `signature` is valid, wrong, unsigned or unchecked; `image` is whole, wrong or unchecked."""

    signature: str
    image: str
    findings: tuple[Finding, ...] = field(default=())


def verify(
    manifest: Manifest,
    source: PartSource,
    *,
    signer: RSAPublicKey | None = None,
    key: tuple[RSAPrivateKey, str] | None = None,
    told: Progress | None = None,
) -> Checked:
    """Read every part; with `key` (and its name) unpack the image too, without keeping it."""
    found = _parts(manifest, source)
    opened = _opened(manifest, key, found)
    if signer is None and key is not None and opened is not None and opened[1] == "owner":
        signer = key[0].public_key()
    signature = _signature(manifest, signer)
    if signature in ("wrong", "unsigned"):
        severity = "error" if signature == "wrong" else "warning"
        text = (
            "its signature is wrong"
            if signature == "wrong"
            else "nobody signed it: its manifest may be anybody's"
        )
        found.append(Finding("bundle-unsound", severity, f"{manifest.name}: {text}"))
    image = "unchecked"
    if opened is not None and not any(one.severity == "error" for one in found):
        image = "whole"
        try:
            unbundle(manifest, opened[0], source, Nowhere(), told)
        except DrpilotError as error:
            if error.word not in ("image-damaged", "image-overflow", "part-damaged"):
                raise
            image = "wrong"
            found.append(Finding("bundle-unsound", "error", error.title))
    return Checked(signature, image, tuple(found))


def _opened(
    manifest: Manifest, key: tuple[RSAPrivateKey, str] | None, found: list[Finding]
) -> tuple[seal.Secrets, str] | None:
    if key is None:
        return None
    try:
        return secrets_of(manifest, *key)
    except DrpilotError as error:
        found.append(Finding("bundle-unsound", "error", error.title))
        return None


def _signature(manifest: Manifest, public: RSAPublicKey | None) -> str:
    if not manifest.is_signed:
        return "unsigned"
    if public is None:
        return "unchecked"
    return "valid" if seal.signs(manifest.signature, manifest.signed, public) else "wrong"


def _parts(manifest: Manifest, source: PartSource) -> list[Finding]:
    found, total = [], 0
    for part in manifest.parts:
        sha1 = hashlib.sha1(usedforsecurity=False)
        try:
            for piece in source.part(part.name):
                sha1.update(piece)
                total += len(piece)
        except DrpilotError as error:
            if error.word not in ("part-missing", "file-unreadable"):
                raise
            found.append(Finding("bundle-unsound", "error", error.title))
            continue
        if sha1.hexdigest() != part.sha1:
            text = f"part {part.name}: its SHA-1 is {sha1.hexdigest()}, the manifest has {part.sha1}"
            found.append(Finding("bundle-unsound", "error", text))
    if not found and total != manifest.bundled_bytes:
        text = f"its parts have {total} bytes, the manifest says {manifest.bundled_bytes}"
        found.append(Finding("bundle-unsound", "error", text))
    return found
