"""Statements on disk until all names are known, so that a million of them need no memory.

A name may come after the statements that need it, and several values of one property anywhere. So everything is first
put into a database of its own, which SQLite keeps in its folder for temporary files and removes by itself, however
the process ends.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kblam.data.importing.items import Dropped, Label, Losses, Node, Statement
from kblam.data.importing.languages import Languages
from kblam.data.importing.naming import Naming, scoped
from kblam.data.temporary import on_disk
from kblam.errors import TripleFormatError
from kblam.knowledge.fields import check_storable, clean, is_storable, shortened
from kblam.knowledge.records import joined
from kblam.knowledge.renaming import new_words, without_plain_key
from kblam.knowledge.sources import MOST_SOURCES, SOURCES
from kblam.knowledge.triples import Triple
from kblam.strict_json import loads

# Characters of several values put together: what an encoder reads, and a model can say again.
LONGEST_JOINED = 1000
_BATCH = 5000
_UNSTORABLE = "a text that cannot be stored"
_MOST_VALUES = 2000  # of one property that are looked at
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -65536;
PRAGMA temp_store = FILE;
CREATE TABLE statements (
    id INTEGER PRIMARY KEY, s TEXT, sn INT, p TEXT, pn INT, v TEXT, vn INT, language TEXT, o TEXT, edge TEXT, extra TEXT
);
CREATE TABLE labels (node TEXT PRIMARY KEY, rank INT, text TEXT, open INT, lost INT DEFAULT 0) WITHOUT ROWID;
CREATE TABLE names (node TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID;
CREATE TABLE facts (id INTEGER PRIMARY KEY, name TEXT, property TEXT, value TEXT, extra TEXT);
"""


class Stage:
    """Takes statements and labels in any order, and gives triples: one for each (name, property).

    Args:
        languages: which are read.
        losses: is told what is left out.
        renames: other words for properties.

    Attributes:
        source: number of the source that statements come from now, from 1; 0 if it is the only one.
        beyond: what `triples` left out of several values of one property.
        repeated: statements that say again what another said.
        several: properties that have more than one value, which are joined with commas.
        unnamed: things that only have an id.
        told_apart: things whose name another has too; their id stands behind it.

    Raises (any method):
        DataError: there is no room for it.
    """

    def __init__(self, languages: Languages, losses: Losses, renames: Mapping[str, str] | None = None) -> None:
        self._languages, self._losses, self._renames = languages, losses, renames
        self._sql = sqlite3.connect("")
        self._sql.executescript(_SCHEMA)
        self._statements: list[tuple[Any, ...]] = []
        self._facts: list[tuple[str, str, str, str]] = []
        self._labels: list[tuple[str, int, str, bool]] = []
        self.source = 0
        self.beyond = Losses()
        self.repeated = self.several = self.unnamed = self.told_apart = 0

    def close(self) -> None:
        """Removes it."""
        self._sql.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- taking ------------------------------------------------------------------------------------------

    def add(self, item: Statement | Label) -> None:
        """Takes a statement or a label."""
        if isinstance(item, Label):
            self._add_label(item)
            return
        if item.language and self._languages.rank(item.language) is None:
            self._losses.add(Dropped(f"a text in another language than {self._languages}", item.language))
            return
        s, p, v = item.subject, item.property, item.value
        subject, prop, value = map(self._id, (s, p, v))
        of = None if item.of is None else self._id(item.of)
        # SQLite holds no half of a surrogate pair, which JSON and graphs in memory may have.
        if not is_storable("".join((subject, prop, value, of or "", item.edge))):
            self._losses.add(Dropped(_UNSTORABLE, shortened(f"the {prop} of {subject}: {value}", 80)))
            return
        of_nodes = isinstance(s, Node), isinstance(p, Node), isinstance(v, Node)
        row = (subject, of_nodes[0], prop, of_nodes[1], value, of_nodes[2], item.language, of, item.edge, item.extra)
        self._statements.append(row)
        if len(self._statements) >= _BATCH:
            self._write()

    def add_triple(self, triple: Triple) -> None:
        """Takes a triple that is one already."""
        record = triple.to_record()
        extra = {field: text for field, text in record.items() if field not in ("name", "property", "value")}
        self._add_fact(triple, json.dumps(extra, ensure_ascii=False) if extra else "")

    def _add_fact(self, triple: Triple, extra: str) -> None:
        self._facts.append((triple.name, triple.property, triple.value, extra))
        if len(self._facts) >= _BATCH:
            self._write()

    def _add_label(self, label: Label) -> None:
        rank = self._languages.rank(label.language)
        if rank is None or not label.text.strip():
            return
        node = self._id(label.node)
        try:
            check_storable("id", node)
            text = clean("name", label.text, compose=True)
        except TripleFormatError as error:
            if not label.is_kept:
                self._losses.add(Dropped("a name that cannot be stored", error.reason[:80]))
            return
        self._labels.append((node, rank * 100 + label.rank, text, not label.is_kept))
        if len(self._labels) >= _BATCH:
            self._write()

    def _id(self, term: Node | str) -> str:
        if not isinstance(term, Node):
            return term
        return scoped(term, self.source) if self.source else term.id

    def _write(self) -> None:
        with on_disk():
            self._sql.executemany(
                "INSERT INTO statements (s, sn, p, pn, v, vn, language, o, edge, extra) VALUES (?,?,?,?,?,?,?,?,?,?)",
                self._statements,
            )
            self._sql.executemany(
                "INSERT INTO labels (node, rank, text, open) VALUES (?, ?, ?, ?) ON CONFLICT (node) DO UPDATE SET "
                "lost = lost + (text <> excluded.text AND iif(excluded.rank < rank, open, excluded.open)), "
                "open = iif(excluded.rank < rank, excluded.open, open), "
                "text = iif(excluded.rank < rank, excluded.text, text), rank = min(rank, excluded.rank)",
                self._labels,
            )
            self._sql.executemany("INSERT INTO facts (name, property, value, extra) VALUES (?,?,?,?)", self._facts)
        self._statements, self._labels, self._facts = [], [], []

    # --- giving ------------------------------------------------------------------------------------------

    def finish(self) -> int:
        """After the last statement: gives everything its name. Returns how many triples there are.

        Raises:
            DataError, TripleFormatError: as `new_words`.
        """
        self._write()
        with on_disk():
            if self._sql.execute("SELECT 1 FROM statements LIMIT 1").fetchone():
                naming = Naming(self._sql)
                self.unnamed, self.told_apart = naming.unnamed, naming.told_apart
                for text, count in self._sql.execute("SELECT text, lost FROM labels WHERE lost"):
                    self._losses.add(Dropped("a further name of a thing", text[:40], count))
                for row in self._sql.execute("SELECT * FROM statements ORDER BY id"):
                    self._resolve(naming, naming.in_turn(row))
                self._write()
                self._sql.execute("DROP TABLE statements")
            if self._renames:
                self._rename(self._renames)
            self._sql.execute("CREATE INDEX by_identity ON facts (name, property)")
            self._sql.execute(
                "CREATE TABLE identities AS SELECT min(id) AS id, count(*) AS n FROM facts GROUP BY name, property "
                "ORDER BY min(id)"
            )
            self.several = 0
            return int(self._sql.execute("SELECT count(*) FROM identities").fetchone()[0])

    def _rename(self, renames: Mapping[str, str]) -> None:
        """All at once, so that two properties may change places."""
        there = self._sql.execute("SELECT property FROM facts GROUP BY property ORDER BY min(id)")
        words = new_words(renames, [prop for (prop,) in there])
        self._sql.create_function("kblam_renamed", 1, words.__getitem__, deterministic=True)
        self._sql.create_function("kblam_further", 3, without_plain_key, deterministic=True)
        self._sql.execute(
            "UPDATE facts SET property = kblam_renamed(property), extra = kblam_further(name, property, extra)"
        )

    def _resolve(self, naming: Naming, row: tuple[Any, ...]) -> None:
        found: Iterable[tuple[str, str, str] | Dropped] = naming.facts_of(row)
        language, extra = row[7], row[10]
        for each in found:
            if isinstance(each, Dropped):
                self._losses.add(each)
                continue
            name, prop, value = each
            try:
                self._add_fact(Triple(name, prop + self._languages.mark(language), value), extra)
            except TripleFormatError as error:
                self._losses.add(Dropped(_UNSTORABLE, error.reason[:80]))

    def triples(self) -> Iterator[Triple]:
        """The triples, in the order in which their first statements came. Counts anew."""
        self.repeated, self.several, self.beyond = 0, 0, Losses()
        for first, count in self._sql.execute("SELECT id, n FROM identities ORDER BY rowid"):
            name, prop, value, extra = self._sql.execute(
                "SELECT name, property, value, extra FROM facts WHERE id = ?", (first,)
            ).fetchone()
            further = loads(extra) if extra else {}
            if count > 1:
                value, sources = self._values(name, prop, count)
                if sources:
                    further["sources"] = sources
            if further:
                yield Triple.from_record({"name": name, "property": prop, "value": value, **further})
            else:
                yield Triple(name, prop, value)

    def _values(self, name: str, prop: str, count: int) -> tuple[str, list[object]]:
        """All values of one property as one text, as many as are not too long; and where documents say them."""
        rows = self._sql.execute(
            "SELECT value, extra FROM facts WHERE name = ? AND property = ? ORDER BY id LIMIT ?",
            (name, prop, _MOST_VALUES),
        ).fetchall()
        values = list(dict.fromkeys(value for value, _ in rows))
        sources = self._sources(name, prop, [loads(extra) if extra else {} for _, extra in rows])
        self.repeated += len(rows) - len(values)
        kept, length = values[:1], len(values[0])
        for value in values[1:]:
            if length + 2 + len(value) > LONGEST_JOINED:
                break
            kept.append(value)
            length += 2 + len(value)
        if lost := len(values) - len(kept) + max(0, count - len(rows)):
            reason = f"a further value of one property, beyond {LONGEST_JOINED:,} characters"
            self.beyond.add(Dropped(reason, f"the {prop} of {name}"[:80], lost))
        self.several += len(kept) > 1
        return joined(kept), sources

    def _sources(self, name: str, prop: str, further: list[dict[str, Any]]) -> list[object]:
        """Where documents say the values; what else only the first of them can have is counted."""
        example = f"the {prop} of {name}"[:80]
        kept = further[0]
        differ = [
            each for each in further if any(kept.get(field) != text for field, text in each.items() if field != SOURCES)
        ]
        if differ:
            reason = "an example question, or a key text, of a further value of one property"
            self.beyond.add(Dropped(reason, example, len(differ)))
        sources = {json.dumps(source): source for each in further for source in each.get(SOURCES, ())}
        if (more := len(sources) - MOST_SOURCES) > 0:
            self.beyond.add(Dropped(f"a source beyond the {MOST_SOURCES:,} that a triple has", example, more))
        return list(sources.values())[:MOST_SOURCES]

    def look_ahead(self) -> None:
        """Counts `beyond` before any triple is given."""
        self.beyond = Losses()
        for first, count in self._sql.execute("SELECT id, n FROM identities WHERE n > 1"):
            name, prop = self._sql.execute("SELECT name, property FROM facts WHERE id = ?", (first,)).fetchone()
            self._values(name, prop, count)
