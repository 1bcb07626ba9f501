"""The bundle commands as people run them: results, exit codes, one folder option with two meanings, no key anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from drpilot.base.clock import Chance
from drpilot.cli.app import app
from drpilot.lab.process import World
from tests.grounds import key_file
from tests.transfer.craft import MANIFEST, REFERENCE, changed, key_files

KEYS = REFERENCE / "keys"
OWNER, CLOUD = str(KEYS / "user-pk.der"), str(KEYS / "cloud-cert.pem")
CERT = str(KEYS / "user-cert.pem")


class Ran:
    """What a command came to."""

    def __init__(self, *arguments: object) -> None:
        done = CliRunner().invoke(app, ["bundle", *(str(one) for one in arguments)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        self.code, self.out, self.err = done.exit_code, done.stdout, done.stderr
        assert "Traceback" not in self.err

    @property
    def document(self) -> dict:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A small image."""
    path = tmp_path / "disk.img"
    path.write_bytes(Chance(4).bits(8 * 100_000).to_bytes(100_000) + bytes(3_000_000))
    return path


def made(disk: Path, folder: Path, *more: object) -> Ran:
    given = ("--account", "1234-5678-9012", "--cloud-cert", CLOUD, "--cert", CERT, "--private-key", OWNER)
    return Ran("create", disk, *given, "--output", folder, *more)


def test_the_real_bundle_is_extracted(tmp_path: Path) -> None:
    """`bundle extract MANIFEST --private-key KEY --output DIR` writes the image, and its SHA-256 is the one known."""
    ran = Ran("extract", MANIFEST, "--private-key", OWNER, "--output", tmp_path / "out")
    assert ran.code == 0, ran.err
    wanted = (REFERENCE / "image.sha256").read_text().split()[0]
    assert hashlib.sha256((tmp_path / "out" / "compress25.img").read_bytes()).hexdigest() == wanted
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["compress25.img"]
    assert ran.out.splitlines()[-1].startswith("next: drpilot bundle ")


def test_output_names_the_folder_and_the_form(tmp_path: Path) -> None:
    """--output given twice is the folder and the form; json alone has no folder; a folder called json is ./json."""
    ran = Ran("extract", MANIFEST, "--private-key", OWNER, "--output", tmp_path / "a", "--output", "json")
    assert ran.document["image"] == str(tmp_path / "a" / "compress25.img")
    assert ran.document["signature"] == "valid"
    ran = Ran("extract", MANIFEST, "--private-key", OWNER, "-o", "json")
    assert (ran.code, ran.document["error"]["code"]) == (2, "DRP-1001")
    ran = Ran("extract", MANIFEST, "--private-key", OWNER, "-o", "table", "-o", tmp_path / "json")
    assert ran.code == 0
    assert (tmp_path / "json" / "compress25.img").exists()
    ran = Ran("show", MANIFEST, "--output", "json")
    assert ran.document["image_bytes"] == 26214400


def test_there_and_back(disk: Path, tmp_path: Path) -> None:
    """Create, verify, show, extract: the image comes back, and every document names what was made."""
    created = made(
        disk, tmp_path / "bundle", "--output", "json", "--profile", "small", "--mapping", "root=/dev/sda1"
    )
    assert created.code == 0, created.err
    manifest = created.document["manifest"]
    assert created.document["mappings"] == [{"device": "/dev/sda1", "virtual": "root"}]
    verified = Ran("verify", manifest, "--private-key", OWNER, "--output", "json")
    assert (verified.code, verified.document["findings"]) == (0, [])
    assert (verified.document["signature"], verified.document["image"]) == ("valid", "whole")
    shown = Ran("show", manifest)
    assert "123456789012" in shown.out
    assert "its owner and its cloud" in shown.out
    assert Ran("extract", manifest, "--private-key", OWNER, "--output", tmp_path / "back").code == 0
    assert (tmp_path / "back" / "disk.img").read_bytes() == disk.read_bytes()


def test_no_key_is_shown(disk: Path, tmp_path: Path) -> None:
    """Neither output nor a file of a bundle carries the AES key or anything of a private key."""
    from drpilot.formats.manifest import read
    from drpilot.transfer.unbundling import secrets_of
    from tests.transfer.craft import owner

    said = made(disk, tmp_path / "bundle", "--output", "json").out
    path = tmp_path / "bundle" / "disk.img.manifest.xml"
    said += Ran("show", path, "--output", "json").out + Ran("show", path).out
    said += Ran("verify", path, "--private-key", OWNER).out
    said += path.read_text()
    secrets, _ = secrets_of(read(path.read_bytes(), "m"), owner(), "key")
    assert secrets.key.hex() not in said
    assert secrets.iv.hex() not in said


def test_an_existing_image_is_not_replaced(tmp_path: Path) -> None:
    """A file called like the image stays as it is; exit code 5."""
    (tmp_path / "compress25.img").write_text("mine")
    ran = Ran("extract", MANIFEST, "--private-key", OWNER, "--output", tmp_path)
    assert (ran.code, ran.out) == (5, "")
    assert "DRP-6610" in ran.err
    assert (tmp_path / "compress25.img").read_text() == "mine"


def test_refusals(disk: Path, tmp_path: Path) -> None:
    """Each way an extraction can be refused has its code, one error, and leaves no file."""
    assert made(disk, tmp_path / "bundle").code == 0
    sound = tmp_path / "bundle" / "disk.img.manifest.xml"
    part = "disk.img.part.00"
    _, stranger = key_files(tmp_path)
    (tmp_path / "not a key").write_text("hello")
    tampered = changed(sound, lambda text: text.replace("<user>123456789012", "<user>999999999999"))
    tampered = tampered.rename(tampered.with_name("tampered.xml"))
    path_in = changed(sound, lambda text: text.replace(f"<filename>{part}", "<filename>../../etc/passwd"))
    path_in = path_in.rename(path_in.with_name("path.xml"))
    cut = changed(sound, lambda text: text[:-30])
    cases = [
        ((tmp_path / "none.xml", OWNER), 9, "DRP-6506"),
        ((sound, tmp_path / "none.pem"), 9, "DRP-6506"),
        ((sound, tmp_path / "not a key"), 7, "DRP-6602"),
        ((sound, stranger), 7, "DRP-6603"),
        ((tampered, OWNER), 1, "DRP-6604"),
        ((path_in, OWNER), 5, "DRP-6609"),
        ((cut, OWNER), 1, "DRP-6601"),
        ((disk, OWNER), 1, "DRP-6601"),
        ((tmp_path, OWNER), 1, "DRP-6612"),
    ]
    for (manifest, key), code, word in cases:
        ran = Ran("extract", manifest, "--private-key", key, "--output", tmp_path / "out")
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert ran.err.startswith(f"error[{word}]: "), ran.err
        assert "hint:" in ran.err
    data = bytearray((tmp_path / "bundle" / part).read_bytes())
    data[50_000] ^= 1
    (tmp_path / "bundle" / part).write_bytes(data)
    ran = Ran("extract", sound, "--private-key", OWNER, "--output", tmp_path / "out")
    assert (ran.code, ran.err.split(":")[0]) == (1, "error[DRP-6606]")
    verified = Ran("verify", sound, "--output", "json")
    assert (verified.code, [one["word"] for one in verified.document["findings"]]) == (3, ["bundle-unsound"])
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--account", "12"], "12 digits"),
        (["--uplink", "fast"], "--uplink"),
        (["--mapping", "root"], "VIRTUAL=DEVICE"),
        (["--name", "windows-7"], "windows"),
    ],
)
def test_wrong_usage(disk: Path, tmp_path: Path, more: list[str], says: str) -> None:
    """What can't be meant is refused with 2 before anything is read."""
    ran = made(disk, tmp_path / "out", *more, *(["--to", "b", "--site", "s"] if "--uplink" in more else []))
    assert ran.code == 2
    assert says in ran.err
    assert not (tmp_path / "out").exists()


def test_another_cloud(tmp_path: Path) -> None:
    """Retarget writes the new manifest and the same parts; --manifest-only the manifest alone."""
    given = ("--private-key", OWNER, "--cloud-cert", CERT, "--account", "2222-2222-2222")
    ran = Ran("retarget", MANIFEST, *given, "--output", tmp_path / "new", "--output", "json")
    assert ran.code == 0, ran.err
    assert (ran.document["account"], ran.document["parts_copied"]) == ("222222222222", 1)
    part = "compress25.img.part.00"
    assert (tmp_path / "new" / part).read_bytes() == (REFERENCE / part).read_bytes()
    ran = Ran("retarget", MANIFEST, *given, "--output", tmp_path / "alone", "--manifest-only")
    assert [path.name for path in (tmp_path / "alone").iterdir()] == [MANIFEST.name]
    alone = tmp_path / "alone" / MANIFEST.name
    checked = Ran("verify", alone, "--parts", REFERENCE, "--private-key", OWNER, "-o", "json")
    assert (checked.code, checked.document["image"]) == (0, "whole")


# -- buckets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A drpilot.yaml whose site `home` is a simulated cloud."""
    folder = tmp_path_factory.mktemp("bundles")
    world = World(folder / "lab")
    access = world.up(("home",))["home"]
    keys = key_file(
        folder, f"aws_access_key_id = {access.access_key}\naws_secret_access_key = {access.secret_key}\n"
    )
    site = {
        "cloud": "aws",
        "region": access.region,
        "account": access.account,
        "endpoints": {"default": access.endpoint},
        "credentials": {"file": str(keys)},
    }
    (folder / "drpilot.yaml").write_text(yaml.safe_dump({"drpilot": 1, "sites": {"home": site}}))
    yield folder
    world.down()


def test_a_bucket_and_back(
    disk: Path, tmp_path: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upload, again, another under the same name, download, delete: each says what it did."""
    monkeypatch.setenv("DRPILOT_HOME", str(lab_home))
    assert made(disk, tmp_path / "bundle").code == 0
    manifest = tmp_path / "bundle" / "disk.img.manifest.xml"
    missing = Ran("upload", manifest, "images/dr", "--site", "home")
    assert (missing.code, missing.err.split(":")[0]) == (9, "error[DRP-6613]")
    up = Ran("upload", manifest, "images/dr", "--site", "home", "--create-bucket", "-o", "json")
    assert (up.code, up.document["already_uploaded"]) == (0, False), up.err
    location = up.document["location"]
    assert location == "images/dr/disk.img.manifest.xml"
    assert (
        Ran("upload", manifest, "images/dr", "--site", "home", "-o", "json").document["already_uploaded"]
        is True
    )
    assert made(disk, tmp_path / "other").code == 0
    other = Ran("upload", tmp_path / "other" / manifest.name, "images/dr", "--site", "home")
    assert (other.code, other.err.split(":")[0]) == (5, "error[DRP-6615]")
    down = Ran("download", location, "--site", "home", "--output", tmp_path / "down")
    assert down.code == 0, down.err
    for path in (tmp_path / "bundle").iterdir():
        assert (tmp_path / "down" / path.name).read_bytes() == path.read_bytes()
    unsure = Ran("delete", location, "--site", "home", "--no-input")
    assert (unsure.code, unsure.err.split(":")[0]) == (5, "error[DRP-4002]")
    assert Ran("delete", location, "--site", "home", "--confirm", "disk.img").code == 0
    gone = Ran("download", location, "--site", "home", "--output", tmp_path / "again")
    assert (gone.code, gone.err.split(":")[0]) == (9, "error[DRP-6614]")


def test_create_into_a_bucket(
    disk: Path, tmp_path: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image goes into a bucket without a file on the way, and comes back from it."""
    monkeypatch.setenv("DRPILOT_HOME", str(lab_home))
    keys = ("--cloud-cert", CLOUD, "--cert", CERT, "--private-key", OWNER)
    where = ("--site", "home", "--to", "straight", "--create-bucket")
    ran = Ran("create", disk, "--account", "123456789012", *keys, *where, "--output", "json")
    assert ran.code == 0, ran.err
    location = ran.document["location"]
    assert Ran("download", location, "--site", "home", "--output", tmp_path / "down").code == 0
    manifest = tmp_path / "down" / "disk.img.manifest.xml"
    assert Ran("extract", manifest, "--private-key", OWNER, "--output", tmp_path).code == 5
    assert Ran("extract", manifest, "--private-key", OWNER, "--output", tmp_path / "back").code == 0
    assert (tmp_path / "back" / "disk.img").read_bytes() == disk.read_bytes()
    assert Ran("create", disk, "--account", "123456789012", *keys, *where).code == 5


def test_an_unknown_site(lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that drpilot.yaml does not name is refused as everywhere."""
    monkeypatch.setenv("DRPILOT_HOME", str(lab_home))
    ran = Ran("upload", MANIFEST, "images", "--site", "nowhere")
    assert (ran.code, ran.err.split(":")[0]) == (6, "error[DRP-2007]")
    assert Ran("upload", MANIFEST, "images").code == 2
