"""Expressions in runbooks: Jinja2's grammar between `${{` and `}}`, a short list of what may stand there,
and an evaluator of our own.

Only Jinja2's parser is used (jinja.palletsprojects.com, templates, "Expressions"); its tree is walked here,
no code is generated. So a dot is always an item of a mapping, never an attribute of a Python object
(`steps.copy` is the step called copy), a missing name is an error, and nothing can loop, call, multiply or
grow without bound.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from jinja2 import Environment, nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.parser import Parser

from drpilot.base.document import closest
from drpilot.base.errors import DrpilotError
from drpilot.domain.plan import Plan, PlannedStep
from drpilot.runbook.filters import FILTERS, MAX_TEXT, TESTS, Unfit, text_of

__all__ = [
    "ANY",
    "Reference",
    "bare",
    "condition",
    "evaluate",
    "literal",
    "references",
    "resolve",
    "scope_of",
    "uses",
]

OPEN, CLOSE = "${{", "}}"
MAX_EXPRESSION = 2_000  # characters
MAX_NESTING = 24
MAX_NODES = 300
ANY = "*"  # a part of a reference that is known only when the expression is evaluated

_ENVIRONMENT = Environment(autoescape=False)  # parses only, renders nothing
_REFUSED = {
    "Call": "calls are not part of expressions; use a filter",
    "Mul": "multiplication is not part of expressions",
    "Pow": "powers are not part of expressions",
    "Slice": "slices are not part of expressions",
}


class _Missing(Exception):
    """A name or an item that is not there; `default` and `is defined` catch it."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A name an expression looks up, part by part. `guarded`: inside `default` or `is defined`, so it may
    be absent.
    """

    path: tuple[str, ...]
    guarded: bool = False

    @property
    def dotted(self) -> str:
        """`steps.copy.output.size`."""
        return ".".join(self.path)


# -- what the engine and the compiler ask ----------------------------------------------------------


def references(text: str) -> set[str]:
    """The dotted paths that the `${{ }}` expressions of `text` look up; a computed part is `*`."""
    return {reference.dotted for reference in uses(text)}


def uses(
    text: str, scope: Mapping[str, Any] | None = None, *, is_condition: bool = False
) -> tuple[Reference, ...]:
    """The references of `text` in order; a condition such as `when` is one expression without delimiters.

    A computed part (`steps.tiers[tier.name]`) is evaluated over `scope`, else it is `*`. Raises DrpilotError
    `runbook` when the text can't be understood.
    """
    found: list[Reference] = []
    for piece in (_parsed(bare(text)),) if is_condition else _pieces(text):
        if isinstance(piece, nodes.Node):
            found += _uses(piece, scope or {}, guarded=False)
    return tuple(dict.fromkeys(found))


def evaluate(text: str, scope: Mapping[str, Any]) -> Any:
    """`text` with its expressions filled in. A text that is exactly one expression gives a value of any
    JSON type.

    Raises DrpilotError `runbook` naming the expression and what is wrong with it.
    """
    pieces = _pieces(text)
    if len(pieces) == 1 and isinstance(pieces[0], nodes.Node):
        return _evaluated(pieces[0], text, scope)
    parts = []
    for piece in pieces:
        try:
            parts.append(piece if isinstance(piece, str) else text_of(_evaluated(piece, text, scope)))
        except Unfit as unfit:
            raise _wrong(text, str(unfit)) from unfit
    return "".join(parts)


def resolve(value: Any, scope: Mapping[str, Any]) -> Any:
    """`value` with every text in it evaluated, through mappings and lists; keys stay as they are."""
    if isinstance(value, str):
        return evaluate(value, scope) if OPEN in value else value
    if isinstance(value, Mapping):
        return {key: resolve(item, scope) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolve(item, scope) for item in value]
    return value


def condition(text: str, scope: Mapping[str, Any]) -> bool:
    """The truth of `when`: one expression, without delimiters, that gives true or false and nothing else."""
    value = _evaluated(_parsed(bare(text)), text, scope)
    if not isinstance(value, bool):
        raise _wrong(
            text, f"gives {_shown(value)}, which is neither true nor false; compare it with something"
        )
    return value


def literal(value: Any) -> Any:
    """`value` so written that `resolve` gives it back: a `${{` in data is data, not an expression."""
    if isinstance(value, str):
        return value.replace(OPEN, "${{ '${{' }}")
    if isinstance(value, Mapping):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    return value


def scope_of(plan: Plan, step: PlannedStep, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the expressions of `step` see at run time.

    `results` gives, by step path, what is known of the steps that ended: `{"output": …, "state": …}`. The
    compiler froze into `step.scope["steps"]` which names the step uses and the paths they stand for.
    """
    frozen = {name: value for name, value in step.scope.items() if name != "steps"}
    steps = {name: _beneath(path, results) for name, path in step.scope.get("steps", {}).items()}
    return {**plan.context, **frozen, "steps": {name: found for name, found in steps.items() if found}}


def bare(text: str) -> str:
    """A condition without the delimiters it may have been written in."""
    inner = text.strip()
    if inner.startswith(OPEN) and _end(inner, len(OPEN)) == len(inner) - len(CLOSE):
        inner = inner[len(OPEN) : -len(CLOSE)].strip()
    return inner


def _beneath(path: str, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    if path in results:
        return dict(results[path])
    tree: dict[str, Any] = {}
    for other, result in results.items():
        if other.startswith(f"{path}/"):
            *groups, leaf = other[len(path) + 1 :].split("/")
            node = tree
            for part in groups:
                node = node.setdefault(part, {})
            node[leaf] = dict(result)
    return tree


# -- text to trees ---------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _pieces(text: str) -> tuple[str | nodes.Expr, ...]:
    pieces: list[str | nodes.Expr] = []
    position = 0
    while (start := text.find(OPEN, position)) >= 0:
        end = _end(text, start + len(OPEN))
        if end < 0:
            raise _wrong(text[start:], "has no closing }}")
        if start > position:
            pieces.append(text[position:start])
        pieces.append(_parsed(text[start + len(OPEN) : end]))
        position = end + len(CLOSE)
    if position < len(text) or not pieces:
        pieces.append(text[position:])
    return tuple(pieces)


def _end(text: str, position: int) -> int:
    """Where the `}}` stands that closes an expression: outside of quotes and brackets; -1 where there is
    none.
    """
    depth, quote = 0, ""
    while position < len(text):
        character = text[position]
        if quote:
            position += character == "\\"
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            if depth == 0 and text.startswith(CLOSE, position):
                return position
            depth -= 1
        position += 1
    return -1


@lru_cache(maxsize=4096)
def _parsed(source: str) -> nodes.Expr:
    if len(source) > MAX_EXPRESSION:
        raise _wrong(source, f"is longer than {MAX_EXPRESSION} characters")
    try:
        parser = Parser(_ENVIRONMENT, source.strip(), state="variable")
        node = parser.parse_expression()
        if not parser.stream.eos:
            raise _wrong(source, f"goes on where it should end, at {parser.stream.current.value!r}")
    except TemplateSyntaxError as error:
        raise _wrong(source, f"can't be understood: {error.message}") from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise _wrong(source, "is nested too deeply or holds a number that is too long") from error
    _admit(node, source)
    return node


def _admit(root: nodes.Node, source: str) -> None:
    """Refuse every node, filter and test that is not on the list, and trees that are too large."""
    queue, count = [(root, 0)], 0
    while queue:
        node, depth = queue.pop()
        count += 1
        kind = type(node).__name__
        if not isinstance(node, _ALLOWED):
            raise _wrong(source, _REFUSED.get(kind, f"uses {kind}, which is not part of expressions"))
        if depth > MAX_NESTING or count > MAX_NODES:
            raise _wrong(source, "is too large")
        if isinstance(node, nodes.Const):
            _admit_constant(node.value, source)
        if isinstance(node, (nodes.Filter, nodes.Test)):
            _admit_call(node, source)
        queue += [(child, depth + 1) for child in node.iter_child_nodes()]


def _admit_constant(value: Any, source: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(source, "holds a number that is too large")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise _wrong(source, "holds half a character") from None


def _admit_call(node: nodes.Filter | nodes.Test, source: str) -> None:
    kind, table = ("filter", FILTERS) if isinstance(node, nodes.Filter) else ("test", TESTS)
    known = sorted([*table, *(("default",) if kind == "filter" else ("defined", "undefined"))])
    if node.name not in known:
        raise _wrong(
            source, f"there is no {kind} {node.name!r}{closest(node.name, known)}; known: {', '.join(known)}"
        )
    if node.kwargs or node.dyn_args or node.dyn_kwargs:
        raise _wrong(source, f"{kind} {node.name!r} takes no named arguments")
    fewest, most = (1, 1) if node.name == "default" else (0, 0)
    if node.name in table:
        fewest, most = table[node.name].arguments
    if not fewest <= len(node.args) <= most:
        wanted = str(most) if fewest == most else f"{fewest} to {most}"
        raise _wrong(source, f"{kind} {node.name!r} takes {wanted} arguments, not {len(node.args)}")


# -- trees to values -------------------------------------------------------------------------------


def _evaluated(node: nodes.Expr, text: str, scope: Mapping[str, Any]) -> Any:
    try:
        return _value(node, scope)
    except _Missing as missing:
        raise _wrong(text, str(missing)) from missing
    except Unfit as unfit:
        raise _wrong(text, str(unfit)) from unfit


def _value(node: nodes.Node, scope: Mapping[str, Any]) -> Any:
    return _EVALUATORS[type(node)](node, scope)


def _known(node: nodes.Name, scope: Mapping[str, Any]) -> Any:
    if node.name not in scope:
        raise _Missing(f"{node.name!r} is not known{closest(node.name, scope)}; known: {', '.join(scope)}")
    return scope[node.name]


def _dict(node: nodes.Dict, scope: Mapping[str, Any]) -> dict[str, Any]:
    return {text_of(_value(pair.key, scope)): _value(pair.value, scope) for pair in node.items}


def _chosen(node: nodes.CondExpr, scope: Mapping[str, Any]) -> Any:
    if _value(node.test, scope):
        return _value(node.expr1, scope)
    if node.expr2 is None:
        raise _Missing("an `if` without `else` has no value here")
    return _value(node.expr2, scope)


def _item(owner: nodes.Node, base: Any, key: Any) -> Any:
    name = ".".join(_path(owner, {}))
    if isinstance(base, Mapping):
        if isinstance(key, (str, int, float)) and key in base:
            return base[key]
        has = ", ".join(str(each) for each in list(base)[:12]) or "nothing"
        raise _Missing(
            f"{name} has no {key!r}{closest(str(key), [str(each) for each in base])}; it has: {has}"
        )
    if isinstance(base, (list, tuple)) and isinstance(key, int) and not isinstance(key, bool):
        if -len(base) <= key < len(base):
            return base[key]
        raise _Missing(f"{name} has {len(base)} items, none at {key}")
    raise _Missing(f"{name} is {_shown(base)}, it has no {key!r}")


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}


def _compared(node: nodes.Compare, scope: Mapping[str, Any]) -> bool:
    left = _value(node.expr, scope)
    for operand in node.ops:
        right = _value(operand.expr, scope)
        try:
            if not _COMPARISONS[operand.op](left, right):
                return False
        except TypeError as error:
            raise Unfit(f"{_shown(left)} and {_shown(right)} can't be compared") from error
        left = right
    return True


def _filtered(node: nodes.Filter, scope: Mapping[str, Any]) -> Any:
    base = cast("nodes.Expr", node.node)  # only a filter block has none, and blocks are no expressions
    if node.name == "default":
        try:
            return _value(base, scope)
        except _Missing:
            return _value(node.args[0], scope)
    value = _value(base, scope)
    return FILTERS[node.name].apply(value, *(_value(argument, scope) for argument in node.args))


def _tested(node: nodes.Test, scope: Mapping[str, Any]) -> bool:
    if node.name in ("defined", "undefined"):
        try:
            _value(node.node, scope)
        except _Missing:
            return node.name == "undefined"
        return node.name == "defined"
    return bool(TESTS[node.name].apply(_value(node.node, scope)))


def _concatenated(node: nodes.Concat, scope: Mapping[str, Any]) -> str:
    joined = "".join(text_of(_value(part, scope)) for part in node.nodes)
    if len(joined) > MAX_TEXT:
        raise Unfit(f"the text would be longer than {MAX_TEXT} characters")
    return joined


def _added(node: nodes.BinExpr, scope: Mapping[str, Any]) -> Any:
    left, right = _number(_value(node.left, scope)), _number(_value(node.right, scope))
    return left + right if isinstance(node, nodes.Add) else left - right


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unfit(f"{_shown(value)} is no number (texts are joined by ~)")
    return value


_EVALUATORS: Mapping[type[nodes.Node], Callable[[Any, Mapping[str, Any]], Any]] = {
    nodes.Add: _added,
    nodes.And: lambda node, scope: _value(node.left, scope) and _value(node.right, scope),
    nodes.Compare: _compared,
    nodes.Concat: _concatenated,
    nodes.CondExpr: _chosen,
    nodes.Const: lambda node, scope: node.value,
    nodes.Dict: _dict,
    nodes.Filter: _filtered,
    nodes.Getattr: lambda node, scope: _item(node.node, _value(node.node, scope), node.attr),
    nodes.Getitem: lambda node, scope: _item(node.node, _value(node.node, scope), _value(node.arg, scope)),
    nodes.List: lambda node, scope: [_value(item, scope) for item in node.items],
    nodes.Name: _known,
    nodes.Neg: lambda node, scope: -_number(_value(node.node, scope)),
    nodes.Not: lambda node, scope: not _value(node.node, scope),
    nodes.Or: lambda node, scope: _value(node.left, scope) or _value(node.right, scope),
    nodes.Sub: _added,
    nodes.Test: _tested,
    nodes.Tuple: lambda node, scope: [_value(item, scope) for item in node.items],
}
_ALLOWED: tuple[type[nodes.Node], ...] = (*_EVALUATORS, nodes.Operand, nodes.Pair)


# -- references ------------------------------------------------------------------------------------


def _uses(node: nodes.Node, scope: Mapping[str, Any], *, guarded: bool) -> Iterator[Reference]:
    if isinstance(node, (nodes.Getattr, nodes.Getitem, nodes.Name)):
        path = _path(node, scope)
        if path[0] != ANY:
            yield Reference(path, guarded)
        yield from _inner_uses(node, scope, guarded=guarded)
        return
    tests = isinstance(node, nodes.Test) and node.name in ("defined", "undefined")
    defaults = isinstance(node, nodes.Filter) and node.name == "default"
    for index, child in enumerate(node.iter_child_nodes()):
        shielded = (tests or defaults) and index == 0
        yield from _uses(child, scope, guarded=guarded or shielded)


def _inner_uses(node: nodes.Node, scope: Mapping[str, Any], *, guarded: bool) -> Iterator[Reference]:
    """References inside the subscripts of a chain, and in its base where that is no name."""
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        if isinstance(node, nodes.Getitem):
            yield from _uses(node.arg, scope, guarded=guarded)
        node = node.node
    if not isinstance(node, nodes.Name):
        yield from _uses(node, scope, guarded=guarded)


def _path(node: nodes.Node, scope: Mapping[str, Any]) -> tuple[str, ...]:
    parts: list[str] = []
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        if isinstance(node, nodes.Getattr):
            parts.append(node.attr)
        else:
            try:
                parts.append(str(_value(node.arg, scope)))
            except (_Missing, Unfit):
                parts.append(ANY)
        node = node.node
    parts.append(node.name if isinstance(node, nodes.Name) else ANY)
    return tuple(reversed(parts))


def _shown(value: Any) -> str:
    text = (
        "a mapping"
        if isinstance(value, Mapping)
        else "a list"
        if isinstance(value, (list, tuple))
        else repr(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrong(source: str, what: str) -> DrpilotError:
    shown = source.strip() if len(source) <= 120 else f"{source.strip()[:117]}..."
    return DrpilotError(
        "runbook", what=f"expression {shown!r}: {what}", hint="see docs/reference/runbooks.md, expressions"
    )
