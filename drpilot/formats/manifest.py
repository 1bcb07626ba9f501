"""The manifest of an image bundle (version 2007-10-10), read as others wrote it and written so that all can read it.

Both Amazon's tools and euca2ools write it; they differ in the order of elements, the quotes of attributes and the
digits of part names, so nothing here depends on those. What counts when it is written: no white space between elements
(Eucalyptus 3.4 finds the signed part by an expression that does not cross lines) and single-quoted attributes (Amazon's
verifier serialises the parsed document again, that way). The signature covers the bytes of `machine_configuration` and
of `image` as they stand in the file. `digest` is the SHA-1 of the tar stream, not of the image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from drpilot.base.errors import DrpilotError
from drpilot.formats.xmltree import Element, parse

__all__ = ["UNSIGNED", "Machine", "Manifest", "Part", "Sealed", "check_name", "read", "write"]

UNSIGNED = "UNSIGNED"
VERSION = "2007-10-10"
KINDS = ("machine", "kernel", "ramdisk")
LARGEST_IMAGE_BYTES = 64 << 40  # the largest volume of EBS; a larger size is a lie

_NUMBER = re.compile(r"[0-9]{1,18}")
_SHA1 = re.compile(r"[0-9a-fA-F]{40}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f/\\]")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the ciphertext: its file name, without a folder, and its SHA-1 in lower-case hex."""

    name: str
    sha1: str


@dataclass(frozen=True, slots=True)
class Sealed:
    """The AES key and IV as encrypted for one RSA key, in hex; empty where nobody was given them."""

    key: str = ""
    iv: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """`machine_configuration`: what a machine image asks of its machine. `mappings` are (virtual, device)."""

    architecture: str = "x86_64"
    mappings: tuple[tuple[str, str], ...] = ()
    product_codes: tuple[str, ...] = ()
    kernel_id: str = ""
    ramdisk_id: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A bundle. `signature` is hex, `UNSIGNED` or empty; `signed` are the bytes it covers, as read from the file."""

    name: str
    user: str
    size_bytes: int
    bundled_bytes: int
    tar_sha1: str
    parts: tuple[Part, ...]
    cloud: Sealed = Sealed()
    owner: Sealed = Sealed()
    machine: Machine = Machine()
    kind: str = "machine"
    kernel_name: str = ""
    ancestry: tuple[str, ...] = ()
    bundler: tuple[str, str, str] = ("", "", "")
    signature: str = ""
    signed: bytes = field(default=b"", repr=False)

    @property
    def is_signed(self) -> bool:
        """Whether anybody vouches for it."""
        return self.signature not in ("", UNSIGNED)


def check_name(name: str, file: str) -> str:
    """`name` if it can only be a file in the folder it is put into; raises `unsafe-name`."""
    plain = bool(name) and _CONTROL.search(name) is None and not name.startswith(".")
    if not plain or len(name.encode("utf-8", "surrogatepass")) > 200:
        raise DrpilotError("unsafe-name", name=name[:200], file=file)
    return name


# -- reading ------------------------------------------------------------------------------------------------------


def read(data: bytes, file: str) -> Manifest:
    """A manifest from the bytes of its file, called `file` in errors; raises `manifest-malformed`, `unsafe-name`."""
    root = parse(data, file)
    try:
        return _manifest(root, data, file)
    except ValueError as error:
        raise DrpilotError("manifest-malformed", file=file, what=str(error)) from error


def _manifest(root: Element, data: bytes, file: str) -> Manifest:
    if root.tag != "manifest":
        raise ValueError(f"its root is <{root.tag}>, not <manifest>")
    version = root.value("version")
    if version != VERSION:
        raise ValueError(f"its version is {version!r}; bundles have {VERSION}")
    image, machine = root.child("image"), root.child("machine_configuration")
    if image is None:
        raise ValueError("it has no <image>")
    kind = image.value("type", "machine")
    if kind not in KINDS:
        raise ValueError(f"its type is {kind!r}, not one of {', '.join(KINDS)}")
    ancestry = image.child("ancestry")
    bundler = root.child("bundler") or Element("bundler", {}, 0)
    return Manifest(
        name=check_name(image.value("name"), file),
        user=image.value("user").replace("-", ""),
        size_bytes=_number(image.value("size"), "size", LARGEST_IMAGE_BYTES),
        bundled_bytes=_number(image.value("bundled_size"), "bundled_size", LARGEST_IMAGE_BYTES),
        tar_sha1=_digest(image),
        parts=_parts(image, file),
        cloud=Sealed(_sealed(image, "ec2_encrypted_key"), _sealed(image, "ec2_encrypted_iv")),
        owner=Sealed(_sealed(image, "user_encrypted_key"), _sealed(image, "user_encrypted_iv")),
        machine=_machine(machine),
        kind=kind,
        kernel_name=image.value("kernel_name", ""),
        ancestry=tuple(one.text.strip() for one in ancestry.all("ancestor_ami_id")) if ancestry else (),
        bundler=(bundler.value("name", ""), bundler.value("version", ""), bundler.value("release", "")),
        signature=_signature(root),
        signed=(data[machine.start : machine.end] if machine else b"") + data[image.start : image.end],
    )


def _number(text: str, what: str, most: int) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) > most:
        raise ValueError(f"{what} is {text[:40]!r}, not a number of bytes up to {most}")
    return int(text)


def _digest(element: Element) -> str:
    found = element.child("digest")
    text = found.text.strip() if found is not None else ""
    algorithm = found.attributes.get("algorithm", "SHA1") if found is not None else "SHA1"
    if algorithm.replace("-", "").upper() != "SHA1":
        raise ValueError(f"a digest is {algorithm[:40]}; bundles have SHA1")
    if _SHA1.fullmatch(text) is None:
        raise ValueError(f"<{element.tag}> has no SHA-1 of 40 hex digits")
    return text.lower()


def _sealed(image: Element, tag: str) -> str:
    found = image.child(tag)
    if found is None:
        return ""
    algorithm = found.attributes.get("algorithm", "AES-128-CBC")
    if algorithm.upper() != "AES-128-CBC":
        raise ValueError(f"{tag} is for {algorithm[:40]}; bundles have AES-128-CBC")
    text = found.text.strip()
    if _HEX.fullmatch(text) is None:
        raise ValueError(f"{tag} is not hex")
    return text.lower()


def _signature(root: Element) -> str:
    text = root.value("signature", "")
    if text != UNSIGNED and _HEX.fullmatch(text) is None:
        raise ValueError("its signature is not hex")
    return text if text == UNSIGNED else text.lower()


def _machine(found: Element | None) -> Machine:
    if found is None:
        return Machine(architecture="")
    mappings, codes = found.child("block_device_mapping"), found.child("product_codes")
    return Machine(
        architecture=found.value("architecture", ""),
        mappings=tuple((one.value("virtual"), one.value("device")) for one in mappings.all("mapping"))
        if mappings
        else (),
        product_codes=tuple(one.text.strip() for one in codes.all("product_code")) if codes else (),
        kernel_id=found.value("kernel_id", ""),
        ramdisk_id=found.value("ramdisk_id", ""),
    )


def _parts(image: Element, file: str) -> tuple[Part, ...]:
    listed = image.child("parts")
    found = list(listed.all("part")) if listed is not None else []
    if listed is None or not found:
        raise ValueError("it lists no parts")
    if listed.attributes.get("count", str(len(found))) != str(len(found)):
        raise ValueError(f"it lists {len(found)} parts and says {listed.attributes['count'][:40]}")
    by_index = {one.attributes.get("index", str(place)): one for place, one in enumerate(found)}
    if set(by_index) != {str(place) for place in range(len(found))}:
        raise ValueError("its parts are not numbered from 0")
    ordered = [by_index[str(place)] for place in range(len(found))]
    parts = tuple(Part(check_name(one.value("filename"), file), _digest(one)) for one in ordered)
    if len({part.name for part in parts}) != len(parts):
        raise ValueError("it lists a part twice")
    return parts


# -- writing ------------------------------------------------------------------------------------------------------


def write(manifest: Manifest, sign: Callable[[bytes], str] | None) -> bytes:
    """The file of `manifest`. `sign` gives the hex signature of the signed bytes; None writes `UNSIGNED`."""
    signed = (_machine_text(manifest.machine) + _image_text(manifest)).encode("utf-8")
    signature = sign(signed) if sign is not None else UNSIGNED
    name, version, release = manifest.bundler
    bundler = _tag(
        "bundler",
        _tag("name", escape(name)),
        _tag("version", escape(version)),
        _tag("release", escape(release)),
    )
    head = f"<?xml version='1.0' encoding='UTF-8'?>\n<manifest>{_tag('version', VERSION)}{bundler}"
    return head.encode("utf-8") + signed + f"{_tag('signature', signature)}</manifest>".encode()


def _tag(name: str, *inside: str, **attributes: str) -> str:
    given = "".join(f" {key}='{escape(value)}'" for key, value in attributes.items())
    return f"<{name}{given}>{''.join(inside)}</{name}>"


def _each(name: str, values: Iterable[str]) -> str:
    return "".join(_tag(name, escape(value)) for value in values)


def _machine_text(machine: Machine) -> str:
    inside = [_tag("architecture", escape(machine.architecture))]
    if machine.mappings:
        mappings = sorted(machine.mappings)
        pairs = [
            _tag("mapping", _each("virtual", [virtual]), _each("device", [device]))
            for virtual, device in mappings
        ]
        inside.append(_tag("block_device_mapping", *pairs))
    if machine.product_codes:
        inside.append(_tag("product_codes", _each("product_code", machine.product_codes)))
    inside += [_each("kernel_id", [machine.kernel_id])] if machine.kernel_id else []
    inside += [_each("ramdisk_id", [machine.ramdisk_id])] if machine.ramdisk_id else []
    return _tag("machine_configuration", *inside)


def _image_text(manifest: Manifest) -> str:
    parts = [
        _tag(
            "part",
            _each("filename", [part.name]),
            _tag("digest", part.sha1, algorithm="SHA1"),
            index=str(place),
        )
        for place, part in enumerate(manifest.parts)
    ]
    inside = [
        _each("name", [manifest.name]),
        _each("user", [manifest.user]),
        _tag("type", manifest.kind),
        _each("kernel_name", [manifest.kernel_name]) if manifest.kernel_name else "",
        _tag("ancestry", _each("ancestor_ami_id", manifest.ancestry)) if manifest.ancestry else "",
        _tag("digest", manifest.tar_sha1, algorithm="SHA1"),
        _tag("size", str(manifest.size_bytes)),
        _tag("bundled_size", str(manifest.bundled_bytes)),
        _tag("ec2_encrypted_key", manifest.cloud.key, algorithm="AES-128-CBC"),
        _tag("user_encrypted_key", manifest.owner.key, algorithm="AES-128-CBC"),
        _tag("ec2_encrypted_iv", manifest.cloud.iv),
        _tag("user_encrypted_iv", manifest.owner.iv),
        _tag("parts", *parts, count=str(len(parts))),
    ]
    return _tag("image", *inside)
