"""What the bundle commands share: keys from files, the site by its name, progress, and a bundle as a document."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drpilot.base.errors import DrpilotError
from drpilot.base.units import format_size, parse_size
from drpilot.cli.options import Folder
from drpilot.cli.session import Session

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

    from drpilot.clouds.site import BotoSite
    from drpilot.formats.manifest import Manifest

__all__ = [
    "Account",
    "CloudCert",
    "Kernel",
    "ManifestFile",
    "OwnerCert",
    "PartsFolder",
    "PrivateKey",
    "Ramdisk",
    "Signer",
    "SiteOption",
    "Where",
    "account_of",
    "certificate_of",
    "clouds",
    "document",
    "folder_of",
    "key_of",
    "manifest_of",
    "meter",
    "plain_note",
    "site_of",
    "uplink_of",
]

_MOST_KEY_BYTES = 1 << 16

ManifestFile = Annotated[
    Path, typer.Argument(metavar="MANIFEST", help="a bundle's manifest file", show_default=False)
]
PrivateKey = Annotated[
    Path | None,
    typer.Option(
        "--private-key", metavar="FILE", help="the owner's RSA private key, PEM or DER; never the key itself"
    ),
]
OwnerCert = Annotated[
    Path | None,
    typer.Option("--cert", metavar="FILE", help="the owner's certificate: its key may open the bundle"),
]
CloudCert = Annotated[
    Path | None,
    typer.Option(
        "--cloud-cert", metavar="FILE", help="the bundling certificate of the cloud that will run the image"
    ),
]
Signer = Annotated[
    Path | None,
    typer.Option(
        "--signer", metavar="FILE", help="the certificate of who signed it, if not the private key's owner"
    ),
]
PartsFolder = Annotated[
    Path | None,
    typer.Option("--parts", metavar="DIR", help="where the parts are; left out: beside the manifest"),
]
Account = Annotated[
    str | None, typer.Option("--account", metavar="ID", help="the owner's account on that cloud, 12 digits")
]
Kernel = Annotated[
    str | None, typer.Option("--kernel", metavar="ID", help="the kernel image it boots with, on that cloud")
]
Ramdisk = Annotated[
    str | None, typer.Option("--ramdisk", metavar="ID", help="the ramdisk image it boots with, on that cloud")
]
SiteOption = Annotated[
    str | None, typer.Option("--site", metavar="SITE", help="the site whose buckets are meant")
]


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a bucket, for commands that can write there."""

    site: SiteOption = None
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="BUCKET[/PREFIX]", help="upload there instead of writing into a folder"),
    ] = None
    create_bucket: Annotated[
        bool, typer.Option("--create-bucket", help="make the bucket if there is none")
    ] = False
    acl: Annotated[
        str,
        typer.Option("--acl", metavar="ACL", help="the canned ACL by which the cloud may read the bundle"),
    ] = "aws-exec-read"


# -- files --------------------------------------------------------------------------------------------------------


def key_of(path: Path) -> RSAPrivateKey:
    """The RSA private key in a file; raises `unknown-file`, `key-unreadable`."""
    from drpilot.formats import seal
    from drpilot.transfer.places import read_small

    return seal.private_key(read_small(path, _MOST_KEY_BYTES), str(path))


def certificate_of(path: Path) -> RSAPublicKey:
    """The public key of the certificate in a file; raises `unknown-file`, `key-unreadable`."""
    from drpilot.formats import seal
    from drpilot.transfer.places import read_small

    return seal.certificate(read_small(path, _MOST_KEY_BYTES), str(path))


def manifest_of(path: Path) -> tuple[Manifest, bytes]:
    """The manifest in a file, and its bytes; raises `unknown-file`, `manifest-malformed`, `unsafe-name`."""
    from drpilot.formats.manifest import read
    from drpilot.transfer.places import read_small

    data = read_small(path, (5 << 20) + 1)
    return read(data, str(path)), data


def folder_of(folder: Folder, command: str) -> Path:
    """The folder a command writes into; raises `usage` where none was given."""
    if folder.path is None:
        raise DrpilotError(
            "usage",
            what=f"{command} needs a folder to write into",
            hint="--output DIR, and --output json for the form",
        )
    return folder.path


def account_of(text: str | None) -> str:
    """An account number without dashes; raises `usage`."""
    digits = (text or "").replace("-", "")
    if len(digits) != 12 or not (digits.isascii() and digits.isdigit()):
        raise DrpilotError(
            "usage", what=f"--account {text or 'is missing'}: not 12 digits", hint="--account 123456789012"
        )
    return digits


# -- the site -------------------------------------------------------------------------------------------------------


def site_of(session: Session, name: str | None) -> BotoSite:
    """The site called `name`, by drpilot.yaml alone: no journal is opened."""
    from drpilot import wiring
    from drpilot.base.clock import RealClock
    from drpilot.inventory import configuration

    if name is None:
        raise DrpilotError("usage", what="it needs a site", hint="--site SITE; drpilot site list")
    session.quiet()
    folder = wiring.home_of(lab=session.common.lab)
    if session.common.lab and not (folder / "drpilot.yaml").exists():
        raise DrpilotError("lab-down", why=f"no lab was ever started in {folder}")
    return wiring.Sites(configuration.read(folder, lab=session.common.lab), RealClock()).site(name)


@contextlib.contextmanager
def clouds(site: BotoSite) -> Iterator[None]:
    """Within, a cloud's refusal is an error of the catalogue."""
    from drpilot.clouds.failures import as_drpilot_error
    from drpilot.domain.ports import CloudError

    try:
        yield
    except CloudError as error:
        raise as_drpilot_error(error, endpoint=site.endpoint("s3"), account=site.account) from error
    finally:
        site.close()


# -- what people see ------------------------------------------------------------------------------------------------

_WORTH_TELLING_BYTES = 64 << 20


def meter(session: Session, verb: str) -> Any:
    """Tells on stderr how far a work on many bytes is: redrawn on a terminal, else a line each tenth."""
    shown = -1

    def told(done_bytes: int, size_bytes: int) -> None:
        nonlocal shown
        if size_bytes < _WORTH_TELLING_BYTES:
            return
        live = session.terminal.live
        step = done_bytes * (100 if live else 10) // size_bytes
        if step == shown:
            return
        shown = step
        text = f"{verb} {format_size(done_bytes)} of {format_size(size_bytes)}"
        if live:
            session.terminal.stderr.write(
                f"\r{text:<60}" + ("\r" + " " * 60 + "\r" if done_bytes >= size_bytes else "")
            )
            session.terminal.stderr.flush()
        else:
            session.say(text)

    return told


def plain_note(session: Session, names: tuple[str, ...]) -> None:
    """Say which compression library is missing, and what that costs."""
    from drpilot.transfer.codec import fallback

    missing = fallback(names)
    if missing:
        session.say(
            f"note: {' and '.join(missing)} not installed, so Python's zlib is used, several times slower: "
            "pip install 'drpilot[fast]'"
        )


def uplink_of(text: str | None) -> float | None:
    """Bytes a second in a text such as `40MiB`; raises `usage`."""
    if text is None:
        return None
    try:
        return float(parse_size(text.removesuffix("/s")))
    except ValueError as error:
        raise DrpilotError("usage", what=f"--uplink {text}: {error}", hint="--uplink 40MiB/s") from error


def document(manifest: Manifest) -> dict[str, Any]:
    """A bundle as `--output json` carries it: everything but the sealed keys."""
    machine = manifest.machine
    return {
        "name": manifest.name,
        "account": manifest.user,
        "kind": manifest.kind,
        "architecture": machine.architecture,
        "kernel": machine.kernel_id or None,
        "ramdisk": machine.ramdisk_id or None,
        "kernel_name": manifest.kernel_name or None,
        "mappings": [{"virtual": virtual, "device": device} for virtual, device in machine.mappings],
        "product_codes": list(machine.product_codes),
        "ancestry": list(manifest.ancestry),
        "image_bytes": manifest.size_bytes,
        "bundled_bytes": manifest.bundled_bytes,
        "tar_sha1": manifest.tar_sha1,
        "parts": [{"name": part.name, "sha1": part.sha1} for part in manifest.parts],
        "bundler": " ".join(word for word in manifest.bundler if word),
        "signed": manifest.is_signed,
        "opened_by": [who for who, box in (("owner", manifest.owner), ("cloud", manifest.cloud)) if box.key],
    }
