"""docs/howto/hybrid-configuration.md against the program: every block on it is read by what would read it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from drpilot.cli.app import app
from drpilot.clouds.session import Clients
from drpilot.inventory.configuration import SiteSettings, parse
from drpilot.inventory.euca2ools import resolve
from drpilot.wiring import cloud_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "howto" / "hybrid-configuration.md").read_text(
    encoding="utf-8"
)
SERVICES = ("autoscaling", "cloudwatch", "ec2", "elb", "iam", "s3", "sts")


def _blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def _sites(tmp_path: Path) -> list[SiteSettings]:
    return [parse(text, tmp_path).site("milan") for text in _blocks("yaml")]


def test_every_form_is_a_configuration(tmp_path: Path) -> None:
    """Each YAML block stands alone, and together they are the four forms."""
    sites = _sites(tmp_path)
    forms = [
        next(
            form
            for form in ("euca2ools", "credentials", "profile", "login")
            if getattr(site, form) is not None
        )
        for site in sites
    ]
    assert forms == ["euca2ools", "credentials", "profile", "login"]
    assert {(site.cloud, site.account) for site in sites} == {("eucalyptus-4.4", "000123456789")}


def test_the_forms_lead_to_the_same_endpoints(tmp_path: Path) -> None:
    """The ini block and the YAML blocks mean one cloud, service by service."""
    ini, profile = _blocks("ini")
    (tmp_path / "milan.ini").write_text(ini)
    (tmp_path / "config").write_text(profile)
    keys = tmp_path / "credentials"
    keys.write_text("[milan]\naws_access_key_id = AKI\naws_secret_access_key = s\n")
    environment = {
        "EUCA_CONFIG_PATH": str(tmp_path / "*.ini"),
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(keys),
    }
    found = resolve("ops@eu-cluster-1a", environment)
    assert (found.user, found.account, found.verify) == ("ops", "000123456789", True)
    endpoints = []
    for site in _sites(tmp_path):
        clients = Clients(cloud_settings(site, environment), environment=environment)
        if site.profile is not None:
            endpoints.append({service: clients.endpoint(service).rstrip("/") for service in SERVICES})
        else:
            endpoints.append({service: str(clients.url(service)) for service in SERVICES})
    assert endpoints[0]["sts"] == "https://clc.example.org:8773/services/Tokens"
    assert all(one == endpoints[0] for one in endpoints)


@pytest.mark.parametrize(
    "line",
    [
        line
        for block in _blocks("sh")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("drpilot ")
    ],
)
def test_every_command_is_one(line: str) -> None:
    """The commands of the page are understood: each option exists."""
    words = shlex.split(line, comments=True)[1:]
    branch = get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    command = branch.commands[words[1]]
    given = command.make_context(words[1], words[2:], resilient_parsing=False)
    assert given.params["name"] == "milan"
