"""XML that others wrote, as a tree that knows where in the file each element stood.

A signature covers the bytes of two elements as they stand in the file, so an element carries its range of bytes. The
ranges come from the parser itself: a search for the text of a tag could be led astray by a comment. A document type
is refused, because entities are the one way a small document becomes a large one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from drpilot.base.errors import DrpilotError

__all__ = ["Element", "parse"]

_DEEPEST = 32
_LARGEST_BYTES = 5 << 20  # Eucalyptus 4 reads no manifest beyond 5 MiB


@dataclass(slots=True)
class Element:
    """One element: its text without that of its children, and its bytes as `data[start:end]`."""

    tag: str
    attributes: dict[str, str]
    start: int
    end: int = 0
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, tag: str) -> Element | None:
        """The only child called `tag`, None where there is none; ValueError where there are several."""
        found = [one for one in self.children if one.tag == tag]
        if len(found) > 1:
            raise ValueError(f"<{self.tag}> has more than one <{tag}>")
        return found[0] if found else None

    def all(self, tag: str) -> Iterator[Element]:
        """The children called `tag`, in their order."""
        return (one for one in self.children if one.tag == tag)

    def value(self, tag: str, default: str | None = None) -> str:
        """The text of a child without blanks around it; ValueError where it is missing and has no default."""
        found = self.child(tag)
        if found is None:
            if default is None:
                raise ValueError(f"<{self.tag}> has no <{tag}>")
            return default
        return found.text.strip()


class _Builder:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._open: list[Element] = []
        self.root: Element | None = None
        # The declared encoding is not followed: only UTF-8 and its subset ASCII were ever written.
        self.parser = expat.ParserCreate("utf-8")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= _DEEPEST:
            raise ValueError("its elements are nested too deeply")
        element = Element(tag, attributes, self.parser.CurrentByteIndex)
        if self._open:
            self._open[-1].children.append(element)
        elif self.root is None:
            self.root = element
        self._open.append(element)

    def _end(self, tag: str) -> None:
        element = self._open.pop()
        element.end = self._data.index(b">", self.parser.CurrentByteIndex) + 1

    def _characters(self, text: str) -> None:
        if self._open:
            self._open[-1].text += text

    def _doctype(self, *_: object) -> None:
        raise ValueError("it has a document type")


def parse(data: bytes, file: str) -> Element:
    """The root element of `data`; raises `manifest-malformed`, with `file` as the name people know it by."""
    try:
        if len(data) > _LARGEST_BYTES:
            raise ValueError(f"it is longer than {_LARGEST_BYTES >> 20} MiB")
        builder = _Builder(data)
        builder.parser.Parse(data, True)
    except (expat.ExpatError, ValueError) as error:
        raise DrpilotError("manifest-malformed", file=file, what=str(error)) from error
    if builder.root is None:  # expat itself refuses a document without a root
        raise DrpilotError("manifest-malformed", file=file, what="it is empty")
    return builder.root
