"""The project's tools: pins, make targets, the matrix and its marks, the wheel."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.meta.source import ROOT

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)$")


def normal(name: str) -> str:
    """A package name as registries compare it (packaging specification, name normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [PIN.match(line) for line in lines if line and not line.startswith("#")]
    assert all(found), "constraints.txt holds exact pins only"
    return {normal(match[1]): match[2] for match in found if match}


def test_every_direct_dependency_is_pinned() -> None:
    """constraints.txt pins each package that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {normal(re.split(r"[\[<>=~! ]", item)[0]) for item in wanted}
    assert names - set(pins()) == set()


def test_constraints_name_no_place() -> None:
    """Pins are names and versions: no registry, no path, no option."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"^-", text, flags=re.MULTILINE)


def test_make_prints_its_targets() -> None:
    """`make` alone lists every target that is meant for people."""
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "check", "bench", "rows", "crash", "docs", "lint", "types", "layers"):
        assert re.search(rf"^  {target}\s+\S", done.stdout, flags=re.MULTILINE), target


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    """With a Python that is too old, make says so and what to do, before anything is made."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.2" && exit 0\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.9.2; drpilot needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_matrix_is_whole() -> None:
    """docs/matrix.csv has the rows 1 to 109, each with a feature of its own and a known aim."""
    with (ROOT / "docs" / "matrix.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(range(1, 110))
    assert len({row["feature"] for row in rows}) == len(rows)
    assert {row["aim"] for row in rows} == {"M", "S", "L", "★"}


def test_rows_reads_the_marks(tmp_path: Path) -> None:
    """tools/rows.py finds marks on tests, classes and modules, and reports what no mark names as open."""
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(
        "import pytest\n\npytestmark = [pytest.mark.row(3)]\n\n"
        "@pytest.mark.row(1, 2)\nclass TestIt:\n    @pytest.mark.row(60)\n    def test_one(self): ...\n\n"
        "def test_two(): ...\n",
        encoding="utf-8",
    )
    script = (
        f"import sys, pathlib; sys.path.insert(0, {str(ROOT / 'tools')!r}); import rows; "
        f"found = rows.proofs(pathlib.Path({str(folder)!r})); print(sorted(found)); print(found[60], found[3]); "
        f"print(rows.table(rows.matrix(), found).splitlines()[-1])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    numbers, tests, total = done.stdout.splitlines()
    assert numbers == "[1, 2, 3, 60]"
    assert (
        tests
        == "['tests/test_it.py::TestIt::test_one'] ['tests/test_it.py::TestIt::test_one', 'tests/test_it.py::test_two']"
    )
    assert total.startswith("proven: 4 of 109 rows (M 4 of 80")


def test_every_mark_names_a_row() -> None:
    """`make rows` runs, and no test claims a row that does not exist."""
    done = subprocess.run(
        [sys.executable, "tools/rows.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^proven: \d+ of 109 rows", done.stdout, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the wheel that hatchling builds from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
                   cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_runbooks_and_migrations(wheel: set[str]) -> None:
    """What drpilot needs at run time is inside the wheel: runbooks, migrations, templates, the licence."""
    for folder, inside in (("runbooks", "drpilot/_runbooks"), ("migrations", "drpilot/_migrations")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
                assert f"{inside}/{path.relative_to(ROOT / folder)}" in wheel
    assert any(name.startswith("drpilot/_runbooks/") and name.endswith(".yaml") for name in wheel)
    assert any(name.endswith(".j2") for name in wheel)
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_the_wheel_carries_nothing_else(wheel: set[str]) -> None:
    """No tests, caches or journals slip into the wheel."""
    assert [n for n in wheel if n.startswith("tests") or "cache" in n or n.endswith((".db", ".pyc"))] == []
