"""A new file with all that another one has."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from uuid import uuid4

from kblam.errors import StoreError, StoreWriteError
from kblam.knowledge import ledger as ledgers
from kblam.knowledge.connection import connect, located, sqlite_errors
from kblam.whole import whole


def write_copy(sql: sqlite3.Connection, target: Path, timeout: float) -> None:
    """Copies a database as it is in this transaction; the copy is another knowledge base, which counts for itself.

    Raises:
        StoreError: something is there already, or it cannot be written.
    """
    file = located(target)
    try:
        with whole(file, overwrite=False) as unfinished:
            try:
                _copy(sql, unfinished, timeout)
            finally:
                for ending in ("-wal", "-shm"):
                    unfinished.with_name(unfinished.name + ending).unlink(missing_ok=True)
    except FileExistsError:
        raise StoreError(f"{target} is there already; choose another place for the copy") from None
    except OSError as error:
        raise StoreWriteError(f"cannot write {target}: {error.strerror}; choose another place for the copy") from error


def _copy(sql: sqlite3.Connection, file: Path, timeout: float) -> None:
    with sqlite_errors(file), contextlib.closing(sqlite3.connect(file, isolation_level=None)) as copy:
        sql.backup(copy)
    with contextlib.closing(connect(file, read_only=False, timeout=timeout)) as made, sqlite_errors(file):
        made.connection.execute("BEGIN IMMEDIATE")
        ledger = ledgers.read(str(file), made.connection)
        ledger.store_id = uuid4().hex
        ledgers.write(made.connection, ledger)
        made.connection.execute("COMMIT")
