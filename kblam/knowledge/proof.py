"""Rows of a store are checked before they are used: types, order, checksums, and that none is missing.

What is read in full is checked while it is read. What is looked up through an index can be wrong by what is *not*
found, so before the first look-up `prove_texts` reads all texts and lets SQLite compare each index with its table.
It makes no triple of a text whose checksum is right: that is half of the time, and each look-up makes those it returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kblam.errors import TripleFormatError
from kblam.knowledge.embeddings import from_blobs
from kblam.knowledge.ledger import Ledger, checksum_of, checksum_of_texts, checksum_of_vectors, damaged
from kblam.knowledge.sources import read_sources
from kblam.knowledge.triples import FIELDS, Triple, sources_text

CHUNK = 2048  # rows fetched at a time
_HIGHEST_ID = 1 << 62  # at the end of what it counts SQLite says that the disk is full
_INFINITE = 0x7C00  # the exponent of a float16 that is infinite or NaN
# Checking one table alone came with SQLite 3.33.
_BY_TABLE = sqlite3.sqlite_version_info >= (3, 33)


def columns_of_texts(ledger: Ledger) -> str:
    """What to select from `triples` for `checked_triple`."""
    sources = "(SELECT sources FROM sources WHERE sources.id = triples.id)" if ledger.has_sources else "NULL"
    sums = "(SELECT texts FROM checksums WHERE checksums.id = triples.id)" if ledger.checked else "NULL"
    return f"id, name, property, value, key_string, question, answer, folded, revision, {sources}, {sums}"


def columns_of_vectors(ledger: Ledger) -> str:
    """What to select from `embeddings` for `checked_vectors`."""
    sums = "(SELECT vectors FROM checksums WHERE checksums.id = embeddings.id)" if ledger.checked else "NULL"
    return f"id, key, value, {sums}"


def checked_triple(name: str, row: Sequence[Any], ledger: Ledger) -> Triple:
    """The triple of a row of `columns_of_texts`.

    Raises:
        StoreFormatError: it is not as it was written.
    """
    _check_checksum(name, row, ledger)
    *texts, sources, _ = row
    try:
        fields = dict(zip(FIELDS, texts[1:7], strict=True))
        triple = Triple(**fields, sources=() if sources is None else read_sources(sources))
    except TripleFormatError as error:
        raise damaged(name, f"triple {row[0]} cannot be: {error}") from error
    made = [triple.name, triple.property, triple.value, triple.key_string, triple.question, triple.answer]
    is_as_made = made == texts[1:7] and sources_text(triple) == sources
    if not is_as_made or type(row[7]) is not str or type(row[8]) is not int:
        raise damaged(name, f"triple {row[0]} is not in the form that kblam stores")
    return triple


def _check_checksum(name: str, row: Sequence[Any], ledger: Ledger) -> None:
    *texts, sources, checksum = row
    if ledger.checked and checksum_of_texts(texts, sources) != checksum:
        raise damaged(name, f"the texts of triple {row[0]} have a wrong checksum")


def checked_vectors(
    name: str, rows: Sequence[Sequence[Any]], ledger: Ledger, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The keys and values, (n, P) float16, in rows of `columns_of_vectors`: those of the triples with these ids.

    Raises:
        StoreFormatError: some are missing, of another width, not finite, or not as they were written.
    """
    where = f"vectors near id {ids[0]}"
    key, value = (np.empty((len(ids), ledger.dimension), np.float16) for _ in range(2))
    if not (
        [row[0] for row in rows] == ids.tolist()
        and from_blobs([row[1] for row in rows], key)
        and from_blobs([row[2] for row in rows], value)
    ):
        raise damaged(name, f"{where} are missing or do not have {ledger.dimension} numbers")
    if ledger.checked and any(checksum_of_vectors(one, k, v) != found for one, k, v, found in rows):
        raise damaged(name, f"{where} have a wrong checksum")
    for vectors in (key, value):
        if ((vectors.view(np.uint16) & _INFINITE) == _INFINITE).any():
            raise damaged(name, f"{where} hold NaN or infinity")
    return key, value


def triples_in_order(
    name: str, sql: sqlite3.Connection, ledger: Ledger, after: int, limit: int
) -> Iterator[tuple[int, int, Triple]]:
    """(id, checksum, triple) of the next rows after an id.

    Raises:
        StoreFormatError: a row is not as it was written, or out of order.
    """
    for row in _rows_in_order(name, sql, ledger, after, limit):
        yield row[0], row[-1] or 0, checked_triple(name, row, ledger)


def texts_in_order(
    name: str, sql: sqlite3.Connection, ledger: Ledger, after: int, limit: int
) -> Iterator[tuple[int, int]]:
    """(id, checksum) of the next rows after an id.

    Raises:
        StoreFormatError: a row is not as it was written, or out of order.
    """
    for row in _rows_in_order(name, sql, ledger, after, limit):
        if not ledger.checked:
            checked_triple(name, row, ledger)
        elif type(row[1]) is not str or type(row[2]) is not str:  # a number has the checksum of its digits
            raise damaged(name, f"triple {row[0]} is not in the form that kblam stores")
        else:
            _check_checksum(name, row, ledger)
        yield row[0], row[-1] or 0


def _rows_in_order(
    name: str, sql: sqlite3.Connection, ledger: Ledger, after: int, limit: int
) -> Iterator[Sequence[Any]]:
    rows = sql.execute(
        f"SELECT {columns_of_texts(ledger)} FROM triples WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()
    for row in rows:
        if type(row[0]) is not int or row[0] <= after:
            raise damaged(name, "ids are not in order")
        after = row[0]
        yield row


def removed_since(name: str, sql: sqlite3.Connection, ledger: Ledger, revision: int) -> np.ndarray:
    """(R,) int64, ascending: ids of triples removed after a revision; after 0, all, checked against the ledger.

    Raises:
        StoreFormatError: they are not as they were written.
    """
    # Sorted here: asked for an order, SQLite would walk through the table in it.
    rows = sql.execute("SELECT id, revision FROM removed WHERE revision > ?", (revision,)).fetchall()
    if not all(type(one) is int and type(when) is int for one, when in rows):
        raise damaged(name, "ids of removed triples are no numbers")
    total = sum(checksum_of(*row) for row in rows)
    if ledger.checked and revision == 0 and (len(rows), total) != (ledger.removed, ledger.removed_sum):
        raise damaged(name, "the list of removed triples has a wrong checksum")
    return np.sort(np.array([row[0] for row in rows], np.int64))


def prove_texts(name: str, sql: sqlite3.Connection, ledger: Ledger) -> None:
    """All texts, and all indexes: afterwards what a look-up does not find is not there.

    Raises:
        StoreFormatError: something is not as it was written.
    """
    for table in ("triples", "removed") if _BY_TABLE else ("1",):
        told = sql.execute(f"PRAGMA integrity_check({table})").fetchone()[0]
        if told != "ok":
            raise damaged(name, str(told).splitlines()[0][:120])
    last = count = total = 0
    before = -1
    while count > before:
        before = count
        for id, checksum in texts_in_order(name, sql, ledger, last, CHUNK):
            last = id
            count += 1
            total += checksum
    check_totals(name, ledger, (count, total), (ledger.triples, ledger.texts_sum), "texts")
    removed = removed_since(name, sql, ledger, 0)
    given = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'triples'").fetchone()
    highest = max(last, int(removed[-1]) if len(removed) else 0)
    newest = 0 if given is None else given[0]
    if type(newest) is not int or newest < highest:
        raise damaged(name, "ids that were given once would be given again")
    if newest > _HIGHEST_ID:
        raise damaged(name, "no ids are left to give")


def prove_everything(name: str, sql: sqlite3.Connection) -> None:
    """SQLite's own check of the whole file.

    Raises:
        StoreFormatError: its structure is damaged.
    """
    told = sql.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if told != "ok":
        raise damaged(name, str(told).splitlines()[0][:120])


def check_totals(name: str, ledger: Ledger, found: tuple[int, int], expected: tuple[int, int], what: str) -> None:
    """Whether as many rows were read as there are, with the sum of checksums that they have together.

    Raises:
        StoreFormatError: if not.
    """
    if ledger.checked and found != expected:
        raise damaged(
            name, f"{found[0]:,} {what} were read where {expected[0]:,} are stored, or some of another moment"
        )
