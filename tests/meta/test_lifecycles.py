"""The state tables: sound as graphs, and every (state, event) pair behaves exactly as the table says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drpilot.base.errors import DrpilotError
from drpilot.domain.machine import fire, permitted
from drpilot.domain.states import FAMILIES, NEW, Family, Transition

families = pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
# Final states answer to nothing but these: a person may undo what succeeded.
AFTER_THE_END = {"step": {"undo"}}


def all_facts(family: Family) -> dict[str, bool]:
    """Every fact that any guard of the family asks for, needed or forbidden."""
    return {name: True for t in family.transitions for name in (*t.needs, *t.forbids)}


def expected(family: Family, state: str, event: str, facts: dict[str, bool]) -> str | None:
    """The target by reading the table: the first row whose guard holds; None where there is none."""
    for row in family.transitions:
        if state in row.sources and row.event == event:
            holds = all(facts.get(need) for need in row.needs) and not any(facts.get(f) for f in row.forbids)
            if holds:
                return row.target
    return None


def guesses(family: Family, state: str, event: str) -> Iterator[dict[str, bool]]:
    """Facts worth trying: none, all, exactly a row's needs, those less one, those and one that is forbidden."""
    yield {}
    yield all_facts(family)
    for row in rows(family, state, event):
        needed = dict.fromkeys(row.needs, True)
        yield needed
        for name in row.needs:
            yield {**needed, name: False}
        for name in row.forbids:
            yield {**needed, name: True}


def rows(family: Family, state: str, event: str) -> list[Transition]:
    return [t for t in family.transitions if state in t.sources and t.event == event]


def beginnings() -> list[tuple[Family, str]]:
    return [(family, state) for family in FAMILIES.values() for state in (NEW, *family.words)]


def check(family: Family, state: str, event: str, facts: dict[str, bool]) -> None:
    target = expected(family, state, event, facts)
    assert permitted(family.name, state, event, facts) == (target is not None), (event, facts)
    if target is not None:
        assert fire(family.name, "it", state, event, facts) == target, (event, facts)
        return
    with pytest.raises(DrpilotError) as refused:
        fire(family.name, "it", state, event, facts)
    assert refused.value.word == "transition-refused"
    assert ("needed" in refused.value.why) == bool(rows(family, state, event))


@pytest.mark.row(1)
@pytest.mark.parametrize(
    ("family", "state"),
    beginnings(),
    ids=[f"{family.name}-{state or 'new'}" for family, state in beginnings()],
)
def test_every_pair(family: Family, state: str) -> None:
    """From this state each event leads where the table says if its guard holds, and is refused with the reason else."""
    for event in family.events:
        for facts in guesses(family, state, event):
            check(family, state, event, facts)


@families
def test_an_unknown_event_is_refused(family: Family) -> None:
    """An event of another family is refused, not ignored."""
    for state in (NEW, *family.words):
        with pytest.raises(DrpilotError):
            fire(family.name, "it", state, "no such event", all_facts(family))


@families
def test_words_and_numbers_are_unique(family: Family) -> None:
    """State words and numbers name one state each, and the words are used in the table."""
    numbers = [state.number for state in family.states]
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers)
    assert len(set(family.words)) == len(family.words)
    assert all(state.sentence for state in family.states)


@families
def test_every_destination_exists(family: Family) -> None:
    """Sources and targets are states of the family; transitions itself would accept any word."""
    known = {NEW, *family.words}
    for row in family.transitions:
        assert row.target in family.words
        assert set(row.sources) <= known


@families
def test_every_state_is_reached(family: Family) -> None:
    """Each state can be reached from the beginning."""
    born = any(NEW in row.sources for row in family.transitions)
    reached = {NEW} if born else {family.words[0]}
    while more := {t.target for t in family.transitions if reached & set(t.sources)} - reached:
        reached |= more
    assert set(family.words) - reached == set()


@families
def test_no_state_is_a_trap(family: Family) -> None:
    """Each state that is not final has a way out to another state; a final one has none but the listed."""
    for state in family.states:
        exits = {t.event for t in family.transitions if state.word in t.sources and t.target != state.word}
        if state.final:
            assert exits <= AFTER_THE_END.get(family.name, set()), state.word
        else:
            assert exits, f"{state.word} is a trap"


@families
def test_no_row_is_hidden(family: Family) -> None:
    """Two rows for one pair differ in their guards, so that the second can ever be taken."""
    for state in (NEW, *family.words):
        for event in family.events:
            guards = [(t.needs, t.forbids) for t in rows(family, state, event)]
            assert len(set(guards)) == len(guards), (state, event)


def test_released_numbers_stay() -> None:
    """Numbers that monitoring may have stored keep their words (version 0.1)."""
    first = {
        family.name: {s.number: s.word for s in family.states if s.number <= 3}
        for family in FAMILIES.values()
    }
    assert first == {
        "point": {1: "requested", 2: "capturing", 3: "copying"},
        "standby": {1: "absent", 2: "building", 3: "ready"},
        "group": {1: "seeding", 2: "protected", 3: "degraded"},
        "run": {1: "created", 2: "running", 3: "waiting"},
        "step": {1: "pending", 2: "ready", 3: "running"},
        "fence": {1: "none", 2: "requested", 3: "applying"},
        "burst": {1: "none", 2: "scaling_out", 3: "serving"},
    }
