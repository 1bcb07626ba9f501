"""Who waits for whom: `needs` of elements turned into needs of the steps that run, sorted and searched
for cycles.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from drpilot.base.document import closest
from drpilot.runbook.expansion import Block, Element
from drpilot.runbook.inspection import Notes

__all__ = ["Order"]

Leaves = dict[Element, None]  # an ordered set


@dataclass(slots=True)
class Order:
    """The DAG under an unrolled runbook. `needs`: what each step that runs waits for directly."""

    notes: Notes
    root: Block
    needs: dict[Element, tuple[Element, ...]] = field(default_factory=dict)
    above: dict[Element, int] = field(default_factory=dict)  # ancestors as a bit set over `number`
    number: dict[Element, int] = field(default_factory=dict)
    _before: dict[Element, Leaves] = field(default_factory=dict)
    _sinks: dict[Block, Leaves] = field(default_factory=dict)
    _busy: set[Element] = field(default_factory=set)

    def sorted(self) -> tuple[Element, ...]:
        """The steps that run in topological order, the file's order where it is free; cycles are noted."""
        self._link(self.root)
        leaves = list(self.root.leaves())
        self.number = {leaf: index for index, leaf in enumerate(leaves)}
        self.needs = {leaf: tuple(self._predecessors(leaf)) for leaf in leaves}
        waiting = {leaf: len(self.needs[leaf]) for leaf in leaves}
        followers: dict[Element, list[Element]] = {leaf: [] for leaf in leaves}
        for leaf, needs in self.needs.items():
            for need in needs:
                followers[need].append(leaf)
        free = [self.number[leaf] for leaf in leaves if not waiting[leaf]]
        done: list[Element] = []
        while free:
            leaf = leaves[heapq.heappop(free)]
            done.append(leaf)
            self.above[leaf] = 0
            for need in self.needs[leaf]:
                self.above[leaf] |= self.above[need] | 1 << self.number[need]
            for follower in followers[leaf]:
                waiting[follower] -= 1
                if not waiting[follower]:
                    heapq.heappush(free, self.number[follower])
        if len(done) < len(leaves):
            self._cycle([leaf for leaf in leaves if leaf not in self.above])
        return tuple(done)

    def is_above(self, ancestor: Element, leaf: Element) -> bool:
        """Whether `leaf` can only run after `ancestor`."""
        return bool(self.above[leaf] >> self.number[ancestor] & 1)

    def _cycle(self, stuck: Sequence[Element]) -> None:
        """Follow needs among the stuck steps until one comes again."""
        seen: list[Element] = []
        leaf = stuck[0]
        while leaf not in seen:
            seen.append(leaf)
            leaf = next(need for need in self.needs[leaf] if need not in self.above)
        circle = [*seen[seen.index(leaf) :], leaf]
        around = " needs ".join(step.path for step in circle)
        self.notes.error((*circle[0].at, "needs"), f"steps wait for each other: {around}")

    def _link(self, block: Block) -> None:
        """Resolve the `needs` of every element; absent = the step above, [] = at once."""
        previous: Element | None = None
        for element in block.elements.values():
            if element.raw.needs is None:
                element.needs = [previous] if previous is not None else []
            else:
                found = [self._named(element, index, name) for index, name in enumerate(element.raw.needs)]
                element.needs = [need for need in found if need is not None]
            for inner in element.blocks:
                self._link(inner)
            previous = element

    def _named(self, element: Element, index: int, name: str) -> Element | None:
        at = (*element.at, "needs", index)
        need = self._by_path(name) if "/" in name else element.block.find(name)
        if need is None:
            known = [known for known in element.block.names() if known != element.raw.id]
            has = f"; known here: {', '.join(known)}" if known else ""
            self.notes.error(at, f"unknown step {name!r} in needs{closest(name, known)}{has}")
        elif need is element or any(block.owner is need for block in element.block.around()):
            what = "itself" if need is element else f"the group {name!r} it is in"
            self.notes.error(at, f"step {element.raw.id!r} can't wait for {what}")
            return None
        return need

    def _by_path(self, path: str) -> Element | None:
        block, element = self.root, None
        parts = path.split("/")
        while parts:
            element = block.elements.get(parts.pop(0))
            if element is None or not parts:
                return element
            if element.raw.foreach is None:
                inner = element.blocks[:1]
            else:
                key = parts.pop(0)
                inner = [each for each in element.blocks if each.key == key]
            if not inner or not parts:
                return None
            block = inner[0]
        return element

    def _predecessors(self, element: Element) -> Leaves:
        """The steps that run directly before `element`."""
        if element in self._before:
            return self._before[element]
        if element in self._busy:
            return {}  # a cycle through an empty group; the cycle itself is noted by its steps
        self._busy.add(element)
        before: Leaves = {}
        for need in element.needs:
            before |= self._ends(need)
        if not any(element.block in need.block.around() for need in element.needs):
            before |= self._entry(element.block)
        self._busy.discard(element)
        self._before[element] = before
        return before

    def _entry(self, block: Block) -> Leaves:
        """What the first steps of a block wait for: item k of a foreach for the end of item k - parallel."""
        owner = block.owner
        if owner is None:
            return {}
        parallel = owner.raw.foreach.parallel if owner.raw.foreach is not None else 1
        if block.index >= parallel:
            return self._block_ends(owner.blocks[block.index - parallel])
        return self._predecessors(owner)

    def _ends(self, element: Element) -> Leaves:
        """The last steps of an element: itself, or the ends of its lists; of an empty one, what is before
        it.
        """
        if element.leaf:
            return {element: None}
        if not element.blocks:
            return self._predecessors(element)
        parallel = element.raw.foreach.parallel if element.raw.foreach is not None else 1
        ends: Leaves = {}
        for block in element.blocks[-parallel:]:
            ends |= self._block_ends(block)
        return ends

    def _block_ends(self, block: Block) -> Leaves:
        if block in self._sinks:
            return self._sinks[block]
        self._sinks[block] = {}  # stands while a cycle comes back here
        awaited = {
            need for element in block.elements.values() for need in _all_needs(element) if need.block is block
        }
        ends: Leaves = {}
        for element in block.elements.values():
            if element not in awaited:
                ends |= self._ends(element)
        self._sinks[block] = ends
        return ends


def _all_needs(element: Element) -> list[Element]:
    needs = list(element.needs)
    for block in element.blocks:
        for inner in block.elements.values():
            needs += _all_needs(inner)
    return needs
