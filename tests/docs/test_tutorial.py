"""Every page of docs/tutorial is typed, command by command, in a fresh lab: what it shows is what happens."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from drpilot import wiring
from tests.docs.policy import allowed, permission
from tests.docs.walk import Lab, followed, plain, typed

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorial").glob("*.md"))
AGAIN = "look at the difference; if it is meant:  python -m tests.docs.regenerate"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab that was never up, taken down at the end whatever the page left running."""
    fresh = Lab(tmp_path / "lab")
    try:
        yield fresh
    finally:
        fresh.type("drpilot lab down")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_what_happens(page: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command's output and exit code are the page's, and every call is one the published policies allow."""
    called: set[tuple[str, str]] = set()

    def seen(site: str, service: str, operation: str, phase: str) -> None:
        del phase
        called.add(("drpilot-third" if site == "edge" else "drpilot-site", permission(service, operation)))

    monkeypatch.setattr(wiring, "open_house", partial(wiring.open_house, observer=seen))
    commands = list(typed(page.read_text(encoding="utf-8")))
    assert commands, f"{page.name} shows no command"
    for each in commands:
        shown = list(each.output)
        happened = followed(lab.type(each.command), elide=each.elides)
        if plain(happened) != plain(shown):
            difference = "\n".join(
                difflib.unified_diff(shown, list(happened), "page", "now", lineterm="", n=1)
            )
            pytest.fail(f"{page.name}:{each.line}: $ {each.command}\n{difference}\n{AGAIN}", pytrace=False)
    denied = {(role, action) for role, action in called if action not in allowed([role])}
    assert called
    assert denied == set(), "the policies of docs/howto/real-sites.md lack what this page needs"
