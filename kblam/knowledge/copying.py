"""Copies a knowledge base, as of one moment, to a new file."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from uuid import uuid4

from kblam.knowledge import ledger as ledgers
from kblam.knowledge.connection import connect, sqlite_errors
from kblam.knowledge.knowledge_base import KnowledgeBase
from kblam.knowledge.store import Store

_TIMEOUT = 30.0  # seconds to wait for another writer of the original


def copy_knowledge_base(knowledge_base: str | Path | KnowledgeBase, target: Path) -> None:
    """Writes all of it to a new file, including the write-ahead log; nothing is encoded again.

    Args:
        knowledge_base: a file, or an open knowledge base, also one in memory.
        target: a path where nothing exists yet.

    Raises:
        StoreError: it cannot be read, or the copy cannot be written.
    """
    if isinstance(knowledge_base, KnowledgeBase) and knowledge_base.path is None:
        _write_out(knowledge_base, target)
        return
    path = knowledge_base.path if isinstance(knowledge_base, KnowledgeBase) else Path(knowledge_base)
    assert path is not None
    with (
        contextlib.closing(connect(path, read_only=True, timeout=_TIMEOUT)) as source,
        sqlite_errors(target),
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy,
    ):
        source.connection.backup(copy)
    with contextlib.closing(connect(target, read_only=False, timeout=_TIMEOUT)) as made, sqlite_errors(target):
        made.connection.execute("BEGIN IMMEDIATE")
        ledger = ledgers.read(str(target), made.connection)
        ledger.store_id = uuid4().hex
        ledgers.write(made.connection, ledger)
        made.connection.execute("COMMIT")


def _write_out(knowledge_base: KnowledgeBase, target: Path) -> None:
    made = Store.create(
        target,
        encoder_spec=knowledge_base.encoder_spec,
        fingerprint=knowledge_base.fingerprint,
        dimension=knowledge_base.dimension,
    )
    with contextlib.closing(made) as store:
        vectors = knowledge_base.embeddings()
        store.upsert(knowledge_base.triples_at(vectors.ids), vectors.key, vectors.value)
