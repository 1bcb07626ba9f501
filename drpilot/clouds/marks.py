"""Tags for clouds whose create calls take none: they ride in the description until CreateTags has set them.

Between a create call and the CreateTags after it a process may die, and nothing but the description then says
whose the new thing is. So it carries all of drpilot's tags in one line of at most 255 characters, the least any of
these clouds keeps:

    drpilot:RUN/STEP/ATTEMPT group=shop member=db tier=db

and a listing asked for by our tags is completed with what carries no tag of ours but such a description. A mark
that is longer loses whole pairs from its end, never a part of RUN, STEP and ATTEMPT, which find the thing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from drpilot.domain.plain import Json

__all__ = ["asked_by_mark", "completed", "packed", "tags_for", "unpacked"]

LIMIT = 255
_OURS = "drpilot:"
_FIRST = ("drpilot:run", "drpilot:step", "drpilot:attempt")
# EC2 takes letters, digits, spaces and ._-:/()#,@[]+=&;{}!$* in a group's description (CreateSecurityGroup).
_SAFE = "/:@._-"


def tags_for(params: Json, kind: str) -> tuple[dict[str, str], Json]:
    """The tags a create call wants on what it makes, and the call's parameters without tags."""
    rest = {name: value for name, value in params.items() if name != "TagSpecifications"}
    given = params.get("TagSpecifications") or []
    wanted = [one for one in given if one.get("ResourceType", kind) == kind]
    return {tag["Key"]: tag.get("Value", "") for one in wanted for tag in one.get("Tags") or []}, rest


def packed(tags: Mapping[str, str], text: str = "") -> str:
    """The tags of ours as one line, then `text` if it is not a mark itself and fits; `text` alone without ours."""
    ours = {key: value for key, value in tags.items() if key.startswith(_OURS)}
    if not all(key in ours for key in _FIRST):
        return text
    line = _OURS + "/".join(_written(ours[key]) for key in _FIRST)
    pairs = [
        f"{_written(key.removeprefix(_OURS))}={_written(ours[key])}"
        for key in sorted(ours)
        if key not in _FIRST
    ]
    words = [] if text.startswith(_OURS) else [f"- {text}"]
    for part in [*pairs, *(words if text else [])]:
        if len(line) + 1 + len(part) <= LIMIT:
            line = f"{line} {part}"
    return line


def unpacked(text: str) -> dict[str, str] | None:
    """The tags a mark holds, or None where the text is none."""
    if not text.startswith(_OURS):
        return None
    head, _, tail = text.removeprefix(_OURS).partition(" ")
    run, slash, rest = head.partition("/")
    step, last, attempt = rest.rpartition("/")
    if not (slash and last and run and step and attempt):
        return None
    tags = dict(zip(_FIRST, map(_read, (run, step, attempt)), strict=True))
    for part in f" {tail}".split(" - ", 1)[0].split():
        key, equals, value = part.partition("=")
        if equals:
            tags[_OURS + _read(key)] = _read(value)
    return tags


def asked_by_mark(params: Json) -> Json | None:
    """The same question put to descriptions, for a listing asked for by tags of ours; None for any other."""
    filters = params.get("Filters") or []
    ours = [one for one in filters if _key(one) is not None]
    if not ours:
        return None
    others = [one for one in filters if _key(one) is None]
    return {**params, "Filters": [*others, {"Name": "description", "Values": [f"{_OURS}*"]}]}


def completed(found: Iterable[Json], params: Json) -> list[Json]:
    """Of what was found by description: what has no tag of ours and answers the question, with its tags put in."""
    filters = [one for one in params.get("Filters") or [] if _key(one) is not None]
    answers = []
    for item in found:
        listed = item.get("Tags") or []
        if any(tag["Key"].startswith(_OURS) for tag in listed):
            continue
        tags = unpacked(str(item.get("Description") or ""))
        if tags is not None and all(_fits(tags, one) for one in filters):
            written = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
            answers.append({**item, "Tags": [*listed, *written]})
    return answers


def _key(one: Json) -> str | None:
    """The tag of ours that a filter asks for, or None."""
    name = str(one.get("Name"))
    if name == "tag-key":
        values = one.get("Values") or []
        return str(values[0]) if values and all(str(value).startswith(_OURS) for value in values) else None
    return name.removeprefix("tag:") if name.startswith(f"tag:{_OURS}") else None


def _fits(tags: Mapping[str, str], one: Json) -> bool:
    values = one.get("Values") or []
    if one.get("Name") == "tag-key":
        return any(value in tags for value in values)
    return tags.get(str(_key(one))) in values


def _written(text: str) -> str:
    return quote(text, safe=_SAFE).replace("~", "%7E").replace("%", "+")


def _read(text: str) -> str:
    return unquote(text.replace("+", "%"))
