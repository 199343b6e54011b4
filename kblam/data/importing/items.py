"""What every source of knowledge is read as: statements about nodes, labels of nodes, and what was left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from kblam.errors import TripleFormatError
from kblam.knowledge.files.whole import check_target
from kblam.knowledge.triples import Triple
from kblam.strict_json import loads

logger = logging.getLogger("kblam")

# What is known of a thing under this name is how to call it.
NAME = "name"
# The rank of an id that is to stand as it is where nothing names the thing.
ID_ITSELF = 1_000_000
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Node:
    """A thing that its source knows by an id; labels say how to call it.

    Args:
        id: unique in the source: an IRI, a blank node (`_:b1`), a database's id.
        is_shared: other sources know it by this id too, as they know an IRI. Else each source has ids of its own, and
            one id in two of them stands for two things.
    """

    id: str
    is_shared: bool = False

    @property
    def is_blank(self) -> bool:
        """Whether it has no id outside its own source, so that nobody can be told of it by that id."""
        return self.id.startswith("_:")


@dataclass(frozen=True, slots=True)
class Label:
    """A name of a node.

    Args:
        rank: of several the one with the lowest is taken.
        language: a tag such as "de"; "" for none.
        is_kept: it is a statement too, or made up, so that nothing is lost where another name is taken.
    """

    node: Node
    text: str
    rank: int = 0
    language: str = ""
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """One fact as a source has it: the `property` of `subject` is `value`.

    Args:
        subject, property, value: texts as they are; nodes get their names when all labels are known.
        language: of the value.
        of: a node that belongs to the property: "relation to" of Acme is the property "relation to Acme".
        edge: what the property is about, with `of`: "since" of "works at" Acme is "since (works at Acme)".
        extra: further fields of a triple, as JSON.
    """

    subject: Node | str
    property: Node | str
    value: Node | str
    language: str = ""
    of: Node | None = None
    edge: str = ""
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something that is left out on purpose, such as a picture.

    Args:
        reason: the same words for the same reason, so that they can be counted.
        example: which one, in a few words.
        count: how many.
        is_fact: whether it is a fact that was read, or only something about one that is kept.
    """

    reason: str
    example: str = ""
    count: int = 1
    is_fact: bool = True


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be read, though the rest can.

    Args:
        error: says where and why.
    """

    error: TripleFormatError


Item = Statement | Label | Triple | Dropped | Bad


class Readable(Protocol):
    """Where knowledge comes from.

    Attributes:
        name: for messages: a path, or an address without a password.
    """

    name: str

    def items(self) -> Iterator[Item]:
        """All that it says, one by one; each call begins anew.

        Raises:
            TripleFormatError: a file cannot be read on.
            DataError: a package is missing, or a query cannot be.
            DataServerError: a server does not answer.
        """


class Losses:
    """What was left out, by reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, dropped: Dropped) -> None:
        """Counts it."""
        self._counts[dropped.reason] = self._counts.get(dropped.reason, 0) + dropped.count
        examples = self._examples.setdefault(dropped.reason, [])
        if dropped.example and len(examples) < _EXAMPLES and dropped.example not in examples:
            examples.append(dropped.example)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def counts(self) -> dict[str, int]:
        """Reason -> how many, the commonest first."""
        return dict(sorted(self._counts.items(), key=lambda each: -each[1]))

    def lines(self) -> list[str]:
        """A sentence for each reason."""
        return [
            f"{count:,} x {reason}"
            + (f", such as {'; '.join(self._examples[reason])}" if self._examples[reason] else "")
            for reason, count in self.counts().items()
        ]


class BadRows:
    """Rows that cannot be read, written to a file as they are met: JSON Lines with `file`, `line`, `reason`.

    Args:
        path: made when the first one comes, and only then; rows of an earlier import in it are replaced by then, or go
            when all sources are read without one.

    Raises:
        TripleFormatError: there is a file that holds something else, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file: TextIO | None = None
        check_target(path, overwrite=True)
        if path.is_file() and not _are_bad_rows(path):
            raise TripleFormatError("there is a file already, and it is no list of bad rows; name another", path=path)

    def add(self, error: TripleFormatError) -> None:
        """Writes it down.

        Raises:
            TripleFormatError: the file cannot be written.
        """
        self.count += 1
        where = None if error.path is None else str(error.path)
        try:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
            record = {"file": where, "line": error.line, "reason": error.reason}
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        except OSError as failed:
            raise TripleFormatError(f"cannot write: {failed.strerror}", path=self.path) from failed

    def all_read(self) -> None:
        """All sources are read: the file holds the rows of this import, also if there is none.

        Raises:
            TripleFormatError: rows of an earlier import cannot be removed.
        """
        if self._file is not None or not self.path.is_file():
            return
        try:
            if self.path.stat().st_size:
                self.path.write_bytes(b"")
                logger.info("%s: no row is bad now; those of an earlier import were removed", self.path)
        except OSError as failed:
            raise TripleFormatError(f"cannot write: {failed.strerror}", path=self.path) from failed

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            with suppress(OSError):  # `add` has raised it
                self._file.close()


def _are_bad_rows(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            first = file.readline(2**20)
        return not first or loads(first).keys() == {"file", "line", "reason"}
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=path) from error
    except (ValueError, AttributeError, RecursionError):
        return False
