"""Client tokens: repeated calls with one token have one effect (EC2 API reference, Ensuring idempotency).

The same token with the same parameters gives the first call's answer again; with other parameters it is
refused as IdempotentParameterMismatch. A token is forgotten after 24 hours of lab time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from drpilot.lab.cloud import Cloud
from drpilot.lab.refusal import Refusal

__all__ = ["once"]

_KEPT_S = 86_400
_NOT_COMPARED = frozenset({"ClientToken", "DryRun", "PresignedUrl"})


def once(
    cloud: Cloud,
    operation: str,
    params: Mapping[str, Any],
    make: Callable[[], dict[str, Any]],
    *,
    again: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Run `make` unless the call's ClientToken was used before. `make` gives a JSON-able answer that is kept;
    `again` turns a kept answer into what a repeat gets, e.g. with the present states, and may refuse.
    """
    token = params.get("ClientToken")
    if not token:
        return make()
    if len(token) > 64 or not token.isascii():
        raise Refusal("InvalidParameterValue", "The client token must be at most 64 ASCII characters long")
    digest = _digest(params)
    tokens = cloud.table("tokens")
    key = f"{operation}:{token}"
    known = tokens.get(key)
    if known is not None and known["at"] + _KEPT_S > cloud.now():
        if known["digest"] != digest:
            raise Refusal(
                "IdempotentParameterMismatch",
                "The client token you have provided is associated with a request that has different "
                "parameters",
            )
        kept: dict[str, Any] = known["answer"]
        return again(kept) if again is not None else kept
    answer = make()
    for old, row in list(tokens.peek().items()):  # in the order of their use
        if row["at"] + _KEPT_S > cloud.now():
            break
        del tokens[old]
    tokens[key] = {"digest": digest, "at": cloud.now(), "answer": answer}
    return answer


def _digest(params: Mapping[str, Any]) -> str:
    compared = {key: value for key, value in params.items() if key not in _NOT_COMPARED}
    return hashlib.sha256(json.dumps(compared, sort_keys=True, default=str).encode()).hexdigest()
