"""The runbook and the program of docs/howto/write-a-runbook.md, taken from the page and tried."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "write-a-runbook.md").read_text(encoding="utf-8")


def _block(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(block)


def _checked(runbook: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the page's own program prints about a runbook."""
    (folder / "mine.yaml").write_text(runbook, encoding="utf-8")
    monkeypatch.chdir(folder)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(_block("python"), "write-a-runbook.md", "exec"), {})
    return said.getvalue().splitlines()


def test_the_example_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real catalogue, without a finding: two looks side by side, the fence before any tier, two phases."""
    lines = _checked(_block("yaml"), tmp_path, monkeypatch)
    assert not [line for line in lines if "mine.yaml" in line]
    after = dict(re.findall(r"^(\S+) .* after (.+)$", "\n".join(lines), flags=re.MULTILINE))
    assert after["target_ready"] == after["source_seen"] == "nothing"
    assert after["go"] == "target_ready, source_seen"
    assert after["fence"] == "claim"
    assert after["data/db/volumes"] == "fence_ok"
    assert after["front/app/volumes"] == after["front/web/volumes"]
    order = [line.split()[0] for line in lines]
    assert order.index("fence") < order.index("data/db/grow") < order.index("front/web/grow")
    assert order[-1] == "invalidate"


def test_a_mistake_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's promise of line and column holds, and a runbook with a mistake gives no plan."""
    wrong = _block("yaml").replace("action: epoch.claim", "action: epoch.clame")
    line = next(n for n, text in enumerate(wrong.splitlines(), 1) if "epoch.clame" in text)
    lines = _checked(wrong, tmp_path, monkeypatch)
    assert [
        found
        for found in lines
        if re.match(rf"mine\.yaml:{line}:\d+ error unknown action 'epoch.clame'", found)
    ]
    assert not any(found.startswith("go ") for found in lines)


def test_every_key_that_is_told_exists() -> None:
    """What the page says of gates, purposes and policies is the language's."""
    from typing import get_args

    from drpilot.domain.plan import Gate, OnFailure
    from drpilot.runbook.language import PURPOSES

    told = PAGE[PAGE.index("## The language") : PAGE.index("## An example")]
    for word in (*PURPOSES, *get_args(Gate), *get_args(OnFailure)):
        assert f"`{word}`" in told, word
