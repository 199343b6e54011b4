"""An older format to the newest, in place, in one transaction: checksums of all rows and the ledger, and sources."""

from __future__ import annotations

import sqlite3

import numpy as np

from kblam.knowledge import ledger as ledgers
from kblam.knowledge import proof, schema
from kblam.knowledge.ledger import Ledger, checksum_of, checksum_of_texts, checksum_of_vectors


def migrate(name: str, sql: sqlite3.Connection) -> None:
    """Brings an open file to the newest format. What is there of format 1 is checked first, as far as it can be.

    Raises:
        StoreFormatError: it is damaged; nothing was written.
    """
    sql.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been faster.
        version = schema.check_opened(name, sql)
        ledger = ledgers.read(name, sql)
        if version == 1:
            proof.prove_everything(name, sql)
            proof.prove_texts(name, sql, ledger)
        for added in range(version + 1, schema.FORMAT_VERSION + 1):
            for statement in schema.ADDED[added]:
                sql.execute(statement)
        if version == 1:
            _fill(name, sql, ledger)
        sql.execute(f"PRAGMA user_version = {schema.FORMAT_VERSION}")
        sql.execute("COMMIT")
    except BaseException:
        if sql.in_transaction:
            sql.execute("ROLLBACK")
        raise


def _fill(name: str, sql: sqlite3.Connection, ledger: Ledger) -> None:
    last = 0
    while rows := sql.execute(
        f"SELECT {proof.columns_of_texts(ledger)} FROM triples WHERE id > ? ORDER BY id LIMIT ?", (last, proof.CHUNK)
    ).fetchall():
        last = rows[-1][0]
        vectors = sql.execute(
            f"SELECT {proof.columns_of_vectors(ledger)} FROM embeddings WHERE id BETWEEN ? AND ? ORDER BY id",
            (rows[0][0], last),
        ).fetchall()
        proof.checked_vectors(name, vectors, ledger, np.array([row[0] for row in rows]))
        sums = [
            (row[0], checksum_of_texts(row[:-2], None), checksum_of_vectors(*vector[:-1]))
            for row, vector in zip(rows, vectors, strict=True)
        ]
        sql.executemany("INSERT INTO checksums (id, texts, vectors) VALUES (?, ?, ?)", sums)
        ledger.triples += len(sums)
        ledger.texts_sum += sum(texts for _, texts, _ in sums)
        ledger.vectors_sum += sum(vectors for _, _, vectors in sums)
    ledger.removed = int(sql.execute("SELECT count(*) FROM removed").fetchone()[0])
    ledger.removed_sum = sum(checksum_of(*row) for row in sql.execute("SELECT id, revision FROM removed"))
    ledgers.write(sql, ledger)
