"""Rows of a store written within one transaction, each with its checksums and its part in the ledger's sums."""

from __future__ import annotations

import sqlite3

from kblam.knowledge import ledger as ledgers
from kblam.knowledge.ledger import Ledger, checksum_of, checksum_of_texts, checksum_of_vectors
from kblam.knowledge.search import fold
from kblam.knowledge.triples import Triple, sources_text

_TEXTS = "name, property, value, key_string, question, answer"


class RowWriter:
    """Writes rows within a transaction that the caller has begun and ends.

    Args:
        name: of the store, for messages.
        ledger: of the transaction; changed in place.
    """

    def __init__(self, name: str, sql: sqlite3.Connection, ledger: Ledger) -> None:
        self._name, self._sql, self._ledger = name, sql, ledger

    def put(self, triple: Triple, key: bytes, value: bytes) -> bool:
        """Adds a triple with its vectors, or replaces the one with its identity; whether it was added."""
        sql, ledger = self._sql, self._ledger
        texts = (*_texts(triple), fold(triple.name), ledger.revision)
        known = sql.execute("SELECT id FROM triples WHERE name = ? AND property = ?", triple.identity).fetchone()
        if known is None:
            row = sql.execute(
                f"INSERT INTO triples ({_TEXTS}, folded, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", texts
            ).lastrowid
            assert row is not None
            ledger.triples += 1
        else:
            row = known[0]
            sql.execute(
                "UPDATE triples SET value = ?, key_string = ?, question = ?, answer = ?, revision = ? WHERE id = ?",
                (*texts[2:6], ledger.revision, row),
            )
        sql.execute("REPLACE INTO embeddings (id, key, value) VALUES (?, ?, ?)", (row, key, value))
        checksum = checksum_of_texts((row, *texts), self._keep_sources(row, triple))
        self._note(row, checksum, checksum_of_vectors(row, key, value), is_new=known is None)
        return known is None

    def annotate(self, old: Triple, new: Triple) -> bool:
        """Replaces the texts beside a triple's words, keeping its vectors; False if it is no longer `old`."""
        found = self._sql.execute(
            "SELECT id, folded FROM triples WHERE name = ? AND property = ? AND value = ? "
            "AND key_string IS ? AND question IS ? AND answer IS ? "
            "AND (SELECT sources FROM sources WHERE sources.id = triples.id) IS ?",
            (*_texts(old), sources_text(old)),
        ).fetchone()
        if found is None:
            return False
        row, folded = found
        revision = self._ledger.revision
        self._sql.execute(
            "UPDATE triples SET key_string = ?, question = ?, answer = ?, revision = ? WHERE id = ?",
            (new.key_string, new.question, new.answer, revision, row),
        )
        checksum = checksum_of_texts((row, *_texts(new), folded, revision), self._keep_sources(row, new))
        self._note(row, checksum, None, is_new=False)
        return True

    def remove(self, row: int) -> None:
        """Removes the triple with this id, which must be there, and its vectors."""
        sql, ledger = self._sql, self._ledger
        self._forget(row)
        for table in ("triples", "embeddings", "checksums", "sources"):
            sql.execute(f"DELETE FROM {table} WHERE id = ?", (row,))
        sql.execute("INSERT INTO removed (id, revision) VALUES (?, ?)", (row, ledger.revision))
        ledger.triples -= 1
        ledger.removed += 1
        ledger.removed_sum += checksum_of(row, ledger.revision)

    def _keep_sources(self, row: int, triple: Triple) -> str | None:
        """Stores what a triple's sources are now, and returns it as it is stored; None for none."""
        text = sources_text(triple)
        if text is None:
            self._sql.execute("DELETE FROM sources WHERE id = ?", (row,))
        else:
            self._sql.execute("REPLACE INTO sources (id, sources) VALUES (?, ?)", (row, text))
        return text

    def _note(self, row: int, texts: int, vectors: int | None, *, is_new: bool) -> None:
        """Records the checksums of a row, of its texts and of its vectors; None where these stay as they are."""
        before = (0, 0) if is_new else self._forget(row)
        vectors = before[1] if vectors is None else vectors
        self._sql.execute("REPLACE INTO checksums (id, texts, vectors) VALUES (?, ?, ?)", (row, texts, vectors))
        self._ledger.texts_sum += texts
        self._ledger.vectors_sum += vectors

    def _forget(self, row: int) -> tuple[int, int]:
        """Takes the checksums of a row out of the sums, and returns them."""
        before = self._sql.execute("SELECT texts, vectors FROM checksums WHERE id = ?", (row,)).fetchone()
        if before is None or not all(type(one) is int for one in before):
            raise ledgers.damaged(self._name, f"triple {row} has no checksums")
        self._ledger.texts_sum -= before[0]
        self._ledger.vectors_sum -= before[1]
        return before[0], before[1]


def _texts(triple: Triple) -> tuple[str | None, ...]:
    return (triple.name, triple.property, triple.value, triple.key_string, triple.question, triple.answer)
