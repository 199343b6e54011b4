"""A JSON document with a list of triples, or one object after another, decoded one triple at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from kblam.errors import TripleFormatError
from kblam.knowledge.files.json_lines import DECODER
from kblam.knowledge.files.lines import decode, refuse_other_encodings
from kblam.knowledge.triples import FIELD_NAMES, Triple
from kblam.strict_json import problem

_SPACE = re.compile("[ \t\r\n]*")
NAMES_OF_ENTITIES = frozenset(FIELD_NAMES["name"])


class _JsonText:
    """A JSON text read value by value, so that each triple has a line and no tree of all of them is built."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.at = path, text, 0
        self._line, self._counted = 1, 0

    def line(self) -> int:
        """The line of the next character. Counts onwards from the last call, so that a file is counted once."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        space = _SPACE.match(self.text, self.at)
        assert space is not None
        self.at = space.end()
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """Step over the next character, which must be one of `expected`."""
        found = self.peek()
        if not found or found not in expected:
            wanted = " or ".join(repr(character) for character in expected)
            self.fail(f"not JSON: expected {wanted}, found {found!r}" if found else f"ends before {wanted}")
        self.at += 1
        return found

    def value(self) -> object:
        self.peek()
        try:
            decoded, self.at = DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            self.at = error.pos
            column = error.colno
            self.fail(f"not JSON: {error.msg} at column {column}")
        except (ValueError, RecursionError) as error:
            self.fail(problem(error))
        return decoded

    def fail(self, message: str) -> NoReturn:
        raise TripleFormatError(message, path=self.path, line=self.line())

    def back_to(self, at: int) -> None:
        """Reads again from an earlier place."""
        self.at = at
        self._line, self._counted = 1, 0

    def items(self) -> Iterator[tuple[int, object]]:
        """(line, value) of each element of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            self.peek()
            line = self.line()
            yield line, self.value()
            if self.take(",]") == "]":
                return


def read_json(path: Path) -> Iterator[tuple[int, object]]:
    raw = path.read_bytes()
    refuse_other_encodings(path, raw)
    text = _JsonText(path, decode(path, raw.removeprefix(codecs.BOM_UTF8), first_line=1))
    del raw
    start = text.peek()
    if not start:
        raise TripleFormatError("the file is empty; it needs at least one triple", path=path)
    if start == "[":
        yield from text.items()
    elif start == "{":
        yield from _object_or_objects(text)
    else:
        text.fail('expected a list of triples, or {"triples": [...]}')
    if text.peek():
        text.fail("not JSON: more text after the end of the document")


def _object_or_objects(text: _JsonText) -> Iterator[tuple[int, object]]:
    """What is in the "triples" of the object that begins here; without such a list, this object and those after it.

    One object after another is what upstream's generator writes, into files named .json.
    """
    begin = text.at
    if (yield from _members(text)):
        return
    text.back_to(begin)
    first = text.value()
    if not text.peek() and isinstance(first, dict) and not NAMES_OF_ENTITIES.intersection(first):
        text.back_to(begin)
        text.fail('the object is no triple, and has no list "triples"')
    text.back_to(begin)
    while text.peek():
        if text.text[text.at] != "{":
            text.fail("not JSON: expected another object, or the end")
        line = text.line()
        yield line, text.value()


def _members(text: _JsonText) -> Generator[tuple[int, object], None, bool]:
    """The elements of the "triples" member of the object that begins here; its other members are skipped.

    Returns:
        whether there is such a member.
    """
    text.take("{")
    found = False
    if text.peek() == "}":
        text.at += 1
    else:
        while True:
            if text.peek() != '"':
                text.take('"')
            name = text.value()
            text.take(":")
            if name == "triples" and text.peek() == "[":
                found = True
                yield from text.items()
            else:
                text.value()
            if text.take(",}") == "}":
                break
    return found


def write_json(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("[")
        for count, triple in enumerate(triples, start=1):
            file.write(",\n  " if count > 1 else "\n  ")
            file.write(json.dumps(triple.to_record(), ensure_ascii=False))
        file.write("\n]\n")
    return count
