"""How a listing is paged: which parameters take which parts of the last answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jmespath  # type: ignore[import-untyped]
from botocore.model import OperationModel

from drpilot.domain.plain import Json

__all__ = ["Paging"]


@dataclass(frozen=True, slots=True)
class Paging:
    """Page tokens of one operation; `limit` is the parameter that asks for a page size, if there is one."""

    inputs: tuple[str, ...]
    outputs: tuple[Any, ...]
    more: Any
    limit: str | None

    @classmethod
    def of(cls, described: Json) -> Paging:
        """From botocore's description: tokens are names or lists of names, answers are JMESPath."""
        inputs, outputs = described["input_token"], described["output_token"]
        names = [inputs] if isinstance(inputs, str) else inputs
        paths = [outputs] if isinstance(outputs, str) else outputs
        more = described.get("more_results")
        return cls(
            tuple(names),
            tuple(jmespath.compile(path) for path in paths),
            jmespath.compile(more) if more else None,
            described.get("limit_key"),
        )

    @classmethod
    def guessed(cls, model: OperationModel) -> Paging | None:
        """From the operation's own members, where botocore does not describe its paging; None: one page."""
        inputs = model.input_shape.members if model.input_shape is not None else {}
        outputs = model.output_shape.members if model.output_shape is not None else {}
        for asked, answered in (("NextToken", "NextToken"), ("Marker", "NextMarker")):
            if asked in inputs and answered in outputs:
                limit = next(
                    (name for name in ("MaxResults", "MaxRecords", "PageSize") if name in inputs), None
                )
                return cls((asked,), (jmespath.compile(answered),), None, limit)
        return None

    def next_tokens(self, page: Json) -> list[Any]:
        """The parts that ask for the next page; all empty after the last."""
        if self.more is not None and not self.more.search(page):
            return []
        return [output.search(page) or None for output in self.outputs]
