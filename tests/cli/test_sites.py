"""Adding a site in each of the ways a cloud is known, against loopback clouds that refuse what they don't know."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drpilot import wiring
from drpilot.base.clock import RealClock
from drpilot.cli.app import app
from drpilot.domain.ports import CloudError
from drpilot.inventory import configuration
from tests.clouds.strict import ACCOUNT, Strict
from tests.grounds import Answering, Heard, answering, key_file, response

PASSWORD = "correct-horse"
Add = Callable[..., Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of its own, with no variable of any cloud tool but those that lead astray."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "EC2_", "EUCA", "S3_", "DRPILOT_")):
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("DRPILOT_HOME", str(folder))
    monkeypatch.setenv("EC2_URL", "https://poison.invalid")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIPOISON")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "poison")
    monkeypatch.setenv("EUCA_CONFIG_PATH", str(tmp_path / "euca" / "*.ini"))
    return folder


def _drpilot(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def _cloud(kind: str) -> tuple[Strict, Callable[[Heard, int], bytes]]:
    strict = Strict(kind)

    def script(heard: Heard, number: int) -> bytes:
        if "Basic" in heard.headers.get("authorization", ""):
            return response(
                "<R><Credentials><AccessKeyId>ASIALOGIN</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
                "<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></R>"
            )
        now = format_datetime(RealClock().now(), usegmt=True).encode()
        return strict(heard, number).replace(b"Thu, 01 Jan 2026 00:00:40 GMT", now)

    return strict, script


@contextlib.contextmanager
def _standing(kind: str) -> Iterator[tuple[Answering, Strict]]:
    strict, script = _cloud(kind)
    with answering(script) as server:
        yield server, strict


def _ini(folder: Path, url: str, more: str = "") -> None:
    path = folder / "euca" / "milan.ini"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"[user ops]\nkey-id = AKIINI\nsecret-key = s\n[region eu-cluster-1a]\nec2-url = {url}/services/compute\n{more}"
    )


@pytest.mark.parametrize("kind", ["eucalyptus-3.4", "eucalyptus-4.4", "eucalyptus-5"])
def test_a_site_of_euca2ools_is_added_by_user_and_region(kind: str, home: Path, tmp_path: Path) -> None:
    """The version is asked of the cloud, the account pinned, and the line says how the site is known: nothing else."""
    with _standing(kind) as (server, strict):
        _ini(tmp_path, server.url)
        ended = _drpilot("site", "add", "milan", "--euca2ools", "ops@eu-cluster-1a")
    assert ended.exit_code == 0, ended.stderr
    assert (home / "drpilot.yaml").read_text() == (
        f'drpilot: 1\nsites:\n  milan: {{cloud: {kind}, euca2ools: "ops@eu-cluster-1a", region: eu-cluster-1a, '
        f'account: "{ACCOUNT}"}}\n'
    )
    assert all("AKIINI" in heard.headers.get("authorization", "AKIINI") for heard in strict.heard)
    assert not any("DryRun" in given for _, given in strict.calls)
    out = " ".join(ended.stdout.split())
    assert "can instances, images, volumes, snapshots, tags" in out
    assert "can't" in out and "CopySnapshot, EBS direct, one-instant snapshots of several volumes" in out
    assert "any certificate is trusted" in out
    assert "site check milan" in out


def test_the_ini_file_is_read_again_each_time(home: Path, tmp_path: Path) -> None:
    """A key that was changed in the file is used from the next opening on; nothing of it was copied."""
    with _standing("eucalyptus-4.4") as (server, strict):
        _ini(tmp_path, server.url)
        assert _drpilot("site", "add", "milan", "--euca2ools", "ops@eu-cluster-1a").exit_code == 0
        _ini(tmp_path, server.url, "[user ops]\nkey-id = AKICHANGED\n")
        settings = configuration.read(home)
        wiring.Sites(settings, RealClock()).site("milan").call("ec2", "DescribeRegions", {})
        assert "AKICHANGED" in strict.heard[-1].headers["authorization"]
        (tmp_path / "euca" / "milan.ini").unlink()
        with pytest.raises(CloudError) as caught:
            wiring.Sites(settings, RealClock()).site("milan").call("ec2", "DescribeRegions", {})
    assert "no ini file" in caught.value.message
    assert "AKI" not in (home / "drpilot.yaml").read_text()


def test_a_site_by_endpoint_and_keys(home: Path, tmp_path: Path) -> None:
    """One endpoint of the front end, the kind of cloud, and where the keys are."""
    keys = key_file(tmp_path)
    with _standing("eucalyptus-4.4") as (server, _):
        words = ["site", "add", "milan", "--cloud", "eucalyptus-4.4", "--endpoint", f"default={server.url}"]
        ended = _drpilot(*words, "--credentials", f"file:{keys}", "--output", "json")
    assert ended.exit_code == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["account"], told["region"], told["cloud"]) == (ACCOUNT, "eucalyptus", "eucalyptus-4.4")
    assert "ec2:ImportVolume" in told["capabilities"]  # it lists conversion tasks
    assert not {"vpc", "elb", "dry-run"} & set(
        told["capabilities"]
    )  # classic; and this server knows EC2 alone
    assert f'endpoints: {{default: "{server.url}"}}' in (home / "drpilot.yaml").read_text()


def test_a_site_by_profile(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile of the AWS files may lead to a Eucalyptus too: its endpoint gets the paths."""
    with _standing("eucalyptus-5") as (server, strict):
        (tmp_path / "config").write_text(f"[profile euca]\nregion = x\nendpoint_url = {server.url}\n")
        (tmp_path / "credentials").write_text(
            "[euca]\naws_access_key_id = AKIPROFILE\naws_secret_access_key = s\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
        ended = _drpilot("site", "add", "milan", "--cloud", "eucalyptus-5", "--profile", "euca")
        paths = {heard.path.split("?")[0].rstrip("/") for heard in strict.heard}
    assert ended.exit_code == 0, ended.stderr
    assert {"/services/Tokens", "/services/compute"} <= paths
    assert all("AKIPROFILE" in heard.headers["authorization"] for heard in strict.heard)


def test_a_site_by_password_from_a_file(home: Path, tmp_path: Path) -> None:
    """The password has its place; what is kept beside drpilot.yaml are temporary keys, mode 0600."""
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    with _standing("eucalyptus-4.4") as (server, strict):
        words = ["site", "add", "milan", "--cloud", "eucalyptus-4.4", "--endpoint", f"default={server.url}"]
        ended = _drpilot(*words, "--login", "ops@acme", "--password-from", f"file:{secret}")
        again = _drpilot("site", "login", "milan")
        checked = _drpilot("site", "check", "milan", "--output", "json")
    assert (ended.exit_code, again.exit_code) == (0, 0), ended.stderr + again.stderr
    kept = home / "logins" / "milan.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    written = (
        (home / "drpilot.yaml").read_text() + kept.read_text() + ended.stdout + again.stdout + ended.stderr
    )
    assert PASSWORD not in written
    assert f"login: {{account: acme, user: ops, password_from: {{file: {secret}}}}}" in written
    assert "until 2099-01-01T00:00:00Z" in again.stdout
    assert all("ASIALOGIN" in heard.headers["authorization"] for heard in strict.heard)
    assert not any("DryRun" in given for _, given in strict.calls)
    told = json.loads(checked.stdout)
    verdicts = {check["name"]: check["verdict"] for check in told["checks"]}
    assert verdicts["permissions"] == "ok"
    assert (checked.exit_code, told["bad"], told["unknown"]) == (0, 0, 0)


def test_a_password_typed_at_a_terminal_is_not_shown(home: Path, tmp_path: Path) -> None:
    """The question goes to the terminal, the answer is not echoed, and nothing of it is written down."""
    with _standing("eucalyptus-4.4") as (server, _):
        words = ["site", "add", "milan", "--cloud", "eucalyptus-4.4", "--endpoint", f"default={server.url}"]
        command = [sys.executable, "-m", "drpilot", *words, "--login", "ops@acme"]
        master, slave = pty.openpty()
        child = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        shown, typed = b"", False
        while select.select([master], [], [], 60)[0]:
            try:
                part = os.read(master, 4096)
            except OSError:  # the child's side is closed
                break
            if not part:
                break
            shown += part
            if not typed and b"password of ops@acme on milan: " in shown:
                os.write(master, f"{PASSWORD}\n".encode())
                typed = True
        code = child.wait(timeout=60)
        os.close(master)
    assert (code, typed) == (0, True), shown.decode()
    assert PASSWORD.encode() not in shown
    assert PASSWORD not in (home / "drpilot.yaml").read_text() + (home / "logins" / "milan.json").read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--cloud", "eucalyptus", "--profile", "p"], 2, "no such kind of cloud"),
        (["--cloud", "eucalyptus-5", "--credentials", "file:k"], 2, "needs --endpoint"),
        (["--euca2ools", "a@b", "--profile", "p"], 2, "exclude each other"),
        (["--credentials", "file:k"], 2, "needs --region"),
        (["--profile", "p"], 7, "profile (p) could not be found"),
        (["--region", "r", "--login", "ops@acme"], 2, "--login is for eucalyptus"),
        (
            ["--cloud", "eucalyptus-5", "--endpoint", "default=https://h", "--login", "ops"],
            2,
            "not USER@ACCOUNT",
        ),
        (
            ["--cloud", "eucalyptus-5", "--endpoint", "default=https://h", "--login", "o@a"],
            2,
            "nobody can be asked",
        ),
        (["--euca2ools", "ops@nowhere"], 7, "no ini file"),
    ],
)
def test_what_is_missing_is_said_and_nothing_written(
    words: list[str], code: int, said: str, home: Path
) -> None:
    """Wrong usage ends with 2, an ini file that leads nowhere with 7; no drpilot.yaml is left behind."""
    ended = _drpilot("site", "add", "milan", *words)
    assert ended.exit_code == code, ended.stderr
    assert said in " ".join(ended.stderr.split())
    assert not home.exists()


def test_a_check_warns_of_certificates_nobody_looks_at(home: Path, tmp_path: Path) -> None:
    """verify-ssl is off by default in euca2ools: the site works, and the check says what that means."""
    with _standing("eucalyptus-4.4") as (server, _):
        _ini(tmp_path, server.url)
        assert _drpilot("site", "add", "milan", "--euca2ools", "ops@eu-cluster-1a").exit_code == 0
        told = json.loads(_drpilot("site", "check", "milan", "--output", "json").stdout)
        _ini(tmp_path, server.url, "verify-ssl = true\n")
        checked = json.loads(_drpilot("site", "check", "milan", "--output", "json").stdout)
    assert [one["code"] for one in told["checks"] if one["name"] == "certificates"] == ["DRP-2115"]
    assert not [one for one in checked["checks"] if one["name"] == "certificates"]
