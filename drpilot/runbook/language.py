"""The keys of a runbook, as models: what a person may write, version 1 of the language.

Keys of the wider language that this version does not run are refused by name, so that a runbook never means
less than it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, StringConstraints, WrapValidator, model_validator

from drpilot.base.document import DocumentModel, Duration, Flag, Integer, Number, Value, Version
from drpilot.domain.plan import Gate, OnFailure
from drpilot.domain.ports import FailureClass

__all__ = [
    "PURPOSES",
    "Backoff",
    "Defaults",
    "Foreach",
    "Limits",
    "Purpose",
    "RetryRule",
    "Runbook",
    "Step",
    "Undo",
]

Purpose = Literal[
    "failover",
    "switchover",
    "migrate",
    "reprotect",
    "drill",
    "replicate",
    "burst",
    "unburst",
    "fence",
    "survivor",
    "cleanup",
    "retire",
    "configure",
]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

_LATER = "is not part of this version of the runbook language"
_FINAL = (
    "cancelled",
    "full",
    "unknown",
)  # a person's word, a full cloud that is always waited for, and what is looked at instead of repeated


def _failure(word: str) -> str:
    known = [kind.value for kind in FailureClass if kind.value not in _FINAL]
    if word not in known:
        raise ValueError(f"{word!r} is no failure class that can be tried again; known: {', '.join(known)}")
    return word


def _positive(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError("must be longer than nothing")
    return seconds


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
ActionName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*$", max_length=64)]
RunbookName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$", max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Wait = Annotated[Duration, AfterValidator(_positive)]
FailureWord = Annotated[str, AfterValidator(_failure)]


class Backoff(DocumentModel):
    """How long to wait between tries."""

    first: Wait | None = None
    factor: Annotated[Number, Field(ge=1, le=10)] | None = None
    max: Wait | None = None
    jitter: Flag | None = None


class RetryRule(DocumentModel):
    """How a failed step is tried again; what is left out comes from `defaults`, then from the engine's
    own.
    """

    attempts: Annotated[Integer, Field(ge=1, le=100)] | None = None
    errors: tuple[FailureWord, ...] | None = None
    backoff: Backoff = Backoff()
    refused_keys: ClassVar = {
        "give_up_after": _LATER,
        "on": "write `errors`: YAML reads a bare `on` as a truth value",
    }


class Limits(DocumentModel):
    """How many steps are in the middle of their calls at once: in the whole run, and of those that call one site. A
    step that waits for its cloud takes no place.
    """

    parallel: Annotated[Integer, Field(ge=1, le=256)] = 16
    per_site: Annotated[Integer, Field(ge=1, le=256)] = 8
    refused_keys: ClassVar = {"pools": _LATER}


class Defaults(DocumentModel):
    """What steps use that don't say otherwise."""

    timeout: Wait = 600.0
    on_failure: OnFailure = "pause"
    retry: RetryRule = RetryRule()


class Foreach(DocumentModel):
    """One copy of the nested steps for each item; `parallel` copies at once."""

    items: Value
    as_: Name = Field("item", alias="as")
    key: Text
    parallel: Annotated[Integer, Field(ge=1, le=256)] = 1
    max_items: Annotated[Integer, Field(ge=1, le=1000)]
    refused_keys: ClassVar = {"fail": _LATER}


class Undo(DocumentModel):
    """What reverses a step instead of the action's own undo; written `false` it has none (`action` is
    empty).
    """

    action: ActionName
    with_: dict[str, Value] = Field(default_factory=dict, alias="with")


def _undo(value: Any, handler: Callable[[Any], Undo]) -> Undo:
    if isinstance(value, str):
        if value == "false" and getattr(value, "plain", True):
            return Undo.model_construct(action="", with_={})
        raise ValueError(f"{str(value)!r} is neither false nor an action with its input")
    return handler(value)


class Step(DocumentModel):
    """One step: an action, a gate, or a group of steps."""

    id: Name
    title: Text | None = None
    action: ActionName | None = None
    gate: Gate | None = None
    steps: tuple[Step, ...] | None = None
    foreach: Foreach | None = None
    with_: dict[str, Value] = Field(default_factory=dict, alias="with")
    needs: tuple[Text, ...] | None = None
    when: Text | None = None
    always: Flag = False
    retry: RetryRule | None = None
    timeout: Wait | None = None
    on_failure: OnFailure | None = None
    undo: Annotated[Undo, WrapValidator(_undo)] | None = None
    no_way_back: Flag = False
    message: Text | None = None
    refused_keys: ClassVar = {
        "catch": _LATER,
        "idempotency": _LATER,
        "pool": _LATER,
        "runbook": _LATER,
        "tags": _LATER,
        "goto": "steps are ordered by `needs`, there are no jumps",
        "on": "write `when` for a condition, `retry.errors` for failures",
    }

    @model_validator(mode="after")
    def _shape(self) -> Step:
        kinds = [kind for kind in ("action", "gate", "steps") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"step {self.id!r} needs exactly one of action, gate and steps" + _and(kinds))
        foreign = [key for key in _FOREIGN[kinds[0]] if self._wrote(key)]
        if foreign:
            what = (
                "a group of steps"
                if kinds[0] == "steps"
                else f"{'an' if kinds[0] == 'action' else 'a'} {kinds[0]}"
            )
            raise ValueError(
                f"step {self.id!r} is {what}, which takes no {' and no '.join(foreign)}{_HINTS[kinds[0]]}"
            )
        if self.steps is not None and not self.steps:
            raise ValueError(f"step {self.id!r} is a group with no steps")
        return self

    def _wrote(self, key: str) -> bool:
        return (f"{key}_" if key == "with" else key) in self.model_fields_set

    @property
    def undoes(self) -> bool:
        """False where the author wrote `undo: false`."""
        return self.undo is None or bool(self.undo.action)


_FOREIGN = {
    "action": ("foreach", "message"),
    "gate": ("foreach", "with", "retry", "timeout", "on_failure", "undo", "no_way_back", "always"),
    "steps": ("with", "retry", "timeout", "on_failure", "undo", "no_way_back", "message"),
}
_HINTS = {
    "action": "; foreach stands around nested `steps`, a message on a gate",
    "gate": "; a gate only asks a person",
    "steps": "; write it on the steps inside, or under defaults",
}


def _and(kinds: list[str]) -> str:
    return f", it has {' and '.join(kinds)}" if kinds else ""


class Runbook(DocumentModel):
    """A whole runbook."""

    drpilot: Version
    runbook: RunbookName
    title: Text | None = None
    purpose: Purpose
    owner: Text | None = None
    limits: Limits = Limits()
    defaults: Defaults = Defaults()
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    refused_keys: ClassVar = {
        "checks": _LATER,
        "exclusive": "the lane follows from the purpose; no key switches a lock off",
        "inputs": _LATER,
        "objectives": _LATER,
        "outputs": _LATER,
        "vars": _LATER,
    }
