"""A JSON document with a list of triples, or one object after another, decoded one triple at a time."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn

from kblam.errors import TripleFormatError
from kblam.knowledge.columns import choice, quoted
from kblam.knowledge.files.json_lines import DECODER, read_jsonl
from kblam.knowledge.files.lines import MAX_LINE_BYTES, Records, decode, refuse_other_encodings
from kblam.knowledge.files.sparql_results import fields_of, is_results, record_of
from kblam.knowledge.records import RecordReader
from kblam.knowledge.triples import Triple
from kblam.strict_json import problem

_SPACE = re.compile("[ \t\r\n]*")
# Finds where a value ends. A number becomes its length, which takes no memory, however long it is.
_ANY = json.JSONDecoder(parse_int=len, parse_float=len)  # noqa: TID251
_HOLDERS = frozenset(
    ("triples", "facts", "records", "rows", "items", "data", "results", "entities", "knowledge", "knowledge_base", "kb")
)


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
        """The value that begins here, or the error of an object in it that says something twice."""
        self.peek()
        try:
            decoded, self.at = DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            self.at = error.pos
            column = error.colno
            self.fail(f"not JSON: {error.msg} at column {column}")
        except RecursionError as error:
            self.fail(problem(error))
        except ValueError as error:
            found = TripleFormatError(problem(error), path=self.path, line=self.line())
            try:
                # Where it ends; what it says is not used.
                _, self.at = _ANY.raw_decode(self.text, self.at)
            except (ValueError, RecursionError):
                raise found from None
            return found
        return decoded

    def skip(self) -> None:
        """Steps over the value that begins here, at the speed of C."""
        try:
            _, self.at = _ANY.raw_decode(self.text, self.at)
        except (ValueError, RecursionError):
            self.value()  # which says what is wrong

    def fail(self, message: str) -> NoReturn:
        raise TripleFormatError(message, path=self.path, line=self.line())

    def back_to(self, at: int) -> None:
        """Reads again from an earlier place."""
        self.at = at
        self._line, self._counted = 1, 0

    def items(self) -> Records:
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

    def members(self) -> Iterator[_Member]:
        """What the members of the object that begins here are; their values are read and let go one by one."""
        self.take("{")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                self.take('"')
            name = str(self.value())
            self.take(":")
            kind, at = self.peek(), self.at
            first, numbered = None, False
            if kind == "[":
                first = next((value for _, value in self.items()), None)
                self.at = at
                if isinstance(first, dict | list):
                    deque(self.items(), maxlen=0)
                else:
                    self.skip()
            else:
                value = self.value()
                numbered = isinstance(value, dict) and bool(value) and all(key.isdigit() for key in value)
            yield _Member(name, at, kind, first, numbered)
            if self.take(",}") == "}":
                return


@dataclass(frozen=True, slots=True)
class _Member:
    """A member of an object: where its value begins, and what it is like.

    Attributes:
        kind: the first character of the value.
        first: the first element of a list.
        is_numbered: an object whose keys are all numbers.
    """

    name: str
    at: int
    kind: str
    first: object
    is_numbered: bool

    @property
    def is_plain(self) -> bool:
        return self.kind != "{" and not isinstance(self.first, dict | list)


def read_json(path: Path, reader: RecordReader) -> Records:
    if _is_lines(path):
        yield from read_jsonl(path, reader)
        return
    raw = path.read_bytes()
    refuse_other_encodings(path, raw)
    text = _JsonText(path, decode(path, raw.removeprefix(codecs.BOM_UTF8), first_line=1))
    del raw
    start = text.peek()
    if not start:
        raise TripleFormatError("the file is empty; it needs at least one record", path=path)
    if start == "[":
        yield from text.items()
    elif start == "{":
        yield from _object_or_objects(text, reader)
    else:
        text.fail('expected a list of triples, or {"triples": [...]}')
    if text.peek():
        text.fail("not JSON: more text after the end of the document")


def _is_lines(path: Path) -> bool:
    """Whether a file named .json has an object in each line, which can be read, and be wrong, line by line."""
    with path.open("rb") as file:
        lines = (line.strip() for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""))
        first, second = islice(chain((line.removeprefix(codecs.BOM_UTF8) for line in lines if line), (b"", b"")), 2)
    return first.startswith(b"{") and first.endswith(b"}") and second.startswith(b"{")


def _object_or_objects(text: _JsonText, reader: RecordReader, *, is_inner: bool = False) -> Records:
    """What the object that begins here holds: a list of records, records under their names, or one record.

    One object after another is what upstream's generator writes.
    """
    begin = text.at
    members = list(text.members())
    end, follows = text.at, not is_inner and text.peek()
    text.back_to(begin)
    counts = Counter(member.name for member in members)
    if twice := [member for member in members if counts[member.name] > 1]:
        text.at = twice[1].at
        text.fail(f'the key "{twice[0].name[:60]}" stands twice in one object; keep one of them')
    is_record = any(member.is_plain for member in members) and reader.is_named(
        {member.name: "" if member.is_plain else {} for member in members}
    )
    if held := [member for member in members if member.name == "triples" and member.kind == "["]:
        yield from _at(text, held[0])
    elif is_results(list(counts)) and (bindings := _bindings(text, members)) is not None:
        yield from _solutions(text, members, bindings, reader)
    elif follows or is_record:
        text.peek()
        yield text.line(), text.value()
        while not is_inner and text.peek():
            if text.text[text.at] != "{":
                text.fail("not JSON: expected another object, or the end")
            line = text.line()
            yield line, text.value()
        return
    elif len(members) == 1 and members[0].kind == "{" and _holds(members[0]):
        text.at = members[0].at
        yield from _object_or_objects(text, reader, is_inner=True)
    elif held := [member for member in members if _holds_records(member, reader)]:
        if len(held) > 1:
            names = quoted([member.name for member in held])
            text.fail(f'several lists of records: {names}; put one of them in a file of its own, or under "triples"')
        yield from _at(text, held[0])
    elif members and not any(member.is_plain for member in members):
        yield from _under_names(text, members)
    else:
        text.fail(
            'the object is no triple, and has no list "triples"; if it is one entity, choose the field that names it: '
            f"{choice({'name': 'FIELD'})}; if its keys are names, write "
            '{"name": ..., "property": ..., "value": ...} for each'
        )
    text.at = end


def _bindings(text: _JsonText, members: Sequence[_Member]) -> _Member | None:
    """The list of solutions in what may be results of a SPARQL query."""
    results = next(member for member in members if member.name == "results")
    if results.kind != "{":
        return None
    text.back_to(results.at)
    return next((inner for inner in text.members() if inner.name == "bindings" and inner.kind == "["), None)


def _solutions(text: _JsonText, members: Sequence[_Member], bindings: _Member, reader: RecordReader) -> Records:
    """Each solution of a SPARQL query as a record."""
    text.back_to(next(member.at for member in members if member.name == "head"))
    try:
        fields = fields_of(text.value(), reader)
    except TripleFormatError as error:
        text.fail(error.reason)
    text.back_to(bindings.at)
    for line, solution in text.items():
        try:
            record = solution if isinstance(solution, TripleFormatError) else record_of(solution, fields, reader)
        except TripleFormatError as error:
            record = error
        yield line, record


def _holds(member: _Member) -> bool:
    return member.name.strip().casefold() in _HOLDERS


def _holds_records(member: _Member, reader: RecordReader) -> bool:
    return member.kind == "[" and (reader.is_named(member.first) or (_holds(member) and not member.is_plain))


def _at(text: _JsonText, member: _Member) -> Records:
    text.at = member.at
    yield from text.items()


def _under_names(text: _JsonText, members: Sequence[_Member]) -> Records:
    """Each member as a record of its own, whose key is its name."""
    if all(member.is_numbered for member in members):
        text.fail(
            "each field holds its values under numbers, column by column; write one object a row "
            '(pandas: to_json(orient="records"))'
        )
    for member in members:
        text.at = member.at
        line = text.line()
        value = text.value()
        yield line, value if isinstance(value, TripleFormatError) else {member.name: value}


def write_json(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("[")
        for count, triple in enumerate(triples, start=1):
            file.write(",\n  " if count > 1 else "\n  ")
            file.write(json.dumps(triple.to_record(), ensure_ascii=False))
        file.write("\n]\n")
    return count
