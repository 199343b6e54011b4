"""Files of records: CSV, TSV, Excel, Parquet, JSON, JSON Lines; edge lists with their nodes in another file."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from kblam.data.importing.items import ID_ITSELF, Bad, Dropped, Item, Label, Node, Statement
from kblam.errors import TripleFormatError
from kblam.knowledge.columns import Columns
from kblam.knowledge.fields import bare
from kblam.knowledge.files import located_triples
from kblam.knowledge.records import RecordReader
from kblam.knowledge.triples import Triple

logger = logging.getLogger("kblam")

UNREAD = "a cell of a column that is no part of a fact"
NO_ID = "a node without an id"
_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|urn:")
_REMEMBERED = 100_000


def unread(reader: RecordReader, source: str) -> Iterator[Dropped]:
    """What a reader left out of its records; what it guessed is noted in the log."""
    for column, times in reader.unread.items():
        yield Dropped(UNREAD, column.strip()[:40], times)
    for note in reader.notes():
        logger.info("%s: %s", source, note)


class TableFile:
    """A file of facts or of entities; what is guessed about its columns is noted in the log.

    Args:
        columns: which column is which field.
        by_id: names and values are ids of nodes that another file names.
    """

    def __init__(self, path: Path, columns: Columns | None = None, *, by_id: bool = False) -> None:
        self.path, self.columns, self.by_id = path, columns, by_id
        self.name = str(path)

    def items(self) -> Iterator[Item]:
        """Its facts.

        Raises:
            TripleFormatError: the file cannot be read on, or a chosen column is nowhere.
        """
        reader, seen = RecordReader(self.columns), set[str]()
        for line, found in located_triples(self.path, reader):
            if isinstance(found, TripleFormatError):
                yield Bad(TripleFormatError(found.reason, path=self.path, line=line))
            elif self.by_id:
                yield from _by_id(found, seen)
            else:
                yield found
        try:
            reader.check()
        except TripleFormatError as error:
            raise TripleFormatError(error.reason, path=self.path) from None
        yield from unread(reader, self.name)


class NodesFile:
    """The nodes of an edge list: a table with a column of ids, one of names, and others that are properties.

    Args:
        id_column: the column of the ids.
    """

    def __init__(self, path: Path, id_column: str = "id") -> None:
        self.path, self.id_column = path, id_column
        self.name = str(path)

    def items(self) -> Iterator[Item]:
        """A label for each node, and its properties.

        Raises:
            TripleFormatError: the file cannot be read on, or has no such column.
        """
        reader = RecordReader()
        found_any = False
        # Not by line: a whole list may be on one. An object of objects is one record of several things.
        for _, group in groupby(
            located_triples(self.path, reader), key=lambda one: (reader.records, getattr(one[1], "name", None))
        ):
            facts: list[Triple] = []
            for line, found in group:
                if isinstance(found, TripleFormatError):
                    yield Bad(TripleFormatError(found.reason, path=self.path, line=line))
                else:
                    facts.append(found)
            ids = [fact.value for fact in facts if fact.property.casefold() == self.id_column.casefold()]
            if not ids:
                if facts:
                    yield Dropped(NO_ID, facts[0].name[:40])
                continue
            found_any = True
            node = Node(bare(ids[0]), is_shared=True)
            yield Label(node, facts[0].name)
            for fact in facts:
                if fact.value != ids[0] or fact.property.casefold() != self.id_column.casefold():
                    yield Statement(node, fact.property, fact.value)
        if not found_any:
            raise TripleFormatError(f"there is no column {self.id_column!r} with ids of the nodes", path=self.path)
        yield from unread(reader, self.name)


def _by_id(triple: Triple, seen: set[str]) -> Iterator[Item]:
    """A fact whose name and value are ids. One that nothing names stands as it is, unless it is an IRI.

    Args:
        seen: ids that this was said of.
    """
    value = bare(triple.value)  # as names are, or one id would be two things
    for id in (triple.name, value):
        if id not in seen and not _IRI.match(id):
            yield Label(Node(id, is_shared=True), id, ID_ITSELF, is_kept=True)
            if len(seen) < _REMEMBERED:
                seen.add(id)
    record = triple.to_record()
    extra = {field: text for field, text in record.items() if field not in ("name", "property", "value")}
    yield Statement(
        Node(triple.name, is_shared=True),
        triple.property,
        Node(value, is_shared=True),
        extra=json.dumps(extra, ensure_ascii=False) if extra else "",
    )
