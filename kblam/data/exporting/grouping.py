"""All facts of one name together, of any number of triples: they are sorted on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

from kblam.data.temporary import on_disk
from kblam.knowledge.triples import Triple

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE facts (id INTEGER PRIMARY KEY, name TEXT, property TEXT, value TEXT);
"""


class Grouped:
    """Triples by name, in the order in which the names first came. Close it, or use it in a `with` block.

    Attributes:
        properties: all of them, in the order in which they came.
        further: triples that have an example question, an answer or a key text of their own.
        sources: of all triples: where documents say them.

    Raises (any method):
        DataError: there is no room for it.
    """

    def __init__(self, triples: Iterable[Triple]) -> None:
        self._sql = sqlite3.connect("")  # on disk, in the folder of temporary files; SQLite removes it
        self._sql.executescript(_SCHEMA)
        self.properties: dict[str, None] = {}
        self.further = self.sources = 0
        with on_disk():
            self._sql.executemany("INSERT INTO facts (name, property, value) VALUES (?, ?, ?)", self._rows(triples))
            self._sql.execute("CREATE TABLE names AS SELECT name, min(id) AS first FROM facts GROUP BY name")
            self._sql.execute("CREATE UNIQUE INDEX by_name ON names (name)")

    def _rows(self, triples: Iterable[Triple]) -> Iterator[tuple[str, str, str]]:
        for triple in triples:
            self.properties.setdefault(triple.property)
            self.further += triple.key_string is not None or triple.question is not None or triple.answer is not None
            self.sources += len(triple.sources)
            yield triple.name, triple.property, triple.value

    def __iter__(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """(name, [(property, value), ...]) of each name."""
        with on_disk():
            rows = self._sql.execute(
                "SELECT facts.name, property, value FROM facts JOIN names ON facts.name = names.name ORDER BY first, id"
            )
            for name, group in groupby(rows, key=itemgetter(0)):
                yield name, [(prop, value) for _, prop, value in group]

    def is_name(self, text: str) -> bool:
        """Whether a text is the name of a thing here."""
        with on_disk():
            return self._sql.execute("SELECT 1 FROM names WHERE name = ?", (text,)).fetchone() is not None

    def close(self) -> None:
        """Removes what was put on disk."""
        self._sql.close()

    def __enter__(self) -> Grouped:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
