"""What one kind of cloud understands: operations and their parameters, written as text, checked before sending.

A strict cloud refuses a parameter it does not know, and one set to be lenient drops it silently: then the call
does something else than was asked. So the door compares every call with the table of its dialect first.

One line an operation: its name, then the parameters it takes in botocore's words. A structure is written with
dots (`Ebs.SnapshotId`; lists have no sign of their own), `Tags.*` takes everything below `Tags`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drpilot.domain.plain import Json

__all__ = ["Grammar", "leaves"]


@dataclass(frozen=True, slots=True)
class Grammar:
    """`known` maps `service:Operation` to the parameters it takes, `lacking` to the reason why it is refused."""

    known: Mapping[str, frozenset[str]]
    lacking: Mapping[str, str]

    @classmethod
    def of(cls, service: str, text: str) -> Grammar:
        """From lines `Operation Parameter Parameter …`; an empty line or one beginning with `#` is skipped."""
        table: dict[str, frozenset[str]] = {}
        for line in text.splitlines():
            words = line.split()
            if words and not words[0].startswith("#"):
                name = f"{service}:{words[0]}"
                table[name] = table.get(name, frozenset()) | frozenset(words[1:])
        return cls(table, {})

    def __or__(self, other: Grammar) -> Grammar:
        """Both tables: parameters are added to; what one of them knows the other no longer lacks."""
        known = {
            name: self.known.get(name, frozenset()) | other.known.get(name, frozenset())
            for name in {**self.known, **other.known}
        }
        lacking = {name: why for name, why in {**self.lacking, **other.lacking}.items() if name not in known}
        return Grammar(known, lacking)

    def without(self, why: str, service: str, operations: str) -> Grammar:
        """The same table where `operations` (words) are refused, with the reason."""
        names = {f"{service}:{operation}" for operation in operations.split()}
        known = {name: takes for name, takes in self.known.items() if name not in names}
        return Grammar(known, {**self.lacking, **dict.fromkeys(names, why)})

    def takes(self, name: str, parameter: str) -> bool:
        """Whether `service:Operation` takes the parameter or something below it."""
        return any(
            one == parameter or one.startswith(f"{parameter}.") for one in self.known.get(name, frozenset())
        )

    def unknown(self, name: str, params: Json) -> tuple[str, ...]:
        """The given parameters that the operation does not take, as dotted paths in order."""
        takes = self.known.get(name, frozenset())
        return tuple(dict.fromkeys(path for path in leaves(params) if not _covered(path, takes)))


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of all values in `value`; lists are looked through, an empty one is its own value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for inner in value:
            yield from leaves(inner, path)
    elif path:
        yield path


def _covered(path: str, takes: frozenset[str]) -> bool:
    if path in takes:
        return True
    parts = path.split(".")
    if any(".".join([*parts[:count], "*"]) in takes for count in range(1, len(parts) + 1)):
        return True
    return any(one.startswith(f"{path}.") for one in takes)  # an empty structure or list of what it takes
