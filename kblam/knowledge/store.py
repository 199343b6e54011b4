"""The store: triples and their vectors in one SQLite file, every change a transaction."""

from __future__ import annotations

import sqlite3
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kblam.errors import StoreError, StoreFormatError, StoreWriteError
from kblam.knowledge import connection as connections
from kblam.knowledge.connection import sqlite_errors
from kblam.knowledge.embeddings import Changes, Embeddings, from_blobs, to_blobs
from kblam.knowledge.triples import Triple, identity_of

_TEXTS = "name, property, value, key_string, question, answer"
_CHUNK = 2048  # rows fetched at a time
_VARIABLES = 500  # in one statement; old SQLite allows 999


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """Facts about a store that never change after it was made."""

    store_id: str
    encoder_spec: str
    fingerprint: str
    dimension: int


class Store:
    """Triples with key and value vectors, in a file or in memory.

    Any number of processes may read while one writes; writers wait for each other, up to `timeout` seconds.
    One object holds one SQLite connection behind a lock: threads may share it, and it must not cross a fork.
    Every method that changes something is one transaction, on disk when it returns.

    Raises (any method):
        StoreBusyError: another process held the lock for longer than `timeout`.
        StoreWriteError: a write failed; the store is as it was.
        StoreFormatError: the file turned out to be damaged.
        StoreError: the store is closed.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path | None, *, read_only: bool) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._lock = threading.RLock()
        self.path = path
        self.read_only = read_only
        with self._reading() as sql:
            row = sql.execute("SELECT store_id, encoder_spec, fingerprint, dimension FROM store").fetchone()
        if row is None:
            connection.close()
            raise StoreFormatError(f"{self.name}: the file is damaged (it has no description); build it again")
        self.info = StoreInfo(*row)

    @classmethod
    def create(
        cls, path: str | Path | None, *, encoder_spec: str, fingerprint: str, dimension: int, timeout: float = 30.0
    ) -> Store:
        """Make a new store; None keeps it in memory.

        Raises:
            StoreError: a knowledge base is there already.
            StoreFormatError: another file is there; it is left untouched.
            StoreWriteError: it cannot be written.
        """
        file = None if path is None else Path(path)
        made = connections.create(
            file, encoder_spec=encoder_spec, fingerprint=fingerprint, dimension=dimension, timeout=timeout
        )
        return cls(made, file, read_only=False)

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False, timeout: float = 30.0) -> Store:
        """Open an existing store.

        Raises:
            StoreError: there is none.
            StoreFormatError: the file is something else, damaged, or of a newer format; it is left untouched.
        """
        file = Path(path)
        return cls(connections.connect(file, read_only=read_only, timeout=timeout), file, read_only=read_only)

    @property
    def name(self) -> str:
        """The path, for messages."""
        return "the knowledge base in memory" if self.path is None else str(self.path)

    def refuse_if_read_only(self) -> None:
        """Raise StoreWriteError when changes are refused anyway."""
        if self.read_only:
            raise StoreWriteError(f"{self.name} was opened read-only; open it with read_only=False to change it")

    def close(self) -> None:
        """Release the file. Closing again does nothing."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # --- writing -----------------------------------------------------------------------------------------

    def upsert(self, triples: Sequence[Triple], key: np.ndarray, value: np.ndarray) -> tuple[int, int]:
        """Add triples, or replace those with the same identity; returns (added, updated).

        Args:
            triples: if one identity is given twice, the later is kept.
            key, value: (len(triples), P) vectors.

        Raises:
            EmbeddingError: before anything is written, when a vector cannot be stored.
        """
        names = [triple.identity for triple in triples]
        keys = to_blobs(key, names, self.info.dimension, "key")
        values = to_blobs(value, names, self.info.dimension, "value")
        added = 0
        with self._writing() as (sql, revision):
            for triple, key_blob, value_blob in zip(triples, keys, values, strict=True):
                texts = (*_texts(triple), _fold(triple.name), revision)
                known = sql.execute(
                    "SELECT id FROM triples WHERE name = ? AND property = ?", triple.identity
                ).fetchone()
                if known is None:
                    row = sql.execute(
                        f"INSERT INTO triples ({_TEXTS}, folded, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", texts
                    ).lastrowid
                    added += 1
                else:
                    row = known[0]
                    sql.execute(
                        "UPDATE triples SET value = ?, key_string = ?, question = ?, answer = ?, revision = ? "
                        "WHERE id = ?",
                        (*texts[2:6], revision, row),
                    )
                sql.execute("REPLACE INTO embeddings (id, key, value) VALUES (?, ?, ?)", (row, key_blob, value_blob))
        return added, len(triples) - added

    def annotate(self, changes: Iterable[tuple[Triple, Triple]]) -> int:
        """Replace (old, new) triples whose encoded texts are equal, keeping their vectors; returns how many.

        A triple that is no longer `old` was changed by someone else meanwhile, and stays as they left it.
        """
        count = 0
        with self._writing() as (sql, revision):
            for old, new in changes:
                count += sql.execute(
                    "UPDATE triples SET key_string = ?, question = ?, answer = ?, revision = ? "
                    "WHERE name = ? AND property = ? AND value = ? "
                    "AND key_string IS ? AND question IS ? AND answer IS ?",
                    (new.key_string, new.question, new.answer, revision, *_texts(old)),
                ).rowcount
        return count

    def remove(self, name: str, property: str | None = None) -> int:
        """Remove one triple, or all of a name; returns how many there were."""
        if property is None:
            wanted: tuple[str, ...] = identity_of(name, "any")[:1]
            where = "name = ?"
        else:
            where, wanted = "name = ? AND property = ?", identity_of(name, property)
        with self._writing() as (sql, revision):
            rows = sql.execute(f"SELECT id FROM triples WHERE {where}", wanted).fetchall()
            for row in rows:
                sql.execute("DELETE FROM triples WHERE id = ?", row)
                sql.execute("DELETE FROM embeddings WHERE id = ?", row)
                sql.execute("INSERT INTO removed (id, revision) VALUES (?, ?)", (*row, revision))
        return len(rows)

    # --- reading triples ---------------------------------------------------------------------------------

    def count(self) -> int:
        """How many triples there are."""
        with self._reading() as sql:
            return int(sql.execute("SELECT count(*) FROM triples").fetchone()[0])

    @property
    def revision(self) -> int:
        """Rises with every transaction that changed something; 0 for a store that never held anything."""
        with self._reading() as sql:
            return int(sql.execute("SELECT revision FROM store").fetchone()[0])

    def triples(self) -> Iterator[Triple]:
        """All triples in the order they were added. What is written meanwhile may or may not be seen."""
        last = 0
        while True:
            with self._reading() as sql:
                rows = sql.execute(
                    f"SELECT {_TEXTS}, id FROM triples WHERE id > ? ORDER BY id LIMIT ?", (last, _CHUNK)
                ).fetchall()
            if not rows:
                return
            last = rows[-1][-1]
            for row in rows:
                yield Triple(*row[:-1])

    def get(self, identities: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Triple]:
        """The stored triples of those identities that are there."""
        found = {}
        with self._reading() as sql:
            for identity in identities:
                row = sql.execute(f"SELECT {_TEXTS} FROM triples WHERE name = ? AND property = ?", identity).fetchone()
                if row is not None:
                    found[identity] = Triple(*row)
        return found

    def at(self, ids: Sequence[int]) -> list[Triple]:
        """The triples with these ids, in this order.

        Raises:
            StoreError: an id is not there (it was removed, or never given).
        """
        found: dict[int, Triple] = {}
        with self._reading() as sql:
            for start in range(0, len(ids), _VARIABLES):
                part = [int(one) for one in ids[start : start + _VARIABLES]]
                marks = ",".join("?" * len(part))
                for row in sql.execute(f"SELECT {_TEXTS}, id FROM triples WHERE id IN ({marks})", part):
                    found[row[-1]] = Triple(*row[:-1])
        for one in ids:
            if int(one) not in found:
                raise StoreError(f"{self.name} has no triple with id {int(one)}: it was removed, or never there")
        return [found[int(one)] for one in ids]

    def find(self, name: str) -> list[Triple]:
        """All triples of exactly this name (case counts, white space around it does not)."""
        wanted, _ = identity_of(name, "any")
        with self._reading() as sql:
            rows = sql.execute(f"SELECT {_TEXTS} FROM triples WHERE name = ? ORDER BY id", (wanted,)).fetchall()
        return [Triple(*row) for row in rows]

    def properties(self, *, since: int, most: int) -> list[str]:
        """Different properties of the triples written after a revision, those with most triples first."""
        with self._reading() as sql:
            rows = sql.execute(
                "SELECT property FROM triples WHERE revision > ? GROUP BY property ORDER BY count(*) DESC, property "
                "LIMIT ?",
                (since, most),
            )
            return [row[0] for row in rows]

    def search(self, text: str, *, limit: int = 20) -> list[Triple]:
        """Triples whose name holds every word of `text`, in any case and order, also inside longer words.

        Best first: names that begin with the text (so the name itself before all), then shorter names. No
        character is special. An empty text finds nothing.
        """
        # Substrings by a scan, not FTS5: it works alike in every script, also those without spaces, needs no
        # second index in step with the triples, and 1 M names take a fraction of a second (docs/knowledge.md).
        folded = _fold(text).strip()
        words = folded.split()
        if not words:
            return []
        where = " AND ".join("instr(folded, ?) > 0" for _ in words[:_VARIABLES])
        with self._reading() as sql:
            rows = sql.execute(
                f"SELECT {_TEXTS} FROM triples WHERE {where} "
                "ORDER BY instr(folded, ?) <> 1, length(folded), folded, id LIMIT ?",
                (*words[:_VARIABLES], folded, max(0, limit)),
            ).fetchall()
        return [Triple(*row) for row in rows]

    # --- reading vectors ---------------------------------------------------------------------------------

    def embeddings(self) -> Embeddings:
        """All vectors, from one moment."""
        with self._reading() as sql:
            return self._vectors(sql, "SELECT count(*) FROM triples", "SELECT * FROM embeddings ORDER BY id", ())

    def changes_since(self, revision: int) -> Changes:
        """What was written and removed after `revision`, from one moment; 0 gives everything.

        Raises:
            StoreError: `revision` is ahead of the store, so it belongs to another one.
        """
        with self._reading() as sql:
            now = int(sql.execute("SELECT revision FROM store").fetchone()[0])
            if not 0 <= revision <= now:
                raise StoreError(f"{self.name} is at revision {now}, it has no changes since {revision}; start from 0")
            upserted = self._vectors(
                sql,
                "SELECT count(*) FROM triples WHERE revision > ?",
                # Not a join: to save a sort, SQLite would walk through all of a large table for one change.
                "SELECT id, key, value FROM embeddings "
                "WHERE id IN (SELECT id FROM triples WHERE revision > ?) ORDER BY id",
                (revision,),
            )
            # Sorted here: asked for an order, SQLite would walk through the table in it.
            removed = sql.execute("SELECT id FROM removed WHERE revision > ?", (revision,)).fetchall()
        return Changes(upserted, np.sort(np.array([row[0] for row in removed], np.int64)), now)

    def _vectors(self, sql: sqlite3.Connection, count: str, select: str, arguments: tuple[int, ...]) -> Embeddings:
        total = int(sql.execute(count, arguments).fetchone()[0])
        shape = (total, self.info.dimension)
        ids, key, value = np.empty(total, np.int64), np.empty(shape, np.float16), np.empty(shape, np.float16)
        rows = sql.execute(select, arguments)
        for start in range(0, total, _CHUNK):
            part = rows.fetchmany(_CHUNK)
            here = slice(start, start + len(part))
            whole = len(part) == min(_CHUNK, total - start)
            if not (
                whole
                and from_blobs([row[1] for row in part], key[here])
                and from_blobs([row[2] for row in part], value[here])
            ):
                raise StoreFormatError(
                    f"{self.name} is damaged: vectors near id {part[0][0] if part else '?'} are missing or do not "
                    f"have {self.info.dimension} numbers; restore it from a copy, or build it again"
                )
            ids[here] = [row[0] for row in part]
        return Embeddings(ids, key, value, int(sql.execute("SELECT revision FROM store").fetchone()[0]))

    # --- transactions ------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, within one snapshot."""
        with self._lock, sqlite_errors(self.name):
            sql = self._open_connection()
            sql.execute("BEGIN")
            try:
                yield sql
            finally:
                if sql.in_transaction:
                    sql.execute("ROLLBACK")

    @contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """The connection and the revision to stamp; committed at the end if something changed, else undone."""
        with self._lock, sqlite_errors(self.name):
            self.refuse_if_read_only()
            sql = self._open_connection()
            sql.execute("BEGIN IMMEDIATE")
            try:
                revision = int(sql.execute("SELECT revision FROM store").fetchone()[0]) + 1
                before = sql.total_changes
                yield sql, revision
                if sql.total_changes > before:
                    sql.execute("UPDATE store SET revision = ?", (revision,))
                sql.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already.
                if sql.in_transaction:
                    sql.execute("ROLLBACK")
                raise

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.name} is closed; open it again")
        return self._connection


def _texts(triple: Triple) -> tuple[str | None, ...]:
    return (triple.name, triple.property, triple.value, triple.key_string, triple.question, triple.answer)


def _fold(text: str) -> str:
    """As `search` compares: without case, and with compatibility forms (full-width letters, ligatures) alike."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
