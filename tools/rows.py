"""Which test proves which row of the feature matrix, and the rows still open.

    python tools/rows.py             the table: rows with their tests, then the open ones
    python tools/rows.py --open      the open rows only

A test proves a row by `@pytest.mark.row(N)`, on the test, its class, or as `pytestmark` of the module. The marks are
read from the source, so that nothing has to be run or imported.
"""

from __future__ import annotations

import ast
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of docs/matrix.csv; `aim` is M, S, L or ★."""

    number: int
    aim: str
    feature: str
    area: str


def matrix(path: Path = ROOT / "docs" / "matrix.csv") -> tuple[Row, ...]:
    """The rows in their order."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(Row(int(r["row"]), r["aim"], r["feature"], r["area"]) for r in csv.DictReader(file))


def _marks(node: ast.expr) -> Iterator[int]:
    if isinstance(node, (ast.List, ast.Tuple)):
        for part in node.elts:
            yield from _marks(part)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.mark.row", "mark.row"):
        for argument in node.args:
            if not (isinstance(argument, ast.Constant) and isinstance(argument.value, int)):
                raise TypeError(f"line {node.lineno}: row() takes numbers")
            yield argument.value


def _tests(body: Sequence[ast.stmt], outer: tuple[int, ...], prefix: str) -> Iterator[tuple[str, int]]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        numbers = (*outer, *(number for mark in node.decorator_list for number in _marks(mark)))
        if isinstance(node, ast.ClassDef):
            yield from _tests(node.body, numbers, f"{prefix}{node.name}::")
        elif node.name.startswith("test_"):
            for number in dict.fromkeys(numbers):
                yield f"{prefix}{node.name}", number


def proofs(folder: Path = ROOT / "tests") -> dict[int, list[str]]:
    """Row number to the tests that carry its mark, as pytest names them."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        whole = tuple(
            number
            for node in tree.body
            if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["pytestmark"]
            for number in _marks(node.value)
        )
        for name, number in _tests(tree.body, whole, f"{path.relative_to(folder.parent)}::"):
            found.setdefault(number, []).append(name)
    return found


def table(rows: Sequence[Row], proven: dict[int, list[str]], *, open_only: bool = False) -> str:
    """The report as text: proven rows with their tests, then the open ones, then the count by aim."""
    lines = []
    if not open_only:
        lines.append("PROVEN")
        for row in rows:
            for index, test in enumerate(proven.get(row.number, ())):
                head = f"{row.number:>4} {row.aim}  {row.feature}" if index == 0 else ""
                lines += [head] * bool(head) + [f"         {test}"]
        lines.append("")
    lines.append("OPEN")
    lines += [f"{row.number:>4} {row.aim}  {row.feature}" for row in rows if row.number not in proven]
    total = Counter(row.aim for row in rows)
    done = Counter(row.aim for row in rows if row.number in proven)
    counts = ", ".join(f"{aim} {done[aim]} of {total[aim]}" for aim in ("M", "S", "L", "★"))
    lines += ["", f"proven: {sum(done.values())} of {len(rows)} rows ({counts})"]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the table; exit 1 where a test names a row that does not exist, 2 for wrong usage."""
    if list(arguments) not in ([], ["--open"]):
        print(__doc__, file=sys.stderr)
        return 2
    rows, proven = matrix(), proofs()
    print(table(rows, proven, open_only=bool(arguments)))
    unknown = sorted(set(proven) - {row.number for row in rows})
    for number in unknown:
        print(f"no row {number} in docs/matrix.csv: {', '.join(proven[number])}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
