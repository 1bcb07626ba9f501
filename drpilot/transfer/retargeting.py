"""The same bundle for another cloud: a new manifest, the parts as they are.

Parts are the same on every cloud; what belongs to one cloud are the AES key sealed for it, the account, the kernel and
ramdisk ids, and the signature over all that. So the owner's private key is needed, and nothing is unpacked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from drpilot.base.errors import DrpilotError
from drpilot.formats import seal
from drpilot.formats.manifest import Manifest, Part, write
from drpilot.transfer.bundling import BUNDLER
from drpilot.transfer.places import PartSink, PartSource

__all__ = ["Target", "checked_part", "copy_parts", "retargeted"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the bundle goes. `owner` is the new owner's key, None: the owner stays; `user` empty: the account stays.

    `kernel_id` and `ramdisk_id` name images of the other cloud; empty means that the image boots by itself.
    """

    cloud: RSAPublicKey
    signer: RSAPrivateKey | None = field(default=None, repr=False)
    owner: RSAPublicKey | None = None
    user: str = ""
    kernel_id: str | None = None
    ramdisk_id: str | None = None


def retargeted(manifest: Manifest, secrets: seal.Secrets, target: Target) -> bytes:
    """The manifest of the same parts for `target`; raises `usage` where a kernel of the old cloud has no successor."""
    machine = replace(
        manifest.machine,
        kernel_id=_mapped(manifest, manifest.machine.kernel_id, target.kernel_id, "kernel"),
        ramdisk_id=_mapped(manifest, manifest.machine.ramdisk_id, target.ramdisk_id, "ramdisk"),
    )
    new = replace(
        manifest,
        user=target.user or manifest.user,
        cloud=seal.sealed(secrets, target.cloud),
        owner=manifest.owner if target.owner is None else seal.sealed(secrets, target.owner),
        machine=machine,
        bundler=BUNDLER,
    )
    return write(new, seal.signer(target.signer))


def _mapped(manifest: Manifest, old: str, new: str | None, word: str) -> str:
    if new is not None:
        return new
    if old in ("", "true"):  # `true` marks a bundle that itself holds a kernel or a ramdisk
        return old
    raise DrpilotError(
        "usage",
        what=f"{manifest.name} asks for {word} {old}, an image of its own cloud",
        hint=f"--{word} ID names its like on the other cloud; --{word} none: the image boots by itself",
    )


def checked_part(manifest: Manifest, part: Part, source: PartSource, most_bytes: int) -> bytearray:
    """A part whole, with the SHA-1 the manifest has; raises `part-missing`, `part-damaged`."""
    data = bytearray()
    for piece in source.part(part.name):
        data += piece
        if len(data) > most_bytes:
            what = f"it is longer than the {manifest.bundled_bytes} bytes of all parts"
            raise DrpilotError("part-damaged", part=part.name, name=manifest.name, what=what)
    found = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    if found != part.sha1:
        what = f"its SHA-1 is {found}, the manifest has {part.sha1}"
        raise DrpilotError("part-damaged", part=part.name, name=manifest.name, what=what)
    return data


def copy_parts(manifest: Manifest, source: PartSource, sink: PartSink) -> None:
    """Give every part to `sink` byte for byte, each checked on its way."""
    left = manifest.bundled_bytes
    for part in manifest.parts:
        data = checked_part(manifest, part, source, left)
        left -= len(data)
        sink.part(part.name, data)
