"""What can be told of a runbook before it meets a group: actions, inputs, ids, gates, names in expressions.

Also the words the rooms above speak to the compiler in: what an action is (`ActionFacts`) and what a run is
compiled for (`CompileFacts`). A runbook knows actions by these facts only, never by their code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from drpilot.base.document import Loaded, closest
from drpilot.base.errors import DrpilotError, Finding
from drpilot.domain.group import Group
from drpilot.domain.path import COPY, Path
from drpilot.domain.ports import Action
from drpilot.domain.run import MOVES
from drpilot.runbook.expression import OPEN, uses
from drpilot.runbook.language import Foreach, Runbook, Step

__all__ = [
    "ALWAYS_THERE",
    "ActionFacts",
    "CompileFacts",
    "Later",
    "Notes",
    "Place",
    "check_input",
    "inspect",
    "texts",
]

ALWAYS_THERE = ("group", "source", "target", "point", "path", "run")
Place = tuple[str | int, ...]

_UNATTENDED = ("replicate", "burst", "unburst", "cleanup", "configure")


@dataclass(frozen=True, slots=True)
class ActionFacts:
    """What the compiler must know of an action; `output` are the names of its output's fields. `at` and `slot` are
    the action's own (domain/ports.py).
    """

    name: str
    idempotency: str
    effect: str
    protects: bool
    input: type[BaseModel]
    output: tuple[str, ...]
    at: tuple[str, ...] = ("target",)
    slot: str | None = None

    @classmethod
    def of(cls, action: Action[Any, Any] | type[Action[Any, Any]]) -> ActionFacts:
        """The facts an action declares about itself."""
        return cls(
            name=action.name,
            idempotency=action.idempotency.value,
            effect=action.effect.value,
            protects=action.protects,
            input=action.Input,
            output=tuple(action.Output.model_fields),
            at=action.at,
            slot=action.slot,
        )


@dataclass(frozen=True, slots=True)
class CompileFacts:
    """What a plan is made for: the group with its members, direction, point, mode and lane.

    `name` is the run's name where it is known already; `point` is a point's id, empty where the mode needs
    none. `burst` is what runbooks see as `run.burst` (domain/burst.py, BurstOffer); left out it comes from the group
    file. `slots` says of each site how much long work of a kind it does at once, `data_path` how bytes get across.
    """

    group: Group
    mode: str
    lane: str
    source: str
    target: str
    point: str = ""
    name: str = ""
    reason: str = ""
    drill: bool = False
    burst: Mapping[str, Any] = field(default_factory=dict)
    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    data_path: Path = COPY


class Later(str):
    """A text whose expressions are resolved only in the run: it fits any type until then."""

    __slots__ = ()


@dataclass(slots=True)
class Notes:
    """Findings with their places, each told once however often a `foreach` repeats it."""

    loaded: Loaded[Runbook]
    findings: dict[Finding, None] = field(default_factory=dict)
    misread: set[Place] = field(default_factory=set)  # places of expressions the inspection found wrong

    def unread(self, at: Place, error: DrpilotError) -> None:
        """An expression that can't be evaluated, unless the inspection has told why."""
        if at not in self.misread:
            self.error(at, error.title)

    def error(self, at: Place, message: str, hint: str = "") -> None:
        """Something that must be mended."""
        self.findings[self.loaded.finding("runbook", at, message, hint=hint)] = None

    def warning(self, at: Place, message: str, hint: str = "") -> None:
        """Something a person should look at."""
        self.findings[self.loaded.finding("runbook", at, message, hint=hint, severity="warning")] = None

    def line(self, at: Place) -> int:
        """The line of an entry."""
        return self.loaded.spot(at).line

    @property
    def ordered(self) -> tuple[Finding, ...]:
        """In the order of the file."""

        def place(finding: Finding) -> tuple[int, int]:
            line, column = finding.where.rsplit(":", 2)[1:]
            return int(line), int(column)

        return tuple(sorted(self.findings, key=place))


def texts(value: Any, at: Place) -> Iterator[tuple[Place, str]]:
    """Every text inside a value, with its place."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(item, (*at, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from texts(item, (*at, index))


def check_input(notes: Notes, action: ActionFacts, given: Mapping[str, Any], at: Place) -> None:
    """Check parameters against the action's Input; a `Later` text fits anything."""
    known = {info.alias or name: info for name, info in action.input.model_fields.items()}
    for key in given:
        if key not in known:
            has = f"known: {', '.join(known)}" if known else "it takes none"
            notes.error(
                (*at, key), f"action {action.name} has no parameter {key!r}{closest(key, known)}; {has}"
            )
    for key, info in known.items():
        if key not in given and info.is_required():
            notes.error(at, f"action {action.name} needs parameter {key!r}")
    try:
        action.input.model_validate({key: value for key, value in given.items() if key in known})
    except ValidationError as error:
        for each in error.errors(include_url=False):
            if each["type"] != "missing" and not _is_later(given, each["loc"]):
                label = ".".join(str(part) for part in each["loc"]) or "with"
                message = each["msg"].removeprefix("Value error, ")
                notes.error(
                    (*at, *each["loc"]), f"action {action.name}: {label}: {message[:1].lower() + message[1:]}"
                )


def _is_later(given: Any, loc: Sequence[str | int]) -> bool:
    """Whether an error concerns a text that has its value only in the run; an error of the whole, if any
    has.
    """
    if not loc:
        return any(isinstance(text, Later) for _, text in texts(given, ()))
    for part in loc:
        if isinstance(given, Later):
            return True
        inside = isinstance(given, Mapping) and part in given
        if inside or (isinstance(given, list) and isinstance(part, int) and part < len(given)):
            given = given[part]
    return isinstance(given, Later)


@dataclass(slots=True)
class _Inspector:
    runbook: Runbook
    notes: Notes
    catalogue: Mapping[str, ActionFacts]
    gates: dict[str, int] = field(default_factory=dict)
    turning: list[Place] = field(default_factory=list)

    def block(
        self,
        steps: Sequence[Step],
        at: Place,
        variables: tuple[str, ...],
        outer: Mapping[str, int],
        *,
        many: bool,
    ) -> None:
        """Inspect a list of steps; `outer` are the ids of the lists around it with their lines, `many`:
        in a foreach.
        """
        here: dict[str, int] = {}
        for index, step in enumerate(steps):
            place = (*at, index)
            line = self.notes.line((*place, "id"))
            if step.id in here:
                self.notes.error(
                    (*place, "id"), f"step id {step.id!r} stands twice, first in line {here[step.id]}"
                )
            elif step.id in outer:
                around = f"step id {step.id!r} is also the id of the step around it, in line {outer[step.id]}"
                self.notes.error((*place, "id"), around, "steps.ID could mean either")
            here.setdefault(step.id, line)
        for index, step in enumerate(steps):
            self.step(step, (*at, index), variables, {**outer, **here}, many=many)

    def step(
        self, step: Step, at: Place, variables: tuple[str, ...], ids: Mapping[str, int], *, many: bool
    ) -> None:
        """Inspect one step and what is nested in it."""
        self.expressions(step, at, variables)
        if step.gate is not None:
            self.gate(step, at, many=many)
        if step.action is not None:
            self.action(step, at, many=many)
        if step.steps is not None:
            inner = variables
            if step.foreach is not None:
                inner = (*variables, step.foreach.as_)
                self.foreach(step.foreach, (*at, "foreach"), variables)
            self.block(step.steps, (*at, "steps"), inner, ids, many=many or step.foreach is not None)

    def foreach(self, foreach: Foreach, at: Place, variables: tuple[str, ...]) -> None:
        if foreach.as_ in (*ALWAYS_THERE, "steps", *variables):
            self.notes.error((*at, "as"), f"the name {foreach.as_!r} is taken")
        for place, text in texts(foreach.items, (*at, "items")):
            self.names(text, place, variables, early="the items of a foreach")
        self.names(foreach.key, (*at, "key"), (*variables, foreach.as_), early="the key of a foreach")

    def gate(self, step: Step, at: Place, *, many: bool) -> None:
        gate, purpose = str(step.gate), self.runbook.purpose
        place = (*at, "gate")
        if gate in self.gates:
            self.notes.error(place, f"gate {gate!r} stands twice, first in line {self.gates[gate]}")
        self.gates.setdefault(gate, self.notes.line(place))
        if many:
            self.notes.error(place, "a gate inside a foreach would ask the same thing many times")
        if purpose in _UNATTENDED:
            self.notes.error(
                place, f"purpose {purpose} runs unattended; a gate would stop it until somebody looks"
            )
        elif gate != "go" and purpose not in MOVES:
            self.notes.error(
                place, f"gate {gate!r} belongs to a failover, a switchover or a migration, not to a {purpose}"
            )

    def action(self, step: Step, at: Place, *, many: bool) -> None:
        known = self.known((*at, "action"), str(step.action))
        if step.no_way_back:
            self.turning.append((*at, "no_way_back"))
            if many:
                self.notes.error(
                    (*at, "no_way_back"), "inside a foreach there would be many points of no way back"
                )
        if step.undo is not None and step.undo.action:
            undo = self.known((*at, "undo", "action"), step.undo.action)
            if undo is not None:
                self.constants(undo, step.undo.with_, (*at, "undo", "with"))
        if known is None:
            return
        self.constants(known, step.with_, (*at, "with"))
        if known.idempotency == "once" and step.retry is not None and (step.retry.attempts or 2) > 1:
            self.notes.error(
                (*at, "retry"), f"action {known.name} can't be repeated safely, so it takes no retry"
            )
        if known.effect == "destroy" and step.undo is None and not step.no_way_back:
            what = f"action {known.name} destroys and says nothing about undoing it"
            self.notes.warning((*at, "action"), what, "write `undo: false` if that is meant")

    def known(self, at: Place, name: str) -> ActionFacts | None:
        facts = self.catalogue.get(name)
        if facts is None:
            self.notes.error(
                at,
                f"unknown action {name!r}{closest(name, self.catalogue)}",
                "the actions: docs/reference/actions.md",
            )
        return facts

    def constants(self, action: ActionFacts, given: Mapping[str, Any], at: Place) -> None:
        check_input(self.notes, action, {key: _later(value) for key, value in given.items()}, at)

    def expressions(self, step: Step, at: Place, variables: tuple[str, ...]) -> None:
        """Names and grammar of all expressions of a step."""
        if step.when is not None:
            self.names(step.when, (*at, "when"), variables, is_condition=True)
        for key in ("title", "message"):
            text = getattr(step, key)
            if text is not None:
                self.names(text, (*at, key), variables, early=f"a {key}")
        values = [(step.with_, (*at, "with"))]
        if step.undo is not None:
            values.append((step.undo.with_, (*at, "undo", "with")))
        for value, place in values:
            for spot, text in texts(value, place):
                self.names(text, spot, variables)

    def names(
        self, text: str, at: Place, variables: tuple[str, ...], *, is_condition: bool = False, early: str = ""
    ) -> None:
        """Check the grammar and first names of a text; `early` names what must be known before the run."""
        if not is_condition and OPEN not in text:
            return
        known = (*ALWAYS_THERE, "steps", *variables)
        try:
            found = uses(text, is_condition=is_condition)
        except DrpilotError as error:
            self.mistake(at, error.title)
            return
        for reference in found:
            root = reference.path[0]
            if root not in known:
                what = (
                    f"unknown name {root!r} in an expression{closest(root, known)}; known: {', '.join(known)}"
                )
                self.mistake(at, what)
            elif root == "steps" and early:
                self.mistake(at, f"{early} must be known before the run: {reference.dotted} is not")

    def mistake(self, at: Place, message: str) -> None:
        """An expression is wrong for any group."""
        self.notes.misread.add(at)
        self.notes.error(at, message)


def _later(value: Any) -> Any:
    if isinstance(value, str):
        return Later(value) if OPEN in value else value
    if isinstance(value, Mapping):
        return {key: _later(item) for key, item in value.items()}
    return [_later(item) for item in value] if isinstance(value, list) else value


def inspect(runbook: Runbook, notes: Notes, catalogue: Mapping[str, ActionFacts]) -> None:
    """Note everything that is wrong with a runbook for any group."""
    inspector = _Inspector(runbook, notes, catalogue)
    inspector.block(runbook.steps, ("steps",), (), {}, many=False)
    if len(inspector.turning) > 1:
        for place in inspector.turning[1:]:
            notes.error(
                place, f"there is one point of no way back, and line {notes.line(inspector.turning[0])} is it"
            )
    elif runbook.purpose in MOVES and not inspector.turning:
        notes.error(("purpose",), f"a {runbook.purpose} marks exactly one step with no_way_back: true")
