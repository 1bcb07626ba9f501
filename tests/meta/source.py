"""The project's own source as data, for the tests of this room."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "drpilot"
FOLDERS = ("drpilot", "migrations", "tools", "tests")
TEXT = (".md", ".py", ".toml", ".yaml", ".txt", ".csv", ".mako", "")


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file: its path from the top of the tree, and its text."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree, parsed anew: all trees at once would take hundreds of megabytes."""
        return ast.parse(self.text, self.name)

    @property
    def lines(self) -> int:
        """How long it is."""
        return len(self.text.splitlines())


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """The Python files of some top-level folders, by name."""
    found = []
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append(Source(str(path.relative_to(ROOT)), text))
    return tuple(found)


@cache
def pages() -> tuple[Path, ...]:
    """The project's Markdown pages."""
    return (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))


def rooms() -> tuple[str, ...]:
    """The rooms of the house: packages and modules directly under drpilot/, without what every package has."""
    names = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    return tuple(sorted(name for name in names if not name.startswith("__")))
