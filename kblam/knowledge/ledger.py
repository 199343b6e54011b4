"""What a store says of its own rows: how many there are, and the sums of their checksums.

Each row has a CRC-32. The sums of them tell that no row is missing, doubled or of an older moment. This finds damage,
not forgery: who changes a file on purpose can write right checksums too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from kblam.errors import StoreFormatError
from kblam.knowledge.schema import MAX_DIMENSION, check_version

_32_BITS = 0xFFFFFFFF
_LARGEST = 2**62  # of counts, ids, revisions and sums; SQLite holds 2**63


@dataclass(slots=True)
class Ledger:
    """The row of `store`, and the counts and sums that belong to its revision.

    In a file of format 1 `checked` is False and counts and sums are 0: nothing is known of its rows. `has_sources` is
    whether there is a table of them, from format 3 on.
    """

    store_id: str
    encoder_spec: str
    fingerprint: str
    dimension: int
    revision: int
    triples: int = 0
    removed: int = 0
    texts_sum: int = 0
    vectors_sum: int = 0
    removed_sum: int = 0
    checked: bool = True
    has_sources: bool = True

    @property
    def checksum(self) -> int:
        """Over all of it."""
        counts = (self.triples, self.removed, self.texts_sum, self.vectors_sum, self.removed_sum)
        return checksum_of(self.store_id, self.encoder_spec, self.fingerprint, self.dimension, self.revision, *counts)


def read(name: str, sql: sqlite3.Connection) -> Ledger:
    """The ledger of a file, in the format that it has in this transaction: another process may have brought it up.

    Raises:
        StoreFormatError: a value cannot be, or its checksum is wrong; or the file is of a newer format by now.
    """
    version = sql.execute("PRAGMA user_version").fetchone()[0]
    check_version(name, version)
    rows = sql.execute(
        "SELECT store_id, encoder_spec, fingerprint, dimension, revision FROM store WHERE row = 1"
    ).fetchall()
    counts = []
    if version > 1:
        counts = sql.execute(
            "SELECT triples, removed, texts_sum, vectors_sum, removed_sum, checksum FROM ledger WHERE row = 1"
        ).fetchall()
    if len(rows) != 1 or len(counts) != (version > 1):
        raise damaged(name, "it has no description of itself")
    *texts, dimension, revision = rows[0]
    numbers = (dimension, revision, *(counts[0] if counts else ()))
    if not all(type(text) is str for text in texts):
        raise damaged(name, "a text of its description is none")
    if not all(type(number) is int and 0 <= number < _LARGEST for number in numbers):
        raise damaged(name, "a number of its description cannot be")
    if not 1 <= dimension <= MAX_DIMENSION:
        raise damaged(name, f"it says that a vector has {dimension:,} numbers")
    store_id, encoder_spec, fingerprint = texts
    if not counts:
        return Ledger(store_id, encoder_spec, fingerprint, dimension, revision, checked=False, has_sources=False)
    ledger = Ledger(store_id, encoder_spec, fingerprint, dimension, revision, *counts[0][:-1])
    ledger.has_sources = version > 2
    if ledger.checksum != counts[0][-1]:
        raise damaged(name, "the checksum of its description is wrong")
    return ledger


def write(sql: sqlite3.Connection, ledger: Ledger) -> None:
    """Store the ledger of a file of the newest format."""
    sql.execute(
        "REPLACE INTO store (row, store_id, encoder_spec, fingerprint, dimension, revision) VALUES (1, ?, ?, ?, ?, ?)",
        (ledger.store_id, ledger.encoder_spec, ledger.fingerprint, ledger.dimension, ledger.revision),
    )
    sql.execute(
        "REPLACE INTO ledger (row, triples, removed, texts_sum, vectors_sum, removed_sum, checksum) "
        "VALUES (1, ?, ?, ?, ?, ?, ?)",
        (ledger.triples, ledger.removed, ledger.texts_sum, ledger.vectors_sum, ledger.removed_sum, ledger.checksum),
    )


def checksum_of(*fields: str | int | None) -> int:
    """Of a row of texts and numbers. No text holds a NUL, and none is empty, so fields cannot run into each other."""
    return crc32("\0".join(["" if field is None else str(field) for field in fields]).encode())


def checksum_of_texts(row: Sequence[str | int | None], sources: str | None) -> int:
    """Of a row of `triples`, and of what `sources` has for it: nothing more where that is nothing, as in format 2."""
    return checksum_of(*row) if sources is None else checksum_of(*row, sources)


def checksum_of_vectors(id: int, key: bytes, value: bytes) -> int:
    """Of a row of `embeddings`."""
    return crc32(value, crc32(key, id & _32_BITS))


def damaged(name: str, what: str) -> StoreFormatError:
    """The error for data that is not as it was written."""
    return StoreFormatError(f"{name}: the file is damaged: {what}; restore it from a copy, or build it again")
