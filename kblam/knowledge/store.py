"""The store: triples and their vectors in one SQLite file, every change a transaction."""

from __future__ import annotations

import heapq
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from kblam.errors import StoreError
from kblam.knowledge import connection as connections
from kblam.knowledge import ledger as ledgers
from kblam.knowledge import proof
from kblam.knowledge.connection import whole
from kblam.knowledge.copying import write_copy
from kblam.knowledge.embeddings import Changes, Embeddings, to_blobs
from kblam.knowledge.ledger import Ledger
from kblam.knowledge.opened import Opened
from kblam.knowledge.pieces import Pieces, pieces_since
from kblam.knowledge.search import fold, search
from kblam.knowledge.transactions import Transactions
from kblam.knowledge.triples import Triple, identity_of
from kblam.knowledge.writing import RowWriter

_VARIABLES = 500  # in one statement; old SQLite allows 999
_LARGEST_ID = 2**62
# Left to choose, SQLite walks through all triples in the order of their names, so as not to sort the few.
_TRIPLES_SINCE = "triples INDEXED BY triples_by_revision WHERE revision > ?"


class Store:
    """Triples with key and value vectors, in a file or in memory.

    Any number of processes may read while one writes; writers wait for each other, up to `timeout` seconds.
    One object holds one SQLite connection behind a lock: threads may share it, and it must not cross a fork.
    Every method that changes something is one transaction, on disk when it returns.

    Nothing of a file is believed unchecked: see `proof.py`. The first look-up reads all texts for that.

    Raises (any method):
        StoreBusyError: another process held the lock for longer than `timeout`.
        StoreWriteError: a write failed; the store is as it was.
        StoreFormatError: the file turned out to be damaged.
        StoreError: the store is closed, or its file was removed or replaced.
    """

    def __init__(self, opened: Opened, path: Path | None, *, read_only: bool) -> None:
        self.path = path
        self._transactions = Transactions(opened, self.name, read_only=read_only)
        try:
            with self._transactions.reading() as (_, ledger):
                self.info = ledger
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls, path: str | Path | None, *, encoder_spec: str, fingerprint: str, dimension: int, timeout: float = 30.0
    ) -> Store:
        """Make a new store; None keeps it in memory.

        Raises:
            EmbeddingError: no vector can have this dimension.
            StoreError: a knowledge base is there already.
            StoreFormatError: another file is there; it is left untouched.
            StoreWriteError: it cannot be written.
        """
        file = None if path is None else connections.given(path)
        made = connections.create(
            file, encoder_spec=encoder_spec, fingerprint=fingerprint, dimension=dimension, timeout=timeout
        )
        return cls(made, file, read_only=False)

    @classmethod
    def open(cls, path: str | Path, *, read_only: bool = False, timeout: float = 30.0) -> Store:
        """Open an existing store. A file of an older format is brought to the newest, unless it is opened to read.

        Raises:
            StoreError: there is none.
            StoreFormatError: the file is something else, damaged, or of a newer format; it is left untouched.
        """
        file = connections.given(path)
        return cls(connections.connect(file, read_only=read_only, timeout=timeout), file, read_only=read_only)

    @property
    def name(self) -> str:
        """The path, for messages."""
        return "the knowledge base in memory" if self.path is None else str(self.path)

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""
        return self._transactions.read_only

    def refuse_if_read_only(self) -> None:
        """Raise StoreWriteError when changes are refused anyway."""
        self._transactions.refuse_if_read_only()

    def wait_to_write(self) -> None:
        """Return when no other process writes; see `Transactions.wait_to_write`."""
        self._transactions.wait_to_write()

    def close(self) -> None:
        """Release the file. Closing again does nothing."""
        self._transactions.close()

    # --- writing -----------------------------------------------------------------------------------------

    def upsert(
        self,
        triples: Sequence[Triple],
        key: np.ndarray,
        value: np.ndarray,
        annotated: Iterable[tuple[Triple, Triple]] = (),
    ) -> tuple[int, int]:
        """Add triples, or replace those with the same identity; returns (added, updated).

        Args:
            triples: if one identity is given twice, the later is kept.
            key, value: (len(triples), P) vectors.
            annotated: (old, new) triples whose encoded texts are equal, which keep their vectors. One that is no
                longer `old` was changed by someone else meanwhile, and stays as they left it.

        Raises:
            EmbeddingError: before anything is written, when a vector cannot be stored.
        """
        names = [triple.identity for triple in triples]
        keys = to_blobs(key, names, self.info.dimension, "key")
        values = to_blobs(value, names, self.info.dimension, "value")
        with self._transactions.writing() as (sql, ledger):
            rows = RowWriter(self.name, sql, ledger)
            added = sum(rows.put(*each) for each in zip(triples, keys, values, strict=True))
            changed = sum(rows.annotate(old, new) for old, new in annotated)
        return added, len(triples) - added + changed

    def remove(self, name: str, property: str | None = None) -> int:
        """Remove one triple, or all of a name; returns how many there were."""
        if property is None:
            wanted: tuple[str, ...] = identity_of(name, "any")[:1]
            where = "name = ?"
        else:
            where, wanted = "name = ? AND property = ?", identity_of(name, property)
        with self._transactions.writing() as (sql, ledger):
            rows = sql.execute(f"SELECT id FROM triples WHERE {where}", wanted).fetchall()
            writer = RowWriter(self.name, sql, ledger)
            for (row,) in rows:
                writer.remove(row)
        return len(rows)

    # --- reading triples ---------------------------------------------------------------------------------

    def count(self) -> int:
        """How many triples there are."""
        with self._transactions.reading() as (sql, ledger):
            return self._count(sql, ledger)

    @property
    def revision(self) -> int:
        """Rises with every transaction that changed something; 0 for a store that never held anything."""
        with self._transactions.reading() as (_, ledger):
            return ledger.revision

    def triples(self) -> Iterator[Triple]:
        """All triples in the order they were added. What is written meanwhile may or may not be seen."""
        last, found, first = 0, (0, 0), -1
        while True:
            with self._transactions.reading() as (sql, ledger):
                first = ledger.revision if first < 0 else first
                rows = list(proof.triples_in_order(self.name, sql, ledger, last, proof.CHUNK))
                if not rows and first == ledger.revision:
                    proof.check_totals(self.name, ledger, found, (ledger.triples, ledger.texts_sum), "triples")
            if not rows:
                return
            last = rows[-1][0]
            found = found[0] + len(rows), found[1] + sum(checksum for _, checksum, _ in rows)
            for _, _, triple in rows:
                yield triple

    def get(self, identities: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Triple]:
        """The stored triples of those identities that are there."""
        found = {}
        with self._transactions.looking_up() as (sql, ledger):
            select = f"SELECT {proof.columns_of_texts(ledger)} FROM triples WHERE name = ? AND property = ?"
            for identity in identities:
                row = sql.execute(select, identity).fetchone()
                if row is not None:
                    found[identity] = proof.checked_triple(self.name, row, ledger)
        return found

    def at(self, ids: Sequence[int]) -> list[Triple]:
        """The triples with these ids, in this order.

        Raises:
            StoreError: an id is not there (it was removed, or never given).
        """
        wanted = [int(one) for one in ids]
        found = self.there(wanted)
        for one in wanted:
            if one not in found:
                raise StoreError(f"{self.name} has no triple with id {one}: it was removed, or never there")
        return [found[one] for one in wanted]

    def there(self, ids: Sequence[int]) -> dict[int, Triple]:
        """Of these ids those that are there, with their triples, from one moment."""
        found: dict[int, Triple] = {}
        with self._transactions.reading() as (sql, ledger):
            select = f"SELECT {proof.columns_of_texts(ledger)} FROM triples WHERE id IN"
            possible = [one for one in ids if 0 < one < _LARGEST_ID]
            for start in range(0, len(possible), _VARIABLES):
                part = possible[start : start + _VARIABLES]
                for row in sql.execute(f"{select} ({','.join('?' * len(part))})", part):
                    found[row[0]] = proof.checked_triple(self.name, row, ledger)
        return found

    def standing(self, identities: Iterable[tuple[str, str]]) -> tuple[int, list[tuple[int, int, Triple]]]:
        """The revision, and of the identities that are there (id, revision of its last change, triple)."""
        found = []
        with self._transactions.looking_up() as (sql, ledger):
            columns = proof.columns_of_texts(ledger)
            select = f"SELECT {columns}, id, revision FROM triples WHERE name = ? AND property = ?"
            for identity in identities:
                row = sql.execute(select, identity).fetchone()
                if row is not None:
                    found.append((row[-2], row[-1], proof.checked_triple(self.name, row[:-2], ledger)))
            return ledger.revision, found

    def find(self, name: str) -> list[Triple]:
        """All triples of exactly this name (case counts, white space around it does not)."""
        wanted, _ = identity_of(name, "any")
        with self._transactions.looking_up() as (sql, ledger):
            select = f"SELECT {proof.columns_of_texts(ledger)} FROM triples WHERE name = ? ORDER BY id"
            rows = sql.execute(select, (wanted,)).fetchall()
        return [proof.checked_triple(self.name, row, ledger) for row in rows]

    def ids_of(self, names: Iterable[str], *, most: int) -> list[int]:
        """The ids of the triples of exactly these names, `most` of each at most, in ascending order of each."""
        with self._transactions.looking_up() as (sql, _):
            select = "SELECT id FROM triples WHERE name = ? ORDER BY id LIMIT ?"
            return [one for name in names for (one,) in sql.execute(select, (name, whole("most", most)))]

    def properties(self, *, since: int, most: int) -> list[str]:
        """Different properties of the triples written after a revision, those with most triples first."""
        with self._transactions.looking_up() as (sql, _):
            # Counted here: SQLite would sort all of them first.
            counts = Counter(
                row[0] for row in sql.execute(f"SELECT property FROM {_TRIPLES_SINCE}", (whole("since", since),))
            )
        return heapq.nsmallest(whole("most", most), counts, key=lambda one: (-counts[one], one))

    def names(self, *, since: int) -> list[str]:
        """Different names of the triples written after a revision."""
        with self._transactions.looking_up() as (sql, _):
            if since == 0:  # all of them are in the index of names
                rows = sql.execute("SELECT DISTINCT name FROM triples")
            else:
                rows = sql.execute(f"SELECT DISTINCT name FROM {_TRIPLES_SINCE}", (whole("since", since),))
            return [row[0] for row in rows]

    def has_removed(self, since: int) -> bool:
        """Whether triples were removed after a revision."""
        with self._transactions.looking_up() as (sql, _):
            select = "SELECT 1 FROM removed WHERE revision > ? LIMIT 1"
            return sql.execute(select, (whole("since", since),)).fetchone() is not None

    def distinct(self) -> tuple[int, int]:
        """How many different names and properties there are."""
        with self._transactions.looking_up() as (sql, _):
            names, properties = sql.execute(
                "SELECT count(DISTINCT name), count(DISTINCT property) FROM triples"
            ).fetchone()
            return int(names), int(properties)

    def search(self, text: str, *, limit: int = 20, everywhere: bool = False) -> list[Triple]:
        """Triples whose name holds every word of `text`, in any case and order, also inside longer words.

        Best first: names that begin with the text (so the name itself before all), then shorter names. No
        character is special. An empty text finds nothing.

        Args:
            everywhere: also triples whose name, property and value together hold every word, after those.

        Raises:
            TripleFormatError: no name can hold the text.
        """
        with self._transactions.looking_up() as (sql, ledger):
            rows = search(sql, proof.columns_of_texts(ledger), text, limit, everywhere=everywhere)
        return [proof.checked_triple(self.name, row, ledger) for row in rows]

    # --- reading vectors ---------------------------------------------------------------------------------

    def embeddings(self) -> Embeddings:
        """All vectors, from one moment."""
        return self.changes_since(0).upserted

    def changes_since(self, revision: int) -> Changes:
        """What was written and removed after `revision`, from one moment; 0 gives everything.

        Raises:
            StoreError: `revision` is ahead of the store, so it belongs to another one.
        """
        with self.pieces_since(revision) as pieces:
            shape = (len(pieces.ids), self.info.dimension)
            key, value = np.empty(shape, np.float16), np.empty(shape, np.float16)
            at = 0
            for piece in pieces.vectors:
                here = slice(at, at + len(piece.ids))
                key[here], value[here], at = piece.key, piece.value, here.stop
        return Changes(Embeddings(pieces.ids, key, value, pieces.revision), pieces.removed, pieces.revision)

    @contextmanager
    def pieces_since(self, revision: int) -> Iterator[Pieces]:
        """As `changes_since`, with vectors that are read in the block; other threads wait with what they ask for.

        Raises:
            StoreError: as `changes_since`.
        """
        with self._transactions.looking_up() if revision else self._transactions.reading() as (sql, ledger):
            pieces = pieces_since(self.name, sql, ledger, revision)
            with closing(pieces.vectors):
                yield pieces

    def _count(self, sql: sqlite3.Connection, ledger: Ledger) -> int:
        if ledger.checked:
            return ledger.triples
        return int(sql.execute("SELECT count(*) FROM triples").fetchone()[0])

    # --- as a whole --------------------------------------------------------------------------------------

    def copy_to(self, path: str | Path, timeout: float = 30.0) -> None:
        """Writes all of it, as of one moment, to a new file.

        Raises:
            StoreError: something is there already, or it cannot be written.
        """
        with self._transactions.reading() as (sql, _):
            write_copy(sql, connections.given(path), timeout)

    def check(self) -> None:
        """Reads all of the file.

        Raises:
            StoreFormatError: anything is not as it was written.
        """
        with self._transactions.reading() as (sql, ledger):
            proof.prove_everything(self.name, sql)
            proof.prove_texts(self.name, sql, ledger)
            for _ in pieces_since(self.name, sql, ledger, 0).vectors:
                pass
            last = 0
            while part := list(proof.triples_in_order(self.name, sql, ledger, last, proof.CHUNK)):
                last = part[-1][0]
                names = sql.execute(
                    "SELECT folded FROM triples WHERE id BETWEEN ? AND ? ORDER BY id", (part[0][0], last)
                ).fetchall()
                if [fold(triple.name) for _, _, triple in part] != [folded for (folded,) in names]:
                    raise ledgers.damaged(self.name, f"names near id {part[0][0]} are not as they are searched for")
            orphans = "SELECT id FROM sources WHERE id NOT IN (SELECT id FROM triples) LIMIT 1"
            if ledger.has_sources and (orphan := sql.execute(orphans).fetchone()) is not None:
                raise ledgers.damaged(self.name, f"sources of a triple {orphan[0]} that is not there")
