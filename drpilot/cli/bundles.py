"""Bundles on this machine: images as encrypted parts and a manifest, the form that clouds run from a bucket."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_size
from drpilot.cli.bundleparts import (
    Account,
    CloudCert,
    Kernel,
    ManifestFile,
    OwnerCert,
    PartsFolder,
    PrivateKey,
    Ramdisk,
    Signer,
    Where,
    account_of,
    certificate_of,
    document,
    folder_of,
    key_of,
    manifest_of,
    meter,
    plain_note,
    uplink_of,
)
from drpilot.cli.options import Folder
from drpilot.cli.render import Answer, Table
from drpilot.cli.rootbundles import Running, image_of, told_of
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from drpilot.formats.manifest import Manifest
    from drpilot.formats.seal import Secrets
    from drpilot.transfer.bundling import Order
    from drpilot.transfer.codec import Uplink
    from drpilot.transfer.places import PartSink

__all__ = ["create", "extract", "opened", "retarget", "show", "verify"]

_AWKWARD = (
    "vmlinuz",
    "initrd",
    "windows",
)  # Eucalyptus takes images so called for kernels, ramdisks or Windows


class Kind(StrEnum):
    """What a bundle holds."""

    MACHINE = "machine"
    KERNEL = "kernel"
    RAMDISK = "ramdisk"


class Compression(StrEnum):
    """The profiles of compression."""

    AUTO = "auto"
    FAST = "fast"
    SMALL = "small"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class About:
    """What a manifest says of the machine that runs the image."""

    kind: Annotated[Kind, typer.Option("--kind", help="what the image is")] = Kind.MACHINE
    architecture: Annotated[
        str, typer.Option("--arch", metavar="ARCH", help="the processor it is built for")
    ] = "x86_64"
    kernel: Kernel = None
    ramdisk: Ramdisk = None
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--mapping",
            metavar="VIRTUAL=DEVICE",
            help="a block device, such as root=/dev/sda1; may be repeated",
        ),
    ] = None
    product_code: Annotated[
        list[str] | None,
        typer.Option("--product-code", metavar="CODE", help="a product code; may be repeated"),
    ] = None


@dataclass(frozen=True, slots=True)
class Packing:
    """How an image is compressed."""

    profile: Annotated[
        Compression,
        typer.Option(
            "--profile",
            help="fast (isal), small (zlib-ng), plain (zlib); auto: small if it keeps the uplink full, else fast",
        ),
    ] = Compression.AUTO
    uplink: Annotated[
        str | None,
        typer.Option(
            "--uplink", metavar="40MiB/s", help="what the line carries; left out: measured on the first parts"
        ),
    ] = None


# -- create -------------------------------------------------------------------------------------------------------


def create(
    session: Session,
    about: About,
    packing: Packing,
    where: Where,
    running: Running,
    folder: Folder,
    image: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGE", help="a disk image or a block device", show_default=False),
    ] = None,
    account: Account = None,
    cloud_cert: CloudCert = None,
    cert: OwnerCert = None,
    private_key: PrivateKey = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="the bundle's name; left out: the image's")
    ] = None,
) -> Answer:
    """Make a bundle of an image, or of this running machine: into a folder, or into a bucket as its parts close."""
    from drpilot.base.clock import Chance, RealClock
    from drpilot.formats import seal
    from drpilot.transfer.bundling import Watch, bundle
    from drpilot.transfer.codec import Uplink
    from drpilot.transfer.places import NewFolderBundle

    called = Path(name or "root") if image is None else image
    order = _order(called, about, packing, (account, name), (cloud_cert, cert, private_key))
    plain_note(
        session, ("fast", "small") if packing.profile is Compression.AUTO else (packing.profile.value,)
    )
    secrets = seal.fresh(Chance())
    told = meter(session, "bundled")

    with image_of(session, image, running) as (file, root):

        def made(sink: PartSink, uplink: Uplink | None) -> Manifest:
            return bundle(file, order, secrets, sink, Watch(told, uplink))

        if where.to is not None:
            from drpilot.cli.bundlebuckets import into_bucket

            uplink = Uplink(RealClock(), order.workers, uplink_of(packing.uplink))
            answer = into_bucket(session, where, (order.name, uplink), lambda sink: made(sink, uplink))
            return told_of(answer, root)
        target = folder_of(folder, "bundle create")
        manifest = made(NewFolderBundle(target), None)
    return told_of(_created(session, manifest, target, private_key), root)


def _order(
    image: Path,
    about: About,
    packing: Packing,
    names: tuple[str | None, str | None],
    keys: tuple[Path | None, Path | None, Path | None],
) -> Order:
    from drpilot.formats.manifest import Machine, check_name
    from drpilot.transfer.bundling import Order

    cloud_cert, cert, private_key = keys
    if cloud_cert is None:
        raise DrpilotError(
            "usage", what="a bundle is made for one cloud", hint="--cloud-cert FILE, its bundling certificate"
        )
    name = check_name(names[1] or image.name, "--name" if names[1] else str(image))
    if about.kind is Kind.MACHINE and name.lower().startswith(_AWKWARD):
        raise DrpilotError(
            "usage",
            what=f"{name}: clouds take an image whose name begins with {', '.join(_AWKWARD)} for something else",
            hint="--name NAME",
        )
    machine = Machine(
        architecture=about.architecture,
        mappings=tuple(_mapping(text) for text in about.mapping or ()),
        product_codes=tuple(about.product_code or ()),
        kernel_id="true" if about.kind is Kind.KERNEL else about.kernel or "",
        ramdisk_id="true" if about.kind is Kind.RAMDISK else about.ramdisk or "",
    )
    return Order(
        name=name,
        user=account_of(names[0]),
        cloud=certificate_of(cloud_cert),
        owner=certificate_of(cert) if cert is not None else None,
        signer=key_of(private_key) if private_key is not None else None,
        machine=machine,
        kind=about.kind.value,
        profile=packing.profile.value,
    )


def _mapping(text: str) -> tuple[str, str]:
    virtual, equals, device = text.partition("=")
    if not (virtual and equals and device):
        raise DrpilotError(
            "usage", what=f"--mapping {text}: not VIRTUAL=DEVICE", hint="--mapping root=/dev/sda1"
        )
    return virtual, device


def _created(session: Session, manifest: Manifest, folder: Path, private_key: Path | None) -> Answer:
    from drpilot.transfer.bundling import manifest_name

    path = folder / manifest_name(manifest.name)
    signed = private_key is not None
    lines = [
        f"{path}: {format_size(manifest.size_bytes)} of image in {_parts(manifest)}",
        f"for account {manifest.user}; {'signed' if signed else 'not signed: --private-key FILE signs it'}",
    ]
    if not manifest.owner.key:
        lines.append("nobody but the cloud can open it: --cert FILE lets its owner")
    data = {**document(manifest), "signed": signed, "manifest": str(path)}
    key = f" --private-key {private_key}" if signed and manifest.owner.key else ""
    return Answer(data, tuple(lines), session.command(f"bundle verify {path}{key}"))


def _parts(manifest: Manifest) -> str:
    count = len(manifest.parts)
    return f"{count} part{'s' if count != 1 else ''}, {format_size(manifest.bundled_bytes)}"


# -- extract, verify, show ------------------------------------------------------------------------------------------


def extract(
    session: Session,
    manifest: ManifestFile,
    folder: Folder,
    private_key: PrivateKey = None,
    parts: PartsFolder = None,
    signer: Signer = None,
) -> Answer:
    """Give back the image of a bundle, checked to the last byte, as a new file in the folder."""
    from drpilot.transfer.newfile import writing
    from drpilot.transfer.places import Folder as Parts
    from drpilot.transfer.unbundling import extract as unpack

    read, _ = manifest_of(manifest)
    if private_key is None:
        raise DrpilotError("usage", what="only a private key opens a bundle", hint="--private-key FILE")
    target = folder_of(folder, "bundle extract")
    key = key_of(private_key)
    secrets, signature = opened(session, (read, manifest), (key, private_key), signer)
    plain_note(session, ("fast",))
    path = target / read.name
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    unpack(read, secrets, Parts(parts or manifest.parent, read.name), path, meter(session, "extracted"))
    data = {
        "name": read.name,
        "image": str(path),
        "image_bytes": read.size_bytes,
        "tar_sha1": read.tar_sha1,
        "signature": signature,
    }
    line = f"{path}: {format_size(read.size_bytes)}, as bundled by account {read.user}"
    return Answer(data, (line,), session.command(f"bundle show {manifest}"))


def opened(
    session: Session, bundle: tuple[Manifest, Path], key: tuple[RSAPrivateKey, Path], signer: Path | None
) -> tuple[Secrets, str]:
    """The bundle's AES key, and what its signature is: `valid`, `unsigned` or `unchecked`."""
    from drpilot.transfer.unbundling import check_signature, secrets_of

    manifest, path = bundle
    secrets, who = secrets_of(manifest, key[0], str(key[1]))
    if not manifest.is_signed:
        session.say(f"note: {path} is not signed: nobody vouches for what it says")
        return secrets, "unsigned"
    if signer is None and who == "cloud":
        session.say(
            "note: opened by the cloud's key, so the owner's signature was not checked: --signer FILE does"
        )
        return secrets, "unchecked"
    public = certificate_of(signer) if signer is not None else key[0].public_key()
    check_signature(manifest, public, str(path), str(signer or key[1]))
    return secrets, "valid"


def verify(
    session: Session,
    manifest: ManifestFile,
    private_key: PrivateKey = None,
    parts: PartsFolder = None,
    signer: Signer = None,
) -> Answer:
    """Read a whole bundle and say what is wrong with it; with a key the image too; exit code 3 on findings."""
    from drpilot.transfer.places import Folder as Parts
    from drpilot.transfer.verifying import verify as look

    read, _ = manifest_of(manifest)
    key = (key_of(private_key), str(private_key)) if private_key is not None else None
    public = certificate_of(signer) if signer is not None else None
    source = Parts(parts or manifest.parent, read.name)
    found = look(read, source, signer=public, key=key, told=meter(session, "read"))
    data = {
        "name": read.name,
        "parts": len(read.parts),
        "signature": found.signature,
        "image": found.image,
        "findings": [
            {"code": one.code, "word": one.word, "severity": one.severity, "message": one.message}
            for one in found.findings
        ],
    }
    lines = [f"{one.severity}[{one.code}]: {one.message}" for one in found.findings]
    lines.append(f"{read.name}: {_parts(read)}; signature {found.signature}, image {found.image}")
    if found.findings:
        return Answer(data, tuple(lines), session.command("explain bundle-unsound"), 3)
    step = f"bundle retarget {manifest}" if key else f"bundle verify {manifest} --private-key FILE"
    return Answer(data, tuple(lines), session.command(step))


def show(session: Session, manifest: ManifestFile) -> Answer:
    """What a manifest says."""
    read, _ = manifest_of(manifest)
    return Answer(document(read), tuple(_shown(read)), session.command(f"bundle verify {manifest}"))


def _shown(read: Manifest) -> list[Any]:
    machine = read.machine
    opened = " and ".join(
        who for who, box in (("its owner", read.owner), ("its cloud", read.cloud)) if box.key
    )
    rows = [
        ("name", read.name),
        ("account", read.user),
        ("kind", read.kind),
        ("architecture", machine.architecture),
        ("kernel", machine.kernel_id),
        ("ramdisk", machine.ramdisk_id),
        ("mappings", ", ".join(f"{virtual}={device}" for virtual, device in machine.mappings)),
        ("image", f"{format_size(read.size_bytes)} ({read.size_bytes} bytes)"),
        ("parts", f"{len(read.parts)}, {format_size(read.bundled_bytes)}: {read.parts[0].name} …"),
        ("sha1 of the tar", read.tar_sha1),
        ("bundled by", " ".join(word for word in read.bundler if word)),
        ("signed", "yes" if read.is_signed else "no"),
        ("can be opened by", opened or "nobody"),
    ]
    return [Table(("WHAT", "SAYS"), tuple(rows))]


# -- retarget -------------------------------------------------------------------------------------------------------


def retarget(
    session: Session,
    manifest: ManifestFile,
    folder: Folder,
    private_key: PrivateKey = None,
    cloud_cert: CloudCert = None,
    account: Account = None,
    kernel: Kernel = None,
    ramdisk: Ramdisk = None,
    cert: OwnerCert = None,
    sign_with: Annotated[
        Path | None,
        typer.Option(
            "--sign-with", metavar="FILE", help="who signs the new manifest; left out: the private key"
        ),
    ] = None,
    parts: PartsFolder = None,
    manifest_only: Annotated[
        bool,
        typer.Option("--manifest-only", help="write the new manifest and leave the parts where they are"),
    ] = False,
    signer: Signer = None,
) -> Answer:
    """Make the bundle of one cloud a bundle of another: a new manifest, its parts byte for byte."""
    from drpilot.transfer.places import Folder as Parts
    from drpilot.transfer.places import NewFolderBundle
    from drpilot.transfer.retargeting import Target, copy_parts, retargeted

    read, _ = manifest_of(manifest)
    if private_key is None or cloud_cert is None:
        raise DrpilotError(
            "usage",
            what="it takes the owner's key and the other cloud's certificate",
            hint="--private-key FILE --cloud-cert FILE",
        )
    into = folder_of(folder, "bundle retarget")
    key = key_of(private_key)
    secrets, _ = opened(session, (read, manifest), (key, private_key), signer)
    target = Target(
        cloud=certificate_of(cloud_cert),
        signer=key_of(sign_with) if sign_with is not None else key,
        owner=certificate_of(cert) if cert is not None else None,
        user=account_of(account) if account is not None else "",
        kernel_id=_named(kernel),
        ramdisk_id=_named(ramdisk),
    )
    written = retargeted(read, secrets, target)
    sink = NewFolderBundle(into)
    try:
        if not manifest_only:
            copy_parts(read, Parts(parts or manifest.parent, read.name), sink)
        sink.manifest(manifest.name, written)
    except BaseException:
        sink.discard()
        raise
    path = into / manifest.name
    copied = 0 if manifest_only else len(read.parts)
    new, _ = manifest_of(path)
    line = f"{path}: account {new.user}, {copied} of {len(read.parts)} parts copied as they are"
    return Answer(
        {**document(new), "manifest": str(path), "parts_copied": copied},
        (line,),
        session.command(f"bundle upload {path} BUCKET --site SITE"),
    )


def _named(text: str | None) -> str | None:
    return "" if text == "none" else text
