"""Bundle manifests: what the real tools wrote is read, what is written can be verified by all, nonsense is refused."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.formats import seal
from drpilot.formats.manifest import UNSIGNED, Machine, Manifest, Part, Sealed, read, write
from tests.transfer.craft import MANIFEST, cloud, key_files, like_amazon, owner, stranger

FULL = Manifest(
    name="web & shop.img",
    user="123456789012",
    size_bytes=10,
    bundled_bytes=64,
    tar_sha1="a" * 40,
    parts=(Part("web.part.0", "b" * 40), Part("web.part.1", "c" * 40)),
    cloud=Sealed("aa", "bb"),
    owner=Sealed("cc", "dd"),
    machine=Machine("armhf", (("ami", "sda1"), ("root", "/dev/sda1")), ("ABC<1>",), "eki-15A1386E", "eri-1"),
    kind="machine",
    ancestry=("ami-1", "ami-2"),
    bundler=("drpilot", "1", "0"),
)


def test_a_real_manifest_is_read() -> None:
    """The manifest of euca2ools 3.4.1 gives its facts, its signature is valid, and each key opens its own box."""
    found = read(MANIFEST.read_bytes(), "m")
    assert (found.name, found.user, found.size_bytes, found.bundled_bytes) == (
        "compress25.img",
        "123456789012",
        26214400,
        1160352,
    )
    assert found.parts == (Part("compress25.img.part.00", "e04eb214d50537b4e4851fc1e472fca38dd3dc6e"),)
    assert found.bundler == ("euca2ools", "3.4.1", "0")
    assert seal.signs(found.signature, found.signed, owner().public_key())
    assert not seal.signs(found.signature, found.signed, cloud().public_key())
    secrets = seal.opened(found.owner, owner())
    assert secrets is not None
    assert secrets == seal.opened(found.cloud, cloud())
    assert seal.opened(found.owner, cloud()) is None
    assert secrets.key.hex() not in repr(secrets)


def test_amazons_order_is_read(tmp_path: Path) -> None:
    """Product codes behind the kernel, ancestry, single digits and the raw bytes openssl signed are all understood."""
    image = tmp_path / "amazon.img"
    image.write_bytes(bytes(range(256)) * 200)
    found = read(like_amazon(image, tmp_path / "bundle").read_bytes(), "m")
    assert found.machine == Machine(
        "i386", (("ami", "sda1"), ("root", "/dev/sda1")), ("774F4FF8",), "aki-88aa75e1", "ari-7cb95a15"
    )
    assert found.ancestry == ("ami-2bb65342",)
    assert found.parts[0].name == "amazon.img.part.0"
    assert seal.signs(found.signature, found.signed, owner().public_key())


def test_what_is_written_is_read_back() -> None:
    """Every field survives, with names that need escaping; without a signer it is UNSIGNED."""
    data = write(FULL, None)
    assert replace(read(data, "m"), signature="", signed=b"") == FULL
    assert read(data, "m").signature == UNSIGNED
    assert not read(data, "m").is_signed


def test_the_form_that_every_verifier_takes(tmp_path: Path) -> None:
    """Single quotes, no blanks between elements, and openssl verifies the signature over the raw bytes."""
    data = write(FULL, seal.signer(owner()))
    assert b'"' not in data.split(b"?>", 1)[1]
    assert re.search(rb">\s+<", data.split(b"?>\n", 1)[1]) is None
    start, end = data.index(b"<machine_configuration>"), data.index(b"</image>") + len(b"</image>")
    (tmp_path / "signed").write_bytes(data[start:end])
    signature = re.search(rb"<signature>([0-9a-f]+)</signature>", data)
    assert signature is not None
    (tmp_path / "signature").write_bytes(bytes.fromhex(signature[1].decode()))
    pem, _ = key_files(tmp_path)
    command = [
        "openssl",
        "dgst",
        "-sha1",
        "-prverify",
        pem,
        "-signature",
        tmp_path / "signature",
        tmp_path / "signed",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Verified OK", done.stderr


def test_order_of_elements() -> None:
    """The elements stand in the order euca2ools has them."""
    tags = re.findall(rb"<([a-z_0-9]+)[ >]", write(FULL, None))
    wanted = [
        *(b"architecture", b"block_device_mapping", b"product_codes", b"kernel_id", b"ramdisk_id"),
        *(b"name", b"user", b"type", b"digest", b"size", b"bundled_size", b"ec2_encrypted_key"),
        *(b"user_encrypted_key", b"ec2_encrypted_iv", b"user_encrypted_iv", b"parts"),
    ]
    tags = tags[tags.index(b"machine_configuration") :]
    places = [tags.index(tag) for tag in wanted]
    assert places == sorted(places)


def test_a_kernel_of_1024_bits() -> None:
    """Old keys of 1024 bits seal, open and sign; a kernel's bundle is marked by the magic id."""
    old = stranger(1024)
    secrets = seal.Secrets(bytes(range(16)), bytes(16))
    box = seal.sealed(secrets, old.public_key())
    assert len(box.key) == 256
    assert seal.opened(box, old) == secrets
    kernel = replace(
        FULL, kind="kernel", kernel_name="vmlinuz-3", machine=Machine(kernel_id="true"), owner=box
    )
    found = read(write(kernel, seal.signer(old)), "m")
    assert (found.kind, found.kernel_name, found.machine.kernel_id) == ("kernel", "vmlinuz-3", "true")
    assert seal.signs(found.signature, found.signed, old.public_key())


def test_a_wrong_key_never_opens() -> None:
    """Decryption by a wrong key of the same length gives random bytes; none of a hundred tries counts as a key."""
    secrets = seal.Secrets(bytes(range(16)), bytes(16))
    for _ in range(100):
        assert seal.opened(seal.sealed(secrets, owner().public_key()), stranger()) is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("2007-10-10", "2006-10-10", "version"),
        ("<size>26214400<", "<size>-1<", "size"),
        ("<size>26214400<", "<size>99999999999999999<", "size"),
        ("<type>machine<", "<type>door<", "type"),
        ('count="1"', 'count="2"', "parts"),
        ('index="0"', 'index="1"', "numbered"),
        ('<digest algorithm="SHA1">dd', '<digest algorithm="MD5">dd', "SHA1"),
        ("<user_encrypted_iv>82", "<user_encrypted_iv>zz", "hex"),
        ("AES-128-CBC", "ROT-13", "ROT-13"),
        ("<user>123456789012</user>", "", "<user>"),
        ("<user>", "<user>1</user><user>", "more than one"),
        ("</manifest>", "", "element"),
        ("<manifest>", "<!DOCTYPE manifest [<!ENTITY a 'aaaa'>]><manifest>", "document type"),
    ],
)
def test_nonsense_is_refused(old: str, new: str, says: str) -> None:
    """A manifest with one thing wrong is refused with one error that names it."""
    text = MANIFEST.read_text()
    assert old in text
    with pytest.raises(DrpilotError) as refused:
        read(text.replace(old, new, 1).encode(), "m.xml")
    assert refused.value.word == "manifest-malformed"
    assert says in refused.value.title
    assert "m.xml" in refused.value.title


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".bashrc", "", "a\\b", "a&#10;b", "x" * 201]
)
@pytest.mark.parametrize("tag", ["filename", "name"])
def test_a_path_in_a_name_is_refused(tag: str, name: str) -> None:
    """A part or an image whose name is a path, hidden, empty or too long is refused before anything is read."""
    head, rest = MANIFEST.read_text().split("<image>")
    text = f"{head}<image>" + re.sub(
        f"<{tag}>[^<]*</{tag}>", f"<{tag}>{name}</{tag}>".replace("\\", r"\\"), rest, count=1
    )
    with pytest.raises(DrpilotError) as refused:
        read(text.encode(), "m.xml")
    assert refused.value.word == "unsafe-name"


def test_a_comment_can_not_lend_its_signature() -> None:
    """A signed original hidden in a comment does not vouch for the changed elements that are read."""
    text = MANIFEST.read_text()
    start, end = text.index("<machine_configuration>"), text.index("</image>") + len("</image>")
    other = text[start:end].replace("123456789012", "999999999999")
    forged = f"{text[:start]}<!-- {text[start:end]} -->{other}{text[end:]}"
    found = read(forged.encode(), "m")
    assert found.user == "999999999999"
    assert not seal.signs(found.signature, found.signed, owner().public_key())


def test_a_trailing_empty_part_is_read() -> None:
    """euca2ools lists a part of no bytes where the last one is full."""
    empty = Part("web.part.2", "da39a3ee5e6b4b0d3255bfef95601890afd80709")
    assert read(write(replace(FULL, parts=(*FULL.parts, empty)), None), "m").parts[-1] == empty


def test_keys_that_can_not_be_used() -> None:
    """What is no RSA key, has a passphrase, or is a certificate of another kind gets one error that names the file."""
    for load, data in (
        (seal.private_key, b"hello"),
        (seal.private_key, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        (seal.certificate, b"hello"),
        (seal.certificate, MANIFEST.read_bytes()),
    ):
        with pytest.raises(DrpilotError) as refused:
            load(data, "file.pem")
        assert refused.value.word == "key-unreadable"
        assert "file.pem" in refused.value.title
    secret = subprocess.run(
        ["openssl", "genrsa", "-aes128", "-passout", "pass:secret", "2048"], capture_output=True, check=True
    ).stdout
    with pytest.raises(DrpilotError) as refused:
        seal.private_key(secret, "file.pem")
    assert "passphrase" in refused.value.why
