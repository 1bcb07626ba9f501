"""The floors of the house, kept by import-linter's contracts in pyproject.toml."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta.source import ROOT, rooms, sources

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {LINT}"],
                          cwd=folder, capture_output=True, text=True, check=False)  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its contracts, to break."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(ROOT / "drpilot", folder / "drpilot", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_the_contracts_hold() -> None:
    """Every contract of pyproject.toml holds for the code as it is."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


BREACHES = {
    "domain": "drpilot.journal",
    "engine": "drpilot.actions",
    "journal": "drpilot.inventory",
    "clouds": "drpilot.runbook",
    "lab": "drpilot.clouds",
    "actions": "boto3",
    "services": "sqlmodel",
    "report": "transitions",
    "inventory": "tenacity",
    "runbook": "rich",
}


def test_a_breach_is_found(copy: Path) -> None:
    """The contracts can fail: each of ten imports in a wrong direction is named."""
    for room, name in BREACHES.items():
        text = f'"""A breach."""\n\nimport {name}\n'
        (copy / "drpilot" / room / "breach.py").write_text(text, encoding="utf-8")
    done = lint(copy)
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    unnoticed = [room for room, name in BREACHES.items() if f"drpilot.{room}.breach -> {name}" not in output]
    assert unnoticed == []


def test_every_room_has_a_floor() -> None:
    """No room of the package stands outside the layers contract."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = text[text.index("layers = [") :]
    layers = layers[: layers.index("\n]")]
    assert [room for room in rooms() if f"({room})" not in layers and f'"{room}"' not in layers] == []


def test_time_and_chance_come_from_base() -> None:
    """Only drpilot.base.clock imports time, random, secrets or uuid."""
    found = set()
    for source in sources("drpilot"):
        for node in ast.walk(source.tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {
                source.name for name in names if name.split(".")[0] in {"time", "random", "secrets", "uuid"}
            }
    assert found <= {"drpilot/base/clock.py"}
