"""The result of one check: what was expected, what was observed, and the finding if they differ."""

from __future__ import annotations

from dataclasses import dataclass

from drpilot.base.errors import Finding

__all__ = ["Checked", "bad", "ok", "unknown", "warning"]


@dataclass(frozen=True, slots=True)
class Checked:
    """One check of one scope (a site's or a group's name). `verdict` is ok, warning, bad or unknown.

    `subject` is what of the scope was looked at, where a check has several: a tier, or one of two things compared.
    """

    name: str
    scope: str
    verdict: str
    expected: str
    observed: str
    finding: Finding | None = None
    subject: str = ""

    @property
    def hint(self) -> str:
        """What to do about it."""
        return self.finding.hint if self.finding is not None else ""

    @property
    def word(self) -> str:
        """The catalogue's word for it; empty when all is well."""
        return self.finding.word if self.finding is not None else ""


def ok(name: str, scope: str, expected: str, observed: str, *, subject: str = "") -> Checked:
    """As expected."""
    return Checked(name, scope, "ok", expected, observed, subject=subject)


def warning(name: str, scope: str, expected: str, observed: str, finding: Finding) -> Checked:
    """Not as expected; nothing breaks tonight."""
    return Checked(name, scope, "warning", expected, observed, finding)


def bad(  # noqa: PLR0913 - the columns of one row
    name: str, scope: str, expected: str, observed: str, finding: Finding, *, subject: str = ""
) -> Checked:
    """Not as expected; a failover would suffer."""
    return Checked(name, scope, "bad", expected, observed, finding, subject)


def unknown(name: str, scope: str, expected: str, observed: str, *, subject: str = "") -> Checked:
    """Nobody can tell: no finding is opened or closed by it."""
    return Checked(name, scope, "unknown", expected, observed, subject=subject)
