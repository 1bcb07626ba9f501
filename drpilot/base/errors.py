"""The error catalogue: every way drpilot says no, with its code, exit code, cause and next step.

An error is raised as `DrpilotError(word, **facts)`; `word` names a row of `CATALOGUE`, `facts` fill its title
and hint. `drpilot explain CODE-or-WORD` prints the row; docs/errors.md is generated from it. Exit codes are
public API: 0 done, 1 failed, 2 usage, 3 findings, 4 incomplete, 5 refused, 6 configuration, 7 credentials,
8 unreachable, 9 not found, 10 timed out, 70 a bug, 130 interrupted.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from drpilot.base.catalogue import CATALOGUE, EXIT_CODES, Row

__all__ = ["CATALOGUE", "EXIT_CODES", "DrpilotError", "Finding", "Row", "invariant"]


class _Facts(string.Formatter):
    def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
        return kwargs.get(key, f"<{key}>") if isinstance(key, str) else super().get_value(key, args, kwargs)


class DrpilotError(Exception):
    """One refusal or failure, with what was wanted, where, why and what to do next.

    `where` is a place a person can go to (file:line:column, step, site), `why` the cause as seen, `data` the
    machine-readable part of `--output json`.
    """

    def __init__(
        self,
        word: str,
        /,
        *,
        where: str = "",
        why: str = "",
        data: dict[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        self.row = CATALOGUE[word]
        self.where = where
        self.why = why
        self.data = data or {}
        self.facts = facts
        self.title = _Facts().format(self.row.title, **facts)
        self.hint = _Facts().format(self.row.hint, **facts)
        super().__init__(f"error[{self.row.code}]: {self.title}" + (f" ({why})" if why else ""))

    @property
    def word(self) -> str:
        """The catalogue's name of the error."""
        return self.row.word

    @property
    def exit_code(self) -> int:
        """The process's exit code for this error."""
        return self.row.exit_code

    def as_json(self) -> dict[str, Any]:
        """The error as `--output json` carries it."""
        body: dict[str, Any] = {
            "code": self.row.code,
            "word": self.word,
            "message": self.title,
            "exit_code": self.exit_code,
        }
        more = {"where": self.where, "why": self.why, "hint": self.hint, "data": self.data}
        body |= {key: value for key, value in more.items() if value}
        return {"error": body}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a linter or a check has to say. `severity` is `error`, `warning` or `info`."""

    word: str
    severity: str
    message: str
    where: str = ""
    hint: str = ""

    @property
    def code(self) -> str:
        """The catalogue code of the finding."""
        return CATALOGUE[self.word].code


def invariant(condition: bool, why: str) -> None:
    """Stop with a bug report when something that must hold does not; stays on in production."""
    if not condition:
        raise DrpilotError("bug", what=why)
