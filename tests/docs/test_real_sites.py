"""docs/howto/real-sites.md against the program: the policies it prints and the unit it installs."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest

from drpilot import serve
from drpilot.actions.catalogue import CATALOGUE, permissions
from drpilot.journal.postgres import PATIENCE
from tests.docs.policy import PAGE, allowed, permission, policies, with_policies

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "packaging" / "systemd" / "drpilot.service"
_CALL = re.compile(r"""\.(?:call|pages|rows|sorted)\(\s*"([a-z0-9-]+)",\s*"([A-Z]\w+)",""")


def test_the_policies_are_those_of_today() -> None:
    """The page prints exactly what the catalogue asks for; `python -m tests.docs.regenerate` writes it."""
    text = PAGE.read_text(encoding="utf-8")
    assert with_policies(text) == text


def test_no_action_lacks_a_permission() -> None:
    """Whatever an action names is allowed by one of the two policies."""
    assert set(permissions(CATALOGUE)) <= allowed(policies())


@pytest.mark.parametrize("folder", ["inventory", "services", "clouds", "actions"])
def test_no_call_lacks_a_permission(folder: str) -> None:
    """Every operation that the sources of a room name in a call is allowed, looks outside actions included."""
    found = {
        permission(*call)
        for path in (ROOT / "drpilot" / folder).rglob("*.py")
        for call in _CALL.findall(path.read_text(encoding="utf-8"))
    }
    assert found
    assert found <= allowed(policies())


def test_the_unit_fits_the_service() -> None:
    """The manager hears of readiness, and is more patient than the service's own drain and heartbeat."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["TimeoutStopSec"]) > serve.DRAIN_S
    assert (
        int(service["WatchdogSec"]) > PATIENCE.budget_s + 15 + serve.HEARTBEAT_S
    )  # a server, a lock, a beat
    assert service["ExecStart"].endswith("/bin/drpilot serve --no-input")
    assert "ProtectProc" not in service  # drpilot/journal/holder.py reads /proc/PID/stat of other drivers
