"""What has changed in a store, its vectors read a piece at a time: those of a million triples are 1.5 GB."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kblam.errors import StoreError
from kblam.knowledge import proof
from kblam.knowledge.ledger import Ledger, damaged


class Piece(NamedTuple):
    """The vectors of a few triples: ids (n,) int64, key and value (n, P) float16."""

    ids: np.ndarray
    key: np.ndarray
    value: np.ndarray


@dataclass(frozen=True)
class Pieces:
    """What happened to a knowledge base after some revision, while it is being read.

    Attributes:
        ids: (M,) int64, ascending: triples that are new or were written since.
        vectors: theirs as they are now, in this order; to be read once, within the block that gave them.
        removed: (R,) int64 ids that are no longer there; some may never have been seen.
        revision: ask from here next time.
    """

    ids: np.ndarray
    vectors: Generator[Piece, None, None]
    removed: np.ndarray
    revision: int


def pieces_since(name: str, sql: sqlite3.Connection, ledger: Ledger, revision: int) -> Pieces:
    """What has changed after `revision`, as a transaction sees it; 0 gives everything.

    Raises:
        StoreError: `revision` is ahead of the store.
        StoreFormatError: something is not as it was written; the vectors raise it too.
    """
    now = ledger.revision
    if not 0 <= revision <= now:
        raise StoreError(f"{name} is at revision {now}, it has no changes since {revision}; start from 0")
    # Read from an index, which holds no texts and is ordered by revision.
    rows = sql.execute("SELECT id FROM triples WHERE revision > ?", (revision,)).fetchall()
    if not all(type(one) is int for (one,) in rows):
        raise damaged(name, "ids of triples are no numbers")
    ids = np.sort(np.fromiter((one for (one,) in rows), np.int64, len(rows)))
    if len(ids) and (ids[0] < 1 or not (ids[1:] > ids[:-1]).all()):
        raise damaged(name, "ids are not in order")
    pages, page = (sql.execute(f"PRAGMA {of}").fetchone()[0] for of in ("page_count", "page_size"))
    if len(ids) * ledger.dimension * 4 > pages * page:  # before memory is asked for
        raise damaged(name, f"it is too small for {len(ids):,} triples of {ledger.dimension:,} numbers")
    removed = proof.removed_since(name, sql, ledger, revision)
    return Pieces(ids, _vectors(name, sql, ledger, ids, revision), removed, now)


def _vectors(
    name: str, sql: sqlite3.Connection, ledger: Ledger, ids: np.ndarray, revision: int
) -> Generator[Piece, None, None]:
    # Not a join: to save a sort, SQLite would walk through all of a large table for one change.
    where = "WHERE id IN (SELECT id FROM triples WHERE revision > ?)" if revision else ""
    select = f"SELECT {proof.columns_of_vectors(ledger)} FROM embeddings {where} ORDER BY id"
    checksums = 0
    # A statement that is left half read, by whoever keeps an error, would go on seeing this moment.
    with closing(sql.execute(select, (revision,) if revision else ())) as rows:
        for start in range(0, len(ids), proof.CHUNK):
            wanted = ids[start : start + proof.CHUNK]
            part = rows.fetchmany(len(wanted))
            key, value = proof.checked_vectors(name, part, ledger, wanted)
            checksums += sum(row[-1] or 0 for row in part)
            yield Piece(wanted, key, value)
    if revision == 0:
        found, expected = (len(ids), checksums), (ledger.triples, ledger.vectors_sum)
        proof.check_totals(name, ledger, found, expected, "vectors")
