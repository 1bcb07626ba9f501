"""Writes the generated pages of docs/ from the code, or compares them with it.

    python tools/gen_docs.py            write every page
    python tools/gen_docs.py --check    exit 1 and name the pages that no longer agree with the code

Each page is a pure function of the code that gives Markdown. What is true of the program is read from the program:
state tables, error catalogue, command tree, action catalogue, file models, tables of the journal.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from file_keys import fields, reachable, refused
from pagetext import code, first_line, page, table

ROOT = Path(__file__).resolve().parents[1]
NEXT = "make docs"


# -- lifecycles --------------------------------------------------------------------------------------------------


def _node(word: str) -> str:
    return word or "[*]"


def mermaid(name: str) -> str:
    """A Mermaid state diagram of one family; events between the same two states share an arrow."""
    from drpilot.domain.states import FAMILIES

    family = FAMILIES[name]
    arrows: dict[tuple[str, str], list[str]] = {}
    for transition in family.transitions:
        for source in transition.sources:
            labels = arrows.setdefault((source, transition.target), [])
            if transition.event not in labels:
                labels.append(transition.event)
    lines = ["```mermaid", "stateDiagram-v2"]
    if not any("" in transition.sources for transition in family.transitions):
        lines.append(f"    [*] --> {family.words[0]}")
    for (source, target), events in arrows.items():
        label = " / ".join(event.replace(":", " –") for event in events)
        lines.append(f"    {_node(source)} --> {target}: {label}")
    ends = {source for source, _ in arrows}
    lines += [f"    {word} --> [*]" for word in family.words if word in family.final and word not in ends]
    return "\n".join([*lines, "```"])


def lifecycles() -> str:
    """Every family: a diagram, the states with their numbers, the transitions with their guards."""
    from drpilot.domain.states import FAMILIES

    parts = [
        (
            "What drpilot tracks, and the only ways it may change. Nothing else writes a state: an "
            "event that is not in a table, or whose guard does not hold, is refused and the refusal "
            "is recorded. The words and numbers never change once released. *Needs* are facts that "
            "must be true, *unless* facts that must not be; both are observations with an age, never "
            "assumptions. [How a crash is survived](../explanation/crash-safety.md) explains "
            "`unknown`, [who is active](../explanation/who-is-active.md) explains fences and epochs."
        ),
    ]
    for family in FAMILIES.values():
        parts += [f"## {family.title}", mermaid(family.name)]
        parts.append(
            table(
                ("number", "state", "meaning", "final"),
                ((s.number, code(s.word), s.sentence, "yes" if s.final else "") for s in family.states),
            )
        )
        parts.append(
            table(
                ("from", "event", "needs", "unless", "to"),
                (
                    (
                        ", ".join(code(source) for source in t.sources),
                        t.event,
                        ", ".join(t.needs),
                        ", ".join(t.forbids),
                        code(t.target),
                    )
                    for t in family.transitions
                ),
            )
        )
    return page("Lifecycles", *parts)


# -- errors ------------------------------------------------------------------------------------------------------


def _facts(template: str) -> str:
    return re.sub(r"\{(\w+)[^}]*\}", lambda found: found.group(1).upper(), template)


def errors() -> str:
    """The error catalogue by code."""
    from drpilot.base.catalogue import CATALOGUE

    rows = sorted(CATALOGUE.values(), key=lambda row: row.code)
    return page(
        "Errors",
        "Every way drpilot says no. A message has the code, what was wanted, where, why, and what to "
        "do next; `drpilot explain CODE-or-WORD` prints the long text. Words in capitals stand for "
        "what the message names. [Exit codes](exit-codes.md) say the same to scripts.",
        table(
            ("code", "word", "exit", "message", "cause", "what to do"),
            (
                (row.code, code(row.word), row.exit_code, _facts(row.title), row.cause, _facts(row.hint))
                for row in rows
            ),
        ),
    )


def exit_codes() -> str:
    """The exit codes with the errors that lead to each."""
    from drpilot.base.catalogue import CATALOGUE, EXIT_CODES

    counts = Counter(row.exit_code for row in CATALOGUE.values())
    return page(
        "Exit codes",
        "Stable and public: a script may rely on them. A code that is not in this table is a failure. "
        "The right-hand column counts the [errors](errors.md) that end with the code.",
        table(("code", "meaning", "errors"), ((c, text, counts[c] or "") for c, text in EXIT_CODES.items())),
    )


# -- commands ----------------------------------------------------------------------------------------------------


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child in sorted(getattr(command, "commands", {})):
        yield from _walk(command.commands[child], f"{name} {child}")


def _written(parameter: Any) -> str:
    """What stands after an option: the words it may be, or a word for it."""
    kind = parameter.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return parameter.metavar or {"int": "NUMBER", "float": "NUMBER", "Path": "FILE"}.get(
        kind.__name__, "TEXT"
    )


def _parameter(parameter: Any) -> tuple[str, str]:
    if not parameter.opts[0].startswith("-"):
        name = parameter.metavar or str(parameter.name).upper()
        return code(name if parameter.required else f"[{name}]"), parameter.help or ""
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    note = f" (default {code(default)})" if default not in (None, False, "", ()) else ""
    return code(names if parameter.is_flag else f"{names} {_written(parameter)}"), (
        parameter.help or ""
    ) + note


def _unwrapped(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").replace("\b", "").split("\n\n"))


def commands() -> str:
    """The command tree, from Typer."""
    import typer

    from drpilot.cli.app import app

    parts = [
        (
            "Every command with its arguments and options, as `--help` prints them. A verb acts on a "
            "group, a noun looks. What a command prints on stdout is its result; everything else goes "
            "to stderr. [Exit codes](exit-codes.md) are the same everywhere."
        )
    ]
    everywhere: dict[str, tuple[str, str]] = {}
    for name, command in _walk(typer.main.get_command(app), "drpilot"):
        if command.hidden:
            continue
        rows = []
        for parameter in command.params:
            if str(parameter.name).startswith("common__"):
                everywhere[str(parameter.name)] = _parameter(parameter)
            elif parameter.name != "help" and not parameter.hidden:
                rows.append(_parameter(parameter))
        parts.append(f"## `{name}`")
        parts.append(_unwrapped(command.help))
        if rows:
            parts.append(table(("argument or option", "meaning"), rows))
    shared = ["## On every command", table(("option", "meaning"), everywhere.values())]
    return page("Commands", parts[0], *shared, *parts[1:])


# -- actions -----------------------------------------------------------------------------------------------------


def actions() -> str:
    """What a runbook step can do, from the action catalogue."""
    from drpilot.actions.catalogue import CATALOGUE

    parts = [
        (
            "What a step of a runbook can do. *Idempotency* says what happens after a lost reply: "
            "`pure` looks again, `token` repeats the same call with the same token, `observe` looks "
            "before it repeats, `rerun` sets the state again, `once` asks a person. *Effect* is what "
            "it does to the world. A protected action is never skipped."
        ),
        table(
            ("action", "what it does", "idempotency", "effect", "protected"),
            (
                (
                    f"[`{name}`](#{name.replace('.', '')})",
                    action.summary,
                    action.idempotency.value,
                    action.effect.value,
                    "yes" if action.protects else "",
                )
                for name, action in sorted(CATALOGUE.items())
            ),
        ),
    ]
    for name, action in sorted(CATALOGUE.items()):
        parts += [f"## {name}", action.summary.rstrip(".") + "."]
        parts.append("Input:\n\n" + fields(action.Input) if action.Input.model_fields else "Takes no input.")
        if action.Output.model_fields:
            parts.append("Output:\n\n" + fields(action.Output))
        if action.permissions:
            parts.append("Permissions: " + ", ".join(code(permission) for permission in action.permissions))
    return page("Actions", *parts)


# -- keys of files ----------------------------------------------------------------------------------------------


def files() -> str:
    """Every key of the three files people write."""
    from drpilot.inventory.configuration import ConfigurationModel
    from drpilot.inventory.groupfile import GroupModel
    from drpilot.runbook.language import Runbook

    parts = [
        (
            "The three files people write are strict YAML: unknown keys, duplicate keys, anchors and "
            "tags are refused, and every finding names file:line:column. A word in italics is a table "
            "further down. Durations are written `15m` or `1h30m`, sizes `20GiB`, truth values `true` "
            "and `false` and nothing else."
        ),
    ]
    for title, model in (
        ("drpilot.yaml", ConfigurationModel),
        ("The group file", GroupModel),
        ("A runbook", Runbook),
    ):
        parts.append(f"## {title}")
        for part in reachable(model):
            name = part.__name__.removesuffix("Model")
            parts += [f"### {name}", first_line(part.__doc__), fields(part), refused(part)]
    return page("Files", *parts)


# -- the lab ----------------------------------------------------------------------------------------------------


def lab() -> str:
    """What the simulated clouds answer, and their faults."""
    from drpilot.lab.faults import KINDS
    from drpilot.lab.registry import ACTIONS
    from drpilot.lab.services import load

    load()
    by_service: dict[str, list[str]] = {}
    for service, operation in sorted(ACTIONS):
        by_service.setdefault(service, []).append(operation)
    return page(
        "What the lab answers",
        "The operations of the simulated clouds, by service, in the API's own words. Anything else is "
        "refused as the real service refuses an unknown action, never guessed. [The "
        "lab](../explanation/lab.md) explains how far the likeness goes.",
        table(
            ("service", "operations"),
            ((code(service), ", ".join(names)) for service, names in by_service.items()),
        ),
        "## Faults",
        "`drpilot lab break SITE --fault KIND[=VALUE][:service.action][@n]` sets a rule, `drpilot lab "
        "heal SITE` takes rules away. `n` picks the n-th matching call (`@3`), a span (`@3-5`) or all "
        "from one on (`@3+`); the action may be `*`, `mutating` or `reading`. Without a kind the "
        "whole site refuses connections.",
        table(("kind", "what a call meets"), ((code(kind), text) for kind, text in KINDS.items())),
    )


# -- the journal's tables ----------------------------------------------------------------------------------------


def schema() -> str:
    """The journal's tables, columns and indexes."""
    from drpilot.journal.tables import SCHEMA, metadata

    comments = {}
    from drpilot.journal import tables as module

    for row in vars(module).values():
        if isinstance(row, type) and hasattr(row, "__tablename__"):
            comments[str(row.__tablename__)] = first_line(row.__doc__)
    parts = [
        (
            f"The journal is the only truth; this is revision `{SCHEMA[-1]}` of its tables. Times are "
            "whole microseconds since 1970 in UTC, states are [words of the "
            "lifecycles](lifecycles.md), bodies are JSON text. Only `drpilot.journal` reads or writes "
            "them; the tables are no interface for others."
        ),
    ]
    for name in sorted(metadata.tables):
        current = metadata.tables[name]
        parts += [f"## {name}", comments.get(name, "")]
        parts.append(
            table(
                ("column", "type", "empty", "key"),
                (
                    (
                        code(column.name),
                        str(column.type).lower(),
                        "may be" if column.nullable else "",
                        ", ".join(
                            (["primary"] if column.primary_key else [])
                            + [f"of {key.target_fullname}" for key in column.foreign_keys]
                        ),
                    )
                    for column in current.columns
                ),
            )
        )
        indexes = sorted(
            f"`{index.name}` on {', '.join(c.name for c in index.columns)}{', unique' if index.unique else ''}"
            for index in current.indexes
        )
        if indexes:
            parts.append("Indexes: " + "; ".join(indexes))
    return page("Tables of the journal", *parts)


# -- the matrix --------------------------------------------------------------------------------------------------


def matrix() -> str:
    """The feature matrix, from docs/matrix.csv."""
    with (ROOT / "docs" / "matrix.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["aim"] for row in rows)
    parts = [
        (
            "What a disaster-recovery orchestrator should do, as a list that can be ticked off. The "
            "aims were drawn from what comparable products and projects offer and what their users "
            "ask for: **M** must be there, **S** should, **L** comes later, **★** goes beyond what "
            "any of them offers. A row counts as done only when a test carries its number "
            "(`@pytest.mark.row(N)`); `make rows` prints which test proves which row, and the rows "
            "still open."
        ),
        f"{len(rows)} rows: " + ", ".join(f"{counts[aim]} {aim}" for aim in ("M", "S", "L", "★")) + ".",
    ]
    for area in dict.fromkeys(row["area"] for row in rows):
        parts.append(f"## {area}")
        parts.append(
            table(
                ("row", "feature", "aim"),
                ((row["row"], row["feature"], row["aim"]) for row in rows if row["area"] == area),
            )
        )
    return page("Feature matrix", *parts)


PAGES: dict[str, Callable[[], str]] = {
    "docs/matrix.md": matrix,
    "docs/reference/lifecycles.md": lifecycles,
    "docs/reference/errors.md": errors,
    "docs/reference/exit-codes.md": exit_codes,
    "docs/reference/commands.md": commands,
    "docs/reference/actions.md": actions,
    "docs/reference/files.md": files,
    "docs/reference/lab.md": lab,
    "docs/reference/schema.md": schema,
}


def stale() -> list[str]:
    """The generated pages that don't agree with the code, by path."""
    found = []
    for path, make in PAGES.items():
        target = ROOT / path
        if not target.exists() or target.read_text(encoding="utf-8") != make():
            found.append(path)
    return found


def main(arguments: Sequence[str]) -> int:
    """Write the pages (no argument, or the paths of some), or compare them (`--check`)."""
    sys.path.insert(0, str(ROOT))  # the tree's own code, installed or not
    if list(arguments) == ["--check"]:
        old = stale()
        for path in old:
            print(f"{path} does not agree with the code", file=sys.stderr)
        print(f"run: {NEXT}" if old else f"{len(PAGES)} generated pages agree with the code")
        return 1 if old else 0
    unknown = [path for path in arguments if path not in PAGES]
    if unknown:
        print(f"no generated page: {', '.join(unknown)}; there are: {', '.join(PAGES)}", file=sys.stderr)
        return 2
    for path in arguments or PAGES:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(PAGES[path](), encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
