"""A runbook and a group made into a plan: a fixed DAG in topological order, or findings at file:line:column.

What is known before the run is decided here: `foreach` is unrolled, expressions over group, source, target,
point, path and run become values, conditions on them become steps that are left out and say so (`when: "false"`);
a whole list of steps with such a condition is not in the plan at all.
Expressions over the outputs of earlier steps stay as text and are resolved when a step's intent is made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from drpilot.base.document import closest, load, refusal
from drpilot.base.errors import DrpilotError, Finding
from drpilot.base.ids import digest
from drpilot.domain.plain import to_plain
from drpilot.domain.plan import Call, Plan, PlannedStep, Retry
from drpilot.runbook.expansion import Block, Element, Expansion
from drpilot.runbook.expression import ANY, OPEN, Reference, evaluate, literal, uses
from drpilot.runbook.inspection import ActionFacts, CompileFacts, Later, Notes, Place, check_input, inspect
from drpilot.runbook.language import RetryRule, Runbook, Step
from drpilot.runbook.order import Order

__all__ = ["ActionFacts", "Checked", "CompileFacts", "check", "compile", "context_of", "shipped"]

_BURSTS = ("burst", "unburst")


@dataclass(frozen=True, slots=True)
class Checked:
    """A plan with its warnings, or no plan and the errors that stand in the way."""

    plan: Plan | None
    findings: tuple[Finding, ...]


def compile(text: str, file: str, facts: CompileFacts, catalogue: Mapping[str, ActionFacts]) -> Plan:
    """The plan of a runbook for a group; raises DrpilotError `document` with all findings in its `data`."""
    checked = check(text, file, facts, catalogue)
    if checked.plan is None:
        raise refusal(file, checked.findings)
    return checked.plan


def check(text: str, file: str, facts: CompileFacts, catalogue: Mapping[str, ActionFacts]) -> Checked:
    """The plan of a runbook with its warnings, or its errors; never raises for a wrong text."""
    loaded = load(Runbook, text, file)
    if loaded.value is None:
        return Checked(None, loaded.findings)
    notes = Notes(loaded)
    try:
        plan = _Compiler(loaded.value, notes, facts, catalogue).plan(digest(text))
    except RecursionError:
        notes.error(("steps",), "the steps wait for each other over too many groups")
        plan = None
    findings = notes.ordered
    failed = any(finding.severity == "error" for finding in findings)
    return Checked(None if failed else plan, findings)


def context_of(facts: CompileFacts) -> dict[str, Any]:
    """What every expression of a run sees: `group`, `source`, `target`, `point`, `path` and `run`; in a burst
    `run.burst` too.
    """
    run: dict[str, Any] = {
        "name": facts.name,
        "mode": facts.mode,
        "drill": facts.drill,
        "point": facts.point,
        "reason": facts.reason,
    }
    if facts.mode in _BURSTS:
        run["burst"] = dict(facts.burst) or _usual_burst(facts)
    return {
        "group": to_plain(facts.group),
        "source": facts.source,
        "target": facts.target,
        "point": facts.point,
        "path": to_plain(facts.data_path),
        "run": run,
    }


def _usual_burst(facts: CompileFacts) -> dict[str, Any]:
    """What a burst of the group is, as its file says."""
    policy = facts.group.burst
    return {
        "tier": policy.tier if policy else facts.group.tiers[-1].name,
        "capacity": policy.desired if policy else 1,
        "maximum": policy.maximum if policy else 1,
        "weight": policy.weight if policy else 1,
        "lasts_s": policy.longest_s if policy else 3600.0,
        "cause": "hand",
    }


def shipped(name: str) -> tuple[str, str]:
    """The text and file name of a runbook of the shipped library, such as `failover`.

    The library is the package's `_runbooks` in a wheel, `runbooks/` beside the package in the source tree.
    Raises DrpilotError `unknown-file`.
    """
    file = f"{name}.yaml"
    package = resources.files("drpilot")
    places = [package / "_runbooks", Path(str(package)).parent / "runbooks"]
    if re.fullmatch(r"[a-z][a-z0-9_-]*", name):
        for place in places:
            if (place / file).is_file():
                return (place / file).read_text(encoding="utf-8"), file
    known = sorted(
        {each.name.removesuffix(".yaml") for place in places if place.is_dir() for each in place.iterdir()}
    )
    raise DrpilotError(
        "unknown-file", file=f"runbooks/{file}", why=f"shipped are: {', '.join(known) or 'none'}"
    )


@dataclass(slots=True)
class _Reading:
    """The expressions of one step being read: what they see, and the run-time names used with their paths.

    `undoing`: the step itself ended well, so that its own output may be looked at.
    """

    leaf: Element
    scope: Mapping[str, Any]
    undoing: bool = False
    names: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Compiler:
    runbook: Runbook
    notes: Notes
    facts: CompileFacts
    catalogue: Mapping[str, ActionFacts]
    context: dict[str, Any] = field(default_factory=dict)
    order: Order = field(init=False)

    def plan(self, text_digest: str) -> Plan:
        """The plan; only worth running if nothing but warnings was noted."""
        inspect(self.runbook, self.notes, self.catalogue)
        self.context = context_of(self.facts)
        root = Expansion(self.notes, self.context).unroll(self.runbook.steps, ("steps",), Block(), None, "")
        self.order = Order(self.notes, root)
        leaves = self.order.sorted()
        return Plan(
            runbook=self.runbook.runbook,
            runbook_digest=text_digest,
            purpose=self.runbook.purpose,
            group=self.facts.group.name,
            mode=self.facts.mode,
            lane=self.facts.lane,
            source=self.facts.source,
            target=self.facts.target,
            point=self.facts.point,
            steps=tuple(self.step(leaf) for leaf in leaves),
            context=self.context,
            parallel=self.runbook.limits.parallel,
            per_site=self.runbook.limits.per_site,
            slots={
                f"{site} {kind}": count
                for site, kinds in self.facts.slots.items()
                for kind, count in kinds.items()
            },
        )

    def step(self, leaf: Element) -> PlannedStep:
        """One step of the plan."""
        raw = leaf.raw
        reading = _Reading(leaf, {**self.context, **leaf.variables})
        action = self.catalogue.get(raw.action) if raw.action is not None else None
        given: dict[str, Any] = {}
        undo: Call | None = None
        if not leaf.left_out:
            for text in leaf.when:
                self.names(text, (*leaf.at, "when"), reading, is_condition=True)
            given = self.input(action, raw.with_, (*leaf.at, "with"), reading)
            if raw.undo is not None and raw.undo.action:
                reading.undoing = True
                other = self.catalogue.get(raw.undo.action)
                undo = Call(
                    raw.undo.action, self.input(other, raw.undo.with_, (*leaf.at, "undo", "with"), reading)
                )
        sites = self.sites(action, given) if action is not None else ()
        slot = f"{sites[0]} {action.slot}" if action is not None and action.slot and sites else ""
        defaults = self.runbook.defaults
        scope = {**leaf.variables, "steps": reading.names} if reading.names else dict(leaf.variables)
        return PlannedStep(
            path=leaf.path,
            action=raw.action,
            gate=raw.gate,
            given=given,
            needs=tuple(need.path for need in self.order.needs[leaf]),
            position=self.notes.loaded.position(leaf.at),
            title=self.words(raw.title, (*leaf.at, "title"), leaf),
            retry=self.retry(raw, once=action is not None and action.idempotency == "once"),
            timeout_s=raw.timeout or defaults.timeout,
            when="false" if leaf.left_out else _conjunction(leaf.when),
            always=leaf.always,
            on_failure=raw.on_failure or ("pause" if raw.gate else defaults.on_failure),
            no_way_back=raw.no_way_back,
            undo=undo,
            undoes=raw.undoes,
            scope=scope,
            idempotency=action.idempotency if action else "pure",
            effect=action.effect if action else "none",
            protects=action.protects if action else False,
            message=leaf.left_out or self.words(raw.message, (*leaf.at, "message"), leaf),
            sites=sites,
            slot=slot,
        )

    def sites(self, action: ActionFacts, given: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of the sites an action calls. Where only the run will know, it counts at the target."""
        roles = {"source": self.facts.source, "target": self.facts.target}
        found = []
        for word in action.at:
            field = action.input.model_fields.get(word)
            name = word if field is None else str(given.get(word, field.default))
            found.append(self.facts.target if OPEN in name else roles.get(name, name))
        return tuple(dict.fromkeys(found))

    def retry(self, raw: Step, *, once: bool) -> Retry:
        """The step's rule over the runbook's defaults over the engine's own; a `once` action is never
        repeated.
        """
        retry = Retry()
        for rule in (self.runbook.defaults.retry, raw.retry or RetryRule()):
            retry = Retry(
                attempts=rule.attempts or retry.attempts,
                errors=retry.errors if rule.errors is None else rule.errors,
                first_s=rule.backoff.first or retry.first_s,
                factor=rule.backoff.factor or retry.factor,
                max_s=rule.backoff.max or retry.max_s,
                jitter=retry.jitter if rule.backoff.jitter is None else rule.backoff.jitter,
            )
        return (
            Retry(1, retry.errors, retry.first_s, retry.factor, retry.max_s, retry.jitter) if once else retry
        )

    def words(self, text: str | None, at: Place, leaf: Element) -> str:
        """A title or a message, with what is known filled in."""
        if text is None:
            return ""
        try:
            return str(evaluate(text, {**self.context, **leaf.variables}))
        except DrpilotError as error:
            self.notes.unread(at, error)
            return ""

    def input(
        self, action: ActionFacts | None, written: Mapping[str, Any], at: Place, reading: _Reading
    ) -> dict[str, Any]:
        """The input as the plan keeps it; what is known is checked against the action's Input."""
        given = {key: self.value(value, (*at, key), reading) for key, value in written.items()}
        if action is not None:
            check_input(self.notes, action, given, at)
        return {key: _kept(value) for key, value in given.items()}

    def value(self, value: Any, at: Place, reading: _Reading) -> Any:
        """`value` with what is known evaluated; a text over outputs is a `Later`."""
        if isinstance(value, Mapping):
            return {key: self.value(item, (*at, key), reading) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item, (*at, index), reading) for index, item in enumerate(value)]
        if not isinstance(value, str) or OPEN not in value:
            return value
        if self.names(value, at, reading):
            return Later(value)
        try:
            return evaluate(value, reading.scope)
        except DrpilotError as error:
            self.notes.unread(at, error)
            return Later("")

    def names(self, text: str, at: Place, reading: _Reading, *, is_condition: bool = False) -> bool:
        """Check every name of a text; true when it looks at outputs, so that it must wait for the run."""
        scope = reading.scope
        try:
            found = uses(text, scope, is_condition=is_condition)
        except DrpilotError:
            return True  # noted by the inspection
        late = [use for use in found if use.path[0] == "steps"]
        for use in late:
            self.output(use, at, reading)
        for use in found if late else ():
            if use.path[0] != "steps" and use.path[0] in scope and not use.guarded:
                self.fact(use, at, scope)
        return bool(late)

    def fact(self, use: Reference, at: Place, scope: Mapping[str, Any]) -> None:
        """Check that a known value has the item asked for, though the whole text must wait."""
        value: Any = scope
        for index, part in enumerate(use.path):
            if part == ANY:
                return
            inside = value.get(part, self) if isinstance(value, Mapping) else self
            if (
                isinstance(value, list)
                and re.fullmatch(r"-?\d{1,4}", part)
                and -len(value) <= int(part) < len(value)
            ):
                inside = value[int(part)]
            if inside is self:
                has = [str(key) for key in value] if isinstance(value, Mapping) else []
                name = ".".join(use.path[:index])
                self.notes.error(at, f"{name} has no {part!r}{closest(part, has)}")
                return
            value = inside

    def output(self, use: Reference, at: Place, reading: _Reading) -> None:
        """Check a reference to a step: it exists, runs before, and gives that field."""
        leaf = reading.leaf
        if len(use.path) < 2 or ANY in use.path[:2]:
            self.notes.error(at, "an expression names the step it looks at: steps.ID.output.FIELD")
            return
        element = leaf.block.find(use.path[1])
        if element is None:
            what = f"unknown step {use.path[1]!r}{closest(use.path[1], leaf.block.names())}"
            self.notes.error(at, f"{use.dotted}: {what}")
            return
        reading.names[use.path[1]] = element.path
        target, rest = _descend(element, use.path[2:])
        if isinstance(target, str):
            self.notes.error(at, f"{use.dotted}: {target}")
        elif target is leaf and not reading.undoing:
            self.notes.error(at, f"{use.dotted}: a step can't look at its own output")
        elif target is not leaf and not (target in self.order.above and leaf in self.order.above):
            return  # in a cycle, which is noted
        elif target is not leaf and not self.order.is_above(target, leaf):
            what = f"step {target.path} may not have run: it is not among what {leaf.path} needs"
            self.notes.error(at, f"{use.dotted}: {what}")
        else:
            self.field(use, rest, target, at)

    def field(self, use: Reference, rest: tuple[str, ...], target: Element, at: Place) -> None:
        """Check `state` or `output.FIELD` of a step that ran before."""
        if rest == ("state",):
            return
        action = self.catalogue.get(target.raw.action or "")
        if rest[:1] != ("output",) or (target.raw.gate is not None):
            has = "it has: state" if target.raw.gate is not None else "it has: output, state"
            self.notes.error(
                at, f"{use.dotted}: step {target.path} has no {'.'.join(rest) or 'value'!r}; {has}"
            )
        elif action is not None and len(rest) > 1 and rest[1] not in action.output:
            has = f"it has: {', '.join(action.output) or 'nothing'}"
            what = f"action {action.name} has no output {rest[1]!r}{closest(rest[1], action.output)}; {has}"
            self.notes.error(at, f"{use.dotted}: {what}")
        elif (target.when or target.left_out or target.raw.on_failure == "continue") and not use.guarded:
            what = f"step {target.path} may be left out or fail and then has no output"
            self.notes.warning(at, f"{use.dotted}: {what}", "add `| default(…)` or test it with `is defined`")


def _descend(element: Element, path: tuple[str, ...]) -> tuple[Element | str, tuple[str, ...]]:
    """Follow a reference into groups and items to a step that runs: it and what is left, or what is wrong."""
    while not element.leaf:
        block: Block | None = element.blocks[0] if element.raw.foreach is None and element.blocks else None
        if element.raw.foreach is not None:
            key, path = path[:1], path[1:]
            if key == (ANY,):
                return "which item is meant is known only in the run", ()
            keys = {str(each.key): each for each in element.blocks}
            block = keys.get(key[0].replace("/", ":")) if key else None
            if key and block is None:
                has = f"{closest(key[0], keys)}; it has: {', '.join(keys) or 'none'}"
                return f"{element.path} has no item {key[0]!r}{has}", ()
        if block is None or not path:
            return f"{element.path} is a group of steps; name one of its steps", ()
        if path[0] not in block.elements:
            has = ", ".join(block.elements)
            return (
                f"no step {path[0]!r} in {element.path}{closest(path[0], block.elements)}; it has: {has}",
                (),
            )
        element, path = block.elements[path[0]], path[1:]
    return element, path


def _kept(value: Any) -> Any:
    """As the plan stores it: expressions that wait as plain text, data so that it is never taken for one."""
    if isinstance(value, Later):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _kept(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_kept(item) for item in value]
    return literal(value)


def _conjunction(conditions: tuple[str, ...]) -> str | None:
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    return " and ".join(f"({condition})" for condition in conditions)
