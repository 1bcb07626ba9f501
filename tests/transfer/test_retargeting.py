"""Retargeting: a bundle for another cloud by a new manifest alone, its parts the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.formats import seal
from drpilot.formats.manifest import Machine, read
from drpilot.transfer.places import Folder, NewFolderBundle
from drpilot.transfer.retargeting import Target, copy_parts, retargeted
from drpilot.transfer.unbundling import extract, secrets_of
from tests.transfer.craft import MANIFEST, REFERENCE, by_standard_tools, cloud, key_files, owner, stranger

REAL = read(MANIFEST.read_bytes(), "m")


def secrets() -> seal.Secrets:
    """The AES key of the real bundle."""
    return secrets_of(REAL, owner(), "key")[0]


def test_a_real_bundle_for_another_cloud(tmp_path: Path) -> None:
    """The other cloud opens it, the first no longer does; account and signature are new, parts and digests the same."""
    target = Target(stranger().public_key(), owner(), user="222222222222")
    written = retargeted(REAL, secrets(), target)
    sink = NewFolderBundle(tmp_path / "other")
    copy_parts(REAL, Folder(REFERENCE, REAL.name), sink)
    sink.manifest("new.manifest.xml", written)
    found = read(written, "m")
    assert secrets_of(found, stranger(), "cloud") == (secrets(), "cloud")
    assert secrets_of(found, owner(), "owner") == (secrets(), "owner")
    assert seal.opened(found.cloud, cloud()) is None
    assert (found.user, found.parts, found.tar_sha1) == ("222222222222", REAL.parts, REAL.tar_sha1)
    assert seal.signs(found.signature, found.signed, owner().public_key())
    name = REAL.parts[0].name
    assert (tmp_path / "other" / name).read_bytes() == (REFERENCE / name).read_bytes()
    pem, _ = key_files(tmp_path)
    image = by_standard_tools(tmp_path / "other" / "new.manifest.xml", pem, tmp_path)
    extract(REAL, secrets(), Folder(REFERENCE, REAL.name), tmp_path / "image")
    assert image == (tmp_path / "image").read_bytes()


def test_a_new_owner() -> None:
    """With another owner's certificate only the new owner opens it, and who signs may be another still."""
    target = Target(cloud().public_key(), signer=None, owner=stranger().public_key())
    found = read(retargeted(REAL, secrets(), target), "m")
    assert secrets_of(found, stranger(), "new")[1] == "owner"
    with pytest.raises(DrpilotError):
        secrets_of(found, owner(), "old")
    assert not found.is_signed


def test_a_kernel_needs_a_successor() -> None:
    """An image that asks for a kernel of its cloud is refused until one of the other cloud, or none, is named."""
    old = replace(REAL, machine=Machine(kernel_id="aki-1", ramdisk_id="ari-1"))
    with pytest.raises(DrpilotError) as refused:
        retargeted(old, secrets(), Target(cloud().public_key()))
    assert (refused.value.word, refused.value.exit_code) == ("usage", 2)
    assert "aki-1" in refused.value.title
    target = Target(cloud().public_key(), kernel_id="eki-2", ramdisk_id="")
    found = read(retargeted(old, secrets(), target), "m")
    assert found.machine == Machine(kernel_id="eki-2")


def test_a_kernel_image_stays_one() -> None:
    """The magic id that marks a bundle as a kernel is not taken for the id of one."""
    kernel = replace(REAL, kind="kernel", machine=Machine(kernel_id="true"))
    assert read(retargeted(kernel, secrets(), Target(cloud().public_key())), "m").machine.kernel_id == "true"


def test_damaged_parts_are_not_copied(tmp_path: Path) -> None:
    """A part that is not what the manifest says stops the copy before it is written."""
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / REAL.parts[0].name).write_bytes(b"something else")
    with pytest.raises(DrpilotError) as refused:
        copy_parts(REAL, Folder(tmp_path / "from", REAL.name), NewFolderBundle(tmp_path / "to"))
    assert refused.value.word == "part-damaged"
    assert list((tmp_path / "to").iterdir()) == []
