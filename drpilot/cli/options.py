"""Options shared by commands, and the frame that gives a function its command-line face.

Options that belong together are one frozen dataclass: `Common` is on every command, `Consent` holds the typed facts,
`Move` what a move may be told. `framed` flattens them into the signature Typer reads, so that a command stays a
function of a few values.
"""

from __future__ import annotations

import inspect
import shlex
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Common",
    "Consent",
    "Detach",
    "Folder",
    "GroupName",
    "Move",
    "Naming",
    "Output",
    "RunName",
    "framed",
    "reasoned",
    "typed",
]


class Output(StrEnum):
    """The forms of a result."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Common:
    """On every command."""

    lab: Annotated[
        bool, typer.Option("--lab", help="act on the simulated clouds of this machine, never on real sites")
    ] = False
    output: Annotated[Output, typer.Option("--output", "-o", help="how the result is written")] = Output.TABLE
    no_input: Annotated[bool, typer.Option("--no-input", help="never ask; what is missing is refused")] = (
        False
    )
    person: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="who acts, on a shared account")
    ] = None


@dataclass(frozen=True, slots=True)
class Consent:
    """The facts a person types; in scripts they come as options."""

    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="what happened, with the ticket; part of the evidence"),
    ] = ""
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="the group's name, typed back")
    ] = None
    accept_data_loss: Annotated[
        str | None,
        typer.Option("--accept-data-loss", metavar="10m", help="the loss of writes accepted, as a duration"),
    ] = None
    break_glass: Annotated[
        str | None,
        typer.Option("--break-glass", metavar="WHY", help="act alone where two people are asked for"),
    ] = None


@dataclass(frozen=True, slots=True)
class Move:
    """What a move may be told beside the consent."""

    point: Annotated[
        str | None, typer.Option("--point", metavar="ID", help="the recovery point: an id, newest, or proven")
    ] = None
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="when the source died, as RFC 3339 with offset"),
    ] = None
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="SITE", help="the site to make active; checked, never guessed"),
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the proposal and stop")] = False
    detach: Annotated[bool, typer.Option("--detach", help="begin the run and leave it to whoever drives")] = (
        False
    )


@dataclass(frozen=True, slots=True)
class Naming:
    """The survivor of a suspected split, and the facts a person types with it."""

    survivor: Annotated[
        str | None,
        typer.Option(
            "--survivor",
            metavar="SITE",
            help="in a suspected split: the side to go on with; two people decide",
        ),
    ] = None
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="with --survivor: why this side; part of the evidence"),
    ] = ""
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="NAME", help="with --survivor: the group's name, typed back"),
    ] = None
    break_glass: Annotated[
        str | None,
        typer.Option(
            "--break-glass", metavar="WHY", help="with --survivor: act alone where two are asked for"
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="with --survivor: show the proposal and stop")
    ] = False


@dataclass(frozen=True, slots=True)
class Folder:
    """For commands that write files: there `--output` names the folder, and still the form where it says `json`.

    Given twice it does both (`--output DIR --output json`); a folder that is called so is `./json`.
    """

    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|json|table",
            help="the folder written into; json or table is the form of the result, as everywhere",
        ),
    ] = None

    @property
    def path(self) -> Path | None:
        """The folder, None where only a form was given."""
        named = [text for text in self.output or () if text not in _FORMS]
        return Path(named[-1]) if named else None

    @property
    def form(self) -> Output | None:
        """The form of the result, None where only a folder was given."""
        named = [text for text in self.output or () if text in _FORMS]
        return Output(named[-1]) if named else None


_FORMS = frozenset(form.value for form in Output)

GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="a protection group", show_default=False)]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN|GROUP",
        help="a run such as shop/232, or a group for its live, else latest run",
        show_default=False,
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="begin the run and leave it to whoever drives")]


def typed(words: Iterable[str], options: Iterable[tuple[str, object]] = ()) -> str:
    """A command line without its first word, as a shell takes it: what needs quotes has them, and an option without a
    value (None, empty) is left out.
    """
    given = [(name, value) for name, value in options if value is not None and value != ""]
    return shlex.join([*words, *(str(part) for pair in given for part in pair)])


def reasoned(text: str) -> Any:
    """An option `--reason` with its own help."""
    return typer.Option("--reason", metavar="TEXT", help=text)


def _flattened(name: str, kind: Any) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(kind, include_extras=True)
    found = []
    for each in fields(kind):
        default = inspect.Parameter.empty if each.default is MISSING else each.default
        found.append(
            inspect.Parameter(
                f"{name}__{each.name}",
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=hints[each.name],
            )
        )
    return found


def framed(function: Callable[..., Any], conduct: Callable[..., Any]) -> Callable[..., Any]:
    """`function(session, …)` as Typer sees it: `conduct(function, common, values)` with every option flattened."""
    hints = typing.get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for position, (name, parameter) in enumerate(inspect.signature(function).parameters.items()):
        kind = hints.get(name)
        if position == 0:
            continue  # the session, made by `conduct`
        if isinstance(kind, type) and is_dataclass(kind):
            groups[name] = kind
            parameters += _flattened(name, kind)
        else:
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    groups["common"] = Common
    own_output = Folder in groups.values()
    common_options = _flattened("common", Common)
    parameters += [each for each in common_options if not (own_output and each.name == "common__output")]

    def command(**values: Any) -> Any:
        built: dict[str, Any] = {}
        for name, kind in groups.items():
            prefix = f"{name}__"
            own = {
                key.removeprefix(prefix): values.pop(key) for key in list(values) if key.startswith(prefix)
            }
            built[name] = kind(**own)
        common = built.pop("common")
        form = next((each.form for each in built.values() if isinstance(each, Folder)), None)
        common = common if form is None else replace(common, output=form)
        return conduct(function, common, {**values, **built})

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect reads
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
