"""What the name of an operation says: AWS APIs begin the name with a verb, and few verbs only look."""

from __future__ import annotations

__all__ = ["is_reading"]

_READS = ("Describe", "Get", "Head", "List", "Lookup", "Search", "Test")


def is_reading(operation: str) -> bool:
    """Whether `operation` (its name without the service) only looks; what is not known changes something.

    A convention of the AWS APIs, told by the first word. What one kind of cloud does otherwise stands in its dialect.
    """
    return operation.startswith(_READS)
