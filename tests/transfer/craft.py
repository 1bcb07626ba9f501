"""Bundles for tests: made by drpilot, made by hand from standard tools, and opened by standard tools alone."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree as ET

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from drpilot.base.clock import Chance
from drpilot.formats import seal
from drpilot.formats.manifest import Machine, Manifest, Part, read, write
from drpilot.transfer.bundling import Order, Watch, bundle, manifest_name
from drpilot.transfer.codec import GZIP_HEADER, checksum, gzip_trailer
from drpilot.transfer.places import NewFolderBundle

REFERENCE = Path(__file__).resolve().parents[1] / "data" / "reference-bundle"
MANIFEST = REFERENCE / "compress25.img.manifest.xml"
ACCOUNT = "123456789012"


@cache
def owner() -> RSAPrivateKey:
    """The owner of the reference bundle."""
    return seal.private_key((REFERENCE / "keys" / "user-pk.der").read_bytes(), "user-pk.der")


@cache
def cloud() -> RSAPrivateKey:
    """The cloud the reference bundle was made for."""
    return seal.private_key((REFERENCE / "keys" / "cloud-pk.der").read_bytes(), "cloud-pk.der")


@cache
def stranger(bits: int = 2048) -> RSAPrivateKey:
    """Somebody who has nothing to do with any bundle."""
    return generate_private_key(65537, bits)


def key_files(folder: Path) -> tuple[Path, Path]:
    """The owner's private key as PEM for openssl, and a stranger's as DER."""
    pem, der = folder / "owner.pem", folder / "stranger.der"
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem.write_bytes(owner().private_bytes(serialization.Encoding.PEM, form, plain))
    der.write_bytes(stranger().private_bytes(serialization.Encoding.DER, form, plain))
    return pem, der


def make(image: Path, folder: Path, **order: object) -> Manifest:
    """Bundle `image` into `folder` for the reference keys; gives the manifest as it is read back."""
    given = {
        "name": "image",
        "user": ACCOUNT,
        "cloud": cloud().public_key(),
        "owner": owner().public_key(),
        "signer": owner(),
    }
    wanted = Order(**{**given, **order})
    made = bundle(image, wanted, seal.fresh(Chance()), NewFolderBundle(folder), Watch())
    path = folder / manifest_name(made.name)
    found = read(path.read_bytes(), str(path))
    assert (found.parts, found.size_bytes, found.bundled_bytes) == (
        made.parts,
        made.size_bytes,
        made.bundled_bytes,
    )
    return found


def by_standard_tools(manifest: Path, key_pem: Path, folder: Path) -> bytes:
    """The image of a bundle by openssl, gzip, tar and sha1sum alone; every digest of the manifest is compared."""
    image = ET.parse(manifest).getroot().find("image")
    assert image is not None
    secrets = [
        _decrypted(image.findtext(tag) or "", key_pem) for tag in ("user_encrypted_key", "user_encrypted_iv")
    ]
    assert all(re.fullmatch(r"[0-9a-f]{32}", text) for text in secrets)
    names = [str(manifest.parent / (part.findtext("filename") or "")) for part in image.iter("part")]
    digests = [part.findtext("digest") for part in image.iter("part")]
    assert [line.split()[0] for line in _run("sha1sum", *names).decode().splitlines()] == digests
    cipher, packed, tar = folder / "cipher", folder / "packed", folder / "tar"
    cipher.write_bytes(b"".join(Path(name).read_bytes() for name in names))
    assert cipher.stat().st_size == int(image.findtext("bundled_size") or -1)
    _run(
        "openssl",
        "enc",
        "-d",
        "-aes-128-cbc",
        "-K",
        secrets[0],
        "-iv",
        secrets[1],
        "-in",
        str(cipher),
        "-out",
        str(packed),
    )
    with packed.open("rb") as source, tar.open("wb") as target:
        subprocess.run(["gzip", "-dc"], stdin=source, stdout=target, check=True)
    assert _run("sha1sum", str(tar)).decode().split()[0] == image.findtext("digest")
    listed = _run("tar", "-tf", str(tar)).decode().splitlines()
    assert len(listed) == 1
    found = _run("tar", "-xOf", str(tar))
    assert len(found) == int(image.findtext("size") or -1)
    return found


def _decrypted(text: str, key_pem: Path) -> str:
    return _run("openssl", "pkeyutl", "-decrypt", "-inkey", str(key_pem), given=bytes.fromhex(text)).decode()


def _run(*command: str, given: bytes = b"") -> bytes:
    done = subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def like_amazon(image: Path, folder: Path) -> Path:
    """A bundle as ec2-bundle-image makes it, from tar, gzip, openssl and split: sparse tar, single-digit part names,
    Amazon's order of elements, signed by openssl. Gives the manifest's path.
    """
    folder.mkdir()
    pem, _ = key_files(folder)
    secrets = seal.fresh(Chance())
    tar = _run("tar", "-c", "-h", "-S", "--owner", "0", "--group", "0", "-C", str(image.parent), image.name)
    packed = _run("gzip", "-9", given=tar)
    command = ("openssl", "enc", "-e", "-aes-128-cbc", "-K", secrets.key.hex(), "-iv", secrets.iv.hex())
    cipher = _run(*command, given=packed)
    names = [f"{image.name}.part.{number}" for number in range(-(-len(cipher) // 4096))][:10]
    step = -(-len(cipher) // len(names))
    parts = ""
    for number, name in enumerate(names):
        data = cipher[number * step : (number + 1) * step]
        (folder / name).write_bytes(data)
        digest = hashlib.sha1(data).hexdigest()
        parts += f"<part index='{number}'><filename>{name}</filename><digest algorithm='SHA1'>{digest}</digest></part>"
    theirs, ours = (seal.sealed(secrets, key.public_key()) for key in (cloud(), owner()))
    machine = (
        "<machine_configuration><architecture>i386</architecture><block_device_mapping><mapping><virtual>ami</virtual>"
        "<device>sda1</device></mapping><mapping><virtual>root</virtual><device>/dev/sda1</device></mapping>"
        "</block_device_mapping><kernel_id>aki-88aa75e1</kernel_id><ramdisk_id>ari-7cb95a15</ramdisk_id><product_codes>"
        "<product_code>774F4FF8</product_code></product_codes></machine_configuration>"
    )
    body = (
        f"<image><name>{image.name}</name><user>{ACCOUNT}</user><type>machine</type><ancestry><ancestor_ami_id>"
        f"ami-2bb65342</ancestor_ami_id></ancestry><digest algorithm='SHA1'>{hashlib.sha1(tar).hexdigest()}</digest>"
        f"<size>{image.stat().st_size}</size><bundled_size>{len(cipher)}</bundled_size>"
        f"<ec2_encrypted_key algorithm='AES-128-CBC'>{theirs.key}</ec2_encrypted_key>"
        f"<user_encrypted_key algorithm='AES-128-CBC'>{ours.key}</user_encrypted_key>"
        f"<ec2_encrypted_iv>{theirs.iv}</ec2_encrypted_iv><user_encrypted_iv>{ours.iv}</user_encrypted_iv>"
        f"<parts count='{len(names)}'>{parts}</parts></image>"
    )
    signature = _run("openssl", "dgst", "-sha1", "-sign", str(pem), given=(machine + body).encode()).hex()
    text = (
        "<?xml version='1.0'?><manifest><version>2007-10-10</version><bundler><name>ec2-ami-tools</name><version>1.5.3"
        f"</version><release>0</release></bundler>{machine}{body}<signature>{signature}</signature></manifest>"
    )
    path = folder / f"{image.name}.manifest.xml"
    path.write_text(text)
    return path


@dataclass(frozen=True)
class Forged:
    """A bundle whose inside is anything: its manifest and where it is."""

    manifest: Manifest
    folder: Path
    path: Path
    secrets: seal.Secrets


def forged(folder: Path, tar: bytes, size_bytes: int, packed: bytes | None = None) -> Forged:
    """A bundle of one part around the stream `tar` (or the gzip stream `packed`), with right digests, unsigned."""
    import zlib

    folder.mkdir(exist_ok=True)
    secrets = seal.fresh(Chance())
    if packed is None:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        body = packer.compress(tar) + packer.flush(zlib.Z_SYNC_FLUSH)
        packed = GZIP_HEADER + body + gzip_trailer(checksum(tar), len(tar))
    command = ("openssl", "enc", "-e", "-aes-128-cbc", "-K", secrets.key.hex(), "-iv", secrets.iv.hex())
    cipher = _run(*command, given=packed)
    (folder / "forged.part.00").write_bytes(cipher)
    manifest = Manifest(
        name="forged",
        user=ACCOUNT,
        size_bytes=size_bytes,
        bundled_bytes=len(cipher),
        tar_sha1=hashlib.sha1(tar).hexdigest(),
        parts=(Part("forged.part.00", hashlib.sha1(cipher).hexdigest()),),
        cloud=seal.sealed(secrets, cloud().public_key()),
        owner=seal.sealed(secrets, owner().public_key()),
        machine=Machine(),
    )
    path = folder / "forged.manifest.xml"
    path.write_bytes(write(manifest, None))
    return Forged(manifest, folder, path, secrets)


def changed(path: Path, change: Callable[[str], str]) -> Path:
    """The manifest at `path` with its text changed, beside it."""
    text = path.read_text()
    other = change(text)
    assert other != text
    target = path.with_name(f"changed-{path.name}")
    target.write_text(other)
    return target
