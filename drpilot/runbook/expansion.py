"""From steps as written to elements as run: every `foreach` unrolled, every condition on known facts decided.

An element is one step of one list of steps at one place of the unrolled runbook; a block is such a list.
Names are lexical: a step sees its own list and the lists around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drpilot.base.errors import DrpilotError
from drpilot.runbook.expression import bare, condition, evaluate, resolve, uses
from drpilot.runbook.filters import Unfit, text_of
from drpilot.runbook.inspection import Notes, Place
from drpilot.runbook.language import Foreach, Step

__all__ = ["MAX_STEPS", "Block", "Element", "Expansion"]

MAX_STEPS = 5_000
_KEY = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")


@dataclass(eq=False, slots=True)
class Element:
    """A step at one place. `blocks` are its nested lists: one for a group, one an item for a foreach."""

    raw: Step
    at: Place
    path: str
    block: Block
    variables: Mapping[str, Any]
    when: tuple[str, ...] = ()
    left_out: str = ""
    always: bool = False
    blocks: list[Block] = field(default_factory=list)
    needs: list[Element] = field(default_factory=list)

    @property
    def leaf(self) -> bool:
        """Whether it runs itself."""
        return self.raw.steps is None

    def leaves(self) -> Iterator[Element]:
        """The steps that run, in the order of the file."""
        if self.leaf:
            yield self
        for block in self.blocks:
            yield from block.leaves()


@dataclass(eq=False, slots=True)
class Block:
    """A list of steps at one place: for `item` number `index`, called `key`, of a foreach, or the only
    one of a group.
    """

    owner: Element | None = None
    index: int = 0
    key: str | None = None
    item: Any = None
    elements: dict[str, Element] = field(default_factory=dict)

    def leaves(self) -> Iterator[Element]:
        """The steps that run, in the order of the file."""
        for element in self.elements.values():
            yield from element.leaves()

    def find(self, name: str) -> Element | None:
        """The element called `name` in this list or the nearest around it."""
        if name in self.elements:
            return self.elements[name]
        return self.owner.block.find(name) if self.owner is not None else None

    def around(self) -> Iterator[Block]:
        """This block and those around it, innermost first."""
        yield self
        if self.owner is not None:
            yield from self.owner.block.around()

    def names(self) -> list[str]:
        """Every id this block sees."""
        return [name for block in self.around() for name in block.elements]


@dataclass(slots=True)
class Expansion:
    """Unrolls steps over the facts known before the run (`context`)."""

    notes: Notes
    context: Mapping[str, Any]
    count: int = 0

    def unroll(
        self, steps: Sequence[Step], at: Place, block: Block, outer: Element | None, prefix: str
    ) -> Block:
        """Fill `block` with elements; `outer` is the group or foreach whose conditions they inherit."""
        variables = self._variables(outer, block)
        for index, raw in enumerate(steps):
            if raw.id in block.elements:
                continue  # a duplicate id, noted by the inspection
            element = Element(raw, (*at, index), f"{prefix}{raw.id}", block, variables)
            block.elements[raw.id] = element
            self._conditions(element, outer)
            if raw.steps is None:
                self.count += 1
            elif element.left_out:
                continue  # a list whose condition is known to be false adds nothing to the plan
            elif raw.foreach is None:
                inner = Block(element)
                element.blocks.append(
                    self.unroll(raw.steps, (*element.at, "steps"), inner, element, f"{element.path}/")
                )
            else:
                self._repeat(element, raw.foreach, raw.steps)
            if self.count > MAX_STEPS:
                self.notes.error(element.at, f"the plan would have more than {MAX_STEPS} steps")
                break
        return block

    def _variables(self, outer: Element | None, block: Block) -> Mapping[str, Any]:
        if outer is None:
            return {}
        if outer.raw.foreach is None:
            return outer.variables
        return {**outer.variables, outer.raw.foreach.as_: block.item}

    def _conditions(self, element: Element, outer: Element | None) -> None:
        """Inherit the conditions of the group around, and decide the own one where its facts are known."""
        raw = element.raw
        if outer is not None:
            element.when, element.left_out = outer.when, outer.left_out
        element.always = raw.always or (outer is not None and outer.always)
        if raw.when is None or element.left_out:
            return
        scope = {**self.context, **element.variables}
        try:
            if any(use.path[0] == "steps" for use in uses(raw.when, scope, is_condition=True)):
                element.when = (*element.when, bare(raw.when))
            elif not condition(raw.when, scope):
                element.left_out = f"left out: `{raw.when}` is false"
        except DrpilotError as error:
            self.notes.unread((*element.at, "when"), error)

    def _repeat(self, element: Element, foreach: Foreach, steps: Sequence[Step]) -> None:
        at = (*element.at, "foreach")
        for index, (key, item) in enumerate(self._items(element, foreach)):
            block = Block(element, index, key, item)
            element.blocks.append(block)
            self.unroll(steps, (*element.at, "steps"), block, element, f"{element.path}/{key}/")
            if self.count > MAX_STEPS:
                return
        if len({block.key for block in element.blocks}) < len(element.blocks):
            keys = [str(block.key) for block in element.blocks]
            twice = next(key for key in keys if keys.count(key) > 1)
            self.notes.error((*at, "key"), f"key {twice!r} comes from two items; each needs its own")

    def _items(self, element: Element, foreach: Foreach) -> list[tuple[str, Any]]:
        """The items with their keys; empty where they can't be told (noted, unless the step is left out)."""
        at = (*element.at, "foreach")
        scope = {**self.context, **element.variables}
        try:
            items = resolve(foreach.items, scope)
        except DrpilotError as error:
            if not element.left_out:
                self.notes.unread((*at, "items"), error)
            return []
        if not isinstance(items, list):
            self.notes.error(
                (*at, "items"), "the items of a foreach must be a list (a mapping has `| values`)"
            )
            return []
        if len(items) > foreach.max_items:
            what = f"there are {len(items)} items, max_items allows {foreach.max_items}"
            self.notes.error((*at, "max_items"), what)
            return []
        named = [(self._key(foreach.key, {**scope, foreach.as_: item}, (*at, "key")), item) for item in items]
        return [(key, item) for key, item in named if key]

    def _key(self, text: str, scope: Mapping[str, Any], at: Place) -> str:
        try:
            key = text_of(evaluate(text, scope)).replace("/", ":")
        except DrpilotError as error:
            self.notes.unread(at, error)
            return ""
        except Unfit as unfit:
            self.notes.error(at, f"a key must be a text or a number: {unfit}")
            return ""
        if not _KEY.fullmatch(key):
            self.notes.error(
                at, f"key {key[:60]!r} can't stand in a step's path: letters, digits and ._:@+=- can"
            )
            return ""
        return key
