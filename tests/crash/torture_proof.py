"""What a tortured run must come to: its journal compared with the ledger of what its steps really did."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from drpilot.journal import chain
from drpilot.journal.journal import Journal
from tests.crash.torture import Entry

__all__ = ["Comparison"]


class Comparison:
    """What the journal says beside what the ledger says. `wrong` names each disagreement."""

    def __init__(self, journal: Journal, run: str, entries: Sequence[Entry]) -> None:
        self.view = journal.view(run)
        self.events = journal.events(run=run)
        self.attempts = {(path, each.number): each for path, each in journal.attempts(run)}
        self.entries = entries
        self.taken = {
            event.body["term"]: event.body["holder"] for event in self.events if event.kind == "acquired"
        }
        chain.verify(run, self.events)

    @property
    def repeated(self) -> int:
        """How many effects were there more than once."""
        return sum(count - 1 for count in Counter(each.path for each in self.entries).values())

    def wrong(self) -> list[str]:
        """Everything that should not be."""
        return [*self._intents(), *self._repeats(), *self._lost(), *self._order(), *self._states()]

    def _intents(self) -> list[str]:
        """Each effect has an intent, durable before it, under the term of who made it, and made it once."""
        wrong = [f"no durable intent: {each}" for each in self.entries if not each.intended]
        for each in self.entries:
            attempt = self.attempts.get((each.path, each.number))
            if attempt is None or (attempt.token, attempt.term) != (each.token, each.term):
                wrong.append(f"of another attempt: {each}")
            if self.taken.get(each.term) != each.who:
                wrong.append(f"term {each.term} was {self.taken.get(each.term)}'s: {each}")
        made = Counter((each.path, each.number) for each in self.entries)
        return wrong + [f"made {count} times: {key}" for key, count in made.items() if count > 1]

    def _repeats(self) -> list[str]:
        """Between two attempts of a step the first was given up, on record: nothing is repeated unnoticed."""
        words: dict[str, list[str]] = defaultdict(list)
        for event in self.events:
            if event.kind == "moved" and event.body["family"] == "step":
                words[event.body["key"].partition(":")[2]].append(event.body["event"])
        wrong = []
        for path, said in words.items():
            begun = [place for place, word in enumerate(said) if word == "attempt started"]
            for first, second in pairwise(begun):
                if "reply lost" not in said[first:second]:
                    wrong.append(f"repeated unnoticed: {path} {said[first : second + 1]}")
        return wrong

    def _lost(self) -> list[str]:
        """Each step is done, and what it says it made is there."""
        wrong = [
            f"{path} is {step.state}" for path, step in self.view.steps.items() if step.state != "succeeded"
        ]
        for path, step in self.view.steps.items():
            place = (step.output or {}).get("place")
            if place is None or self.entries[place].path != path:
                wrong.append(f"lost: {path} says {step.output}")
        return wrong

    def _order(self) -> list[str]:
        """No effect comes before the first one of what its step needs."""
        first: dict[str, int] = {}
        for place, each in enumerate(self.entries):
            first.setdefault(each.path, place)
        never = len(self.entries)
        return [
            f"{path} came before {need}"
            for path, step in self.view.steps.items()
            for need in step.planned.needs
            if first.get(path, never) <= first.get(need, never)
        ]

    def _states(self) -> list[str]:
        """Terms rise one by one, and the history replays to the state."""
        wrong = (
            [] if list(self.taken) == list(range(1, self.view.term + 1)) else [f"terms: {list(self.taken)}"]
        )
        states = chain.replay(self.events)
        for path, step in self.view.steps.items():
            if states.get(("step", f"{self.view.name}:{path}")) != step.state:
                wrong.append(f"history of {path} ends elsewhere")
        return wrong
