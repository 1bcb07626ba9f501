"""The pages: generated ones agree with the code, hand-written ones with the tree, and links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.meta.source import PACKAGE, ROOT, pages, rooms

every_page = pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def headings(path: Path) -> set[str]:
    """The anchors of a page, as forges make them."""
    found = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            text = line.lstrip("#").strip().lower().replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


def test_generated_pages_agree_with_the_code() -> None:
    """`make docs-check` finds nothing to write again."""
    done = subprocess.run(
        [sys.executable, "tools/gen_docs.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_stale_page_is_found(tmp_path: Path) -> None:
    """The comparison can fail: a page changed by hand is named, with the command to run."""
    for folder in ("tools", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "docs").unlink()
    for path in (ROOT / "docs").rglob("*"):
        copy = tmp_path / "docs" / path.relative_to(ROOT / "docs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            copy.write_bytes(path.read_bytes())
    stale = tmp_path / "docs" / "reference" / "exit-codes.md"
    stale.write_text(stale.read_text(encoding="utf-8").replace("refused", "declined", 1), encoding="utf-8")
    script = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT / 'tools')!r}); import gen_docs; "
        f"gen_docs.ROOT = pathlib.Path({str(tmp_path)!r}); sys.exit(gen_docs.main(['--check']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "docs/reference/exit-codes.md does not agree with the code" in done.stderr.splitlines()
    assert "make docs" in done.stdout


@every_page
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link names a file of the tree, and its anchor a heading of that page."""
    broken = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


@every_page
def test_pages_are_reachable(path: Path) -> None:
    """Every page under docs/ is linked from another page."""
    if ROOT / "docs" not in path.parents or path.name == "index.md":
        return
    linked = {
        (other.parent / link.partition("#")[0]).resolve()
        for other in pages()
        if other != path
        for link in LINK.findall(other.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", link)
    }
    assert path in linked


def drawn() -> list[list[str]]:
    """The floors of the house as ARCHITECTURE.md draws them, top first."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    picture = text[text.index("```house") :].split("```")[1].splitlines()[1:]
    return [re.split(r"\s*·\s*", line.split("  ")[0].strip()) for line in picture if line.strip()]


def test_the_house_is_drawn_as_it_is() -> None:
    """The rooms in ARCHITECTURE.md's picture are exactly the rooms of the tree."""
    assert sorted(room for floor in drawn() for room in floor) == list(rooms())


def test_the_house_is_drawn_as_it_is_checked() -> None:
    """Floors and their order in ARCHITECTURE.md are those of the layers contract."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "house")
    floors = [[room.strip(" ()") for room in layer.split("|")] for layer in contract["layers"]]
    present = [[room for room in floor if room in rooms()] for floor in floors]
    assert drawn() == [floor for floor in present if floor]


def test_every_room_is_explained() -> None:
    """Each room has a row in ARCHITECTURE.md's table, and no row names a room that is gone."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(explained) == list(rooms())


def test_readme_commands_exist() -> None:
    """Every `make` target and every top-level `drpilot` command of the README exists."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z-]+)", blocks)) <= targets
    reference = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^## `drpilot ([a-z-]+)", reference, flags=re.MULTILINE))
    assert (
        set(
            re.findall(
                r"\bdrpilot ([a-z]+)(?= )", "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
            )
        )
        <= known
    )


def test_every_dependency_is_explained() -> None:
    """docs/dependencies.md has a row for each direct dependency, and none for others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *(item for extra in project["project"].get("optional-dependencies", {}).values() for item in extra),
        *project["dependency-groups"]["dev"],
    ]
    names = {re.split(r"[\[<>=~! ]", item)[0].lower() for item in wanted}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| ([\w.-]+) \|", text, flags=re.MULTILINE)) - {"package"} == names


def test_the_package_is_self_contained() -> None:
    """No page or source points at a path of one machine."""
    absolute = re.compile(r"(?<![\w.:/])/(home|root|Users|work|mnt)/\w+")
    files = [
        *pages(),
        *PACKAGE.rglob("*.py"),
        *(ROOT / "tools").rglob("*.py"),
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
    ]
    assert [str(f.relative_to(ROOT)) for f in files if absolute.search(f.read_text(encoding="utf-8"))] == []
