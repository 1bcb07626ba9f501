"""The command tree. `drpilot --help` and `--version` import nothing heavy: each command imports what it needs.

Typer's rich help is off (`rich_markup_mode=None`), because it would import rich for every help text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer
import typer.core
from typer.exceptions import Abort, TyperException

from drpilot.__about__ import __version__
from drpilot.base.errors import DrpilotError
from drpilot.cli import (
    act,
    attend,
    blocks,
    buckets,
    bundlebuckets,
    bundles,
    bursting,
    halting,
    images,
    look,
    migrating,
    mover,
    practise,
    protecting,
    setup,
    sites,
    steer,
)
from drpilot.cli.options import framed
from drpilot.cli.session import bug, conduct, refuse
from drpilot.cli.terminal import Terminal

__all__ = ["app", "main"]

EVERY_DAY, MOVES, ANSWERS, SET_UP, DATA, PRACTISE, SERVICE = MOMENTS = (
    "Every day",
    "Moves",
    "Answers",
    "Set up",
    "Data",
    "Practise",
    "Service",
)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


_ORDER: list[str] = []  # as added below: Typer itself puts single commands before groups


class _Group(typer.core.TyperGroup):
    """A group whose help lists its commands in the order of the tree, under their moment."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: _ORDER.index(name) if name in _ORDER else 0)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            moment = getattr(command, "rich_help_panel", None)
            text = (command.help or "").split("\n\n")[0]
            sections.setdefault(moment if isinstance(moment, str) else "Commands", []).append((name, text))
        for moment, rows in sections.items():
            with formatter.section(moment):
                formatter.write_dl(rows)


class _Root(_Group):
    """The root: usage errors take the form of every other error, and nothing ends in a traceback."""

    def main(  # the signature of Typer's own
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        try:
            code = super().main(given, "drpilot", complete_var, standalone_mode=False, **extra)
        except TyperException as error:
            code = refuse(_usage(error), _terminal(given))
        except (KeyboardInterrupt, Abort):
            code = 130
        except Exception as error:  # noqa: BLE001 - the process's edge
            code = refuse(bug(error), _terminal(given))
        sys.exit(code if isinstance(code, int) else 0)


def _terminal(args: Sequence[str]) -> Terminal:
    """The form of errors before the options are parsed."""
    text = " ".join(args)
    return Terminal(
        json=any(part in text for part in ("--output json", "--output=json", "-o json", "-ojson"))
    )


def _usage(error: TyperException) -> DrpilotError:
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    context: Any = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "drpilot"
    what = message
    if not message or message.startswith("Usage:"):  # a group without a command
        what = f"{path} needs a command: {', '.join(context.command.list_commands(context))}"
    return DrpilotError("usage", what=what[:1].lower() + what[1:], hint=f"{path} --help")


def _version(value: bool) -> None:
    if not value:
        return
    import platform
    from importlib.metadata import version

    sys.stdout.write(
        f"drpilot {__version__} (Python {platform.python_version()}, boto3 {version('boto3')})\n"
    )
    raise typer.Exit


app = typer.Typer(
    cls=_Root,
    rich_markup_mode=None,
    add_completion=False,
    context_settings=_CONTEXT,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="show the version and exit"
    ),
) -> None:
    """Pilot-light disaster recovery between two EC2-compatible clouds.

    First time here: drpilot demo, or drpilot lab up. At night: drpilot status.
    """
    del version


def _add(parent: typer.Typer, name: str, function: Callable[..., Any], moment: str | None = None) -> None:
    text = (function.__doc__ or "").strip().rstrip(".")
    if moment is not None:
        _ORDER.append(name)
    parent.command(name, help=text, rich_help_panel=moment, context_settings=_CONTEXT)(
        framed(function, conduct)
    )


def _branch(name: str, text: str, moment: str, commands: dict[str, Callable[..., Any]]) -> None:
    _ORDER.append(name)
    branch = typer.Typer(cls=_Group, rich_markup_mode=None, no_args_is_help=True, context_settings=_CONTEXT)
    for word, function in commands.items():
        _add(branch, word, function)
    app.add_typer(branch, name=name, help=text, rich_help_panel=moment)


_add(app, "status", look.status, EVERY_DAY)
_add(app, "check", look.check, EVERY_DAY)
_branch(
    "point",
    "Recovery points: list, show, pin, unpin, quarantine",
    EVERY_DAY,
    {
        "list": look.point_list,
        "show": look.point_show,
        "pin": protecting.point_pin,
        "unpin": protecting.point_unpin,
        "quarantine": protecting.point_quarantine,
    },
)
_branch(
    "run",
    "Runs: list, show, watch, resume, pause, cancel, approve, decline, retry, skip, settle",
    EVERY_DAY,
    {
        "list": look.run_list,
        "show": look.run_show,
        "watch": attend.run_watch,
        "resume": steer.resume,
        "pause": steer.pause,
        "cancel": steer.cancel,
        "approve": steer.approve,
        "decline": steer.decline,
        "retry": steer.retry,
        "skip": steer.skip,
        "settle": steer.settle,
    },
)
_branch(
    "report", "Evidence: show, verify", EVERY_DAY, {"show": look.report_show, "verify": look.report_verify}
)
_add(app, "explain", look.explain, EVERY_DAY)

_add(app, "failover", act.failover, MOVES)
_add(app, "switchover", act.switchover, MOVES)
_add(app, "failback", act.failback, MOVES)
_add(app, "migrate", migrating.migrate, MOVES)

_add(app, "commit", steer.commit, ANSWERS)
_add(app, "rollback", steer.rollback, ANSWERS)
_add(app, "fence", act.fence, ANSWERS)
_add(app, "halt", halting.halt, ANSWERS)
_add(app, "unhalt", halting.unhalt, ANSWERS)
_add(app, "reprotect", act.reprotect, ANSWERS)

_branch(
    "site",
    "Sites: add, list, check, login",
    SET_UP,
    {"add": sites.site_add, "list": sites.site_list, "check": sites.site_check, "login": sites.site_login},
)
_branch(
    "group",
    "Groups: new, list, show, lock, unlock, acknowledge, retire",
    SET_UP,
    {
        "new": protecting.group_new,
        "list": protecting.group_list,
        "show": protecting.group_show,
        "lock": protecting.group_lock,
        "unlock": protecting.group_unlock,
        "acknowledge": protecting.group_acknowledge,
        "retire": protecting.group_retire,
    },
)
_add(app, "protect", protecting.protect, SET_UP)

_add(app, "replicate", act.replicate, DATA)
_add(app, "burst", bursting.burst, DATA)
_branch("image", "Images: copy to another site", DATA, {"copy": images.image_copy})
_branch(
    "bundle",
    "Images as bundles: create, extract, verify, show, retarget, upload, download, delete",
    DATA,
    {
        "create": bundles.create,
        "extract": bundles.extract,
        "verify": bundles.verify,
        "show": bundles.show,
        "retarget": bundles.retarget,
        "upload": bundlebuckets.upload,
        "download": bundlebuckets.download,
        "delete": bundlebuckets.delete,
    },
)
_branch(
    "blocks",
    "Blocks between snapshots, devices, files and buckets: copy, pull, push, map, diff",
    DATA,
    {
        "copy": blocks.blocks_copy,
        "pull": blocks.blocks_pull,
        "push": blocks.blocks_push,
        "map": blocks.blocks_map,
        "diff": blocks.blocks_diff,
    },
)
_add(app, "mover", mover.mover, DATA)

_branch("bucket", "Buckets between sites: sync", DATA, {"sync": buckets.bucket_sync})

_add(app, "drill", act.drill, PRACTISE)
_add(app, "demo", practise.demo, PRACTISE)
_branch(
    "lab",
    "Simulated clouds on this machine: up, down, status, reset, break, heal, advance, freeze, thaw",
    PRACTISE,
    {
        "up": practise.lab_up,
        "down": practise.lab_down,
        "status": practise.lab_status,
        "reset": practise.lab_reset,
        "break": practise.lab_break,
        "heal": practise.lab_heal,
        "advance": practise.lab_advance,
        "freeze": practise.lab_freeze,
        "thaw": practise.lab_thaw,
    },
)

_add(app, "serve", setup.serve, SERVICE)


def main() -> NoReturn:
    """The entry point of the `drpilot` script."""
    typer.main.get_command(app).main(prog_name="drpilot")
    raise AssertionError  # main never returns
