"""Transactions on an open store: one snapshot to read, one change to write; the file's place is checked each time."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kblam.errors import StoreError, StoreWriteError
from kblam.knowledge import ledger as ledgers
from kblam.knowledge import proof
from kblam.knowledge.connection import sqlite_errors
from kblam.knowledge.ledger import Ledger
from kblam.knowledge.opened import Opened

# Readers that follow each other without a pause keep a log from being used from its beginning again. So a change waits
# for them, but not long, and once for so many bytes.
_LONGEST_LOG = 64 * 2**20
_WAIT_FOR_READERS = 1.0  # seconds
_BETWEEN_TRIES = 0.02  # seconds, to write while another process does


class Transactions:
    """What a store does, one at a time: threads share the connection and wait for each other.

    Args:
        opened: the connection; closed by `close`.
        name: of the store, for messages.
        read_only: whether changes are refused.
    """

    def __init__(self, opened: Opened, name: str, *, read_only: bool) -> None:
        self.opened: Opened | None = opened
        self.name = name
        self.read_only = read_only
        self._lock = threading.RLock()
        self._is_proven = False
        self._longest_log = _LONGEST_LOG

    def close(self) -> None:
        """Release the file. Closing again does nothing."""
        with self._lock:
            if self.opened is not None:
                self.opened.close()
                self.opened = None

    def refuse_if_read_only(self) -> None:
        """Raise StoreWriteError when changes are refused anyway."""
        if self.read_only:
            raise StoreWriteError(f"{self.name} was opened read-only; open it with read_only=False to change it")

    @contextmanager
    def reading(self) -> Iterator[tuple[sqlite3.Connection, Ledger]]:
        """The connection within one snapshot, and the ledger of that moment; in a block of this, of its moment."""
        with self._lock, sqlite_errors(self.name):
            opened = self._still_open()
            sql = opened.connection
            if sql.in_transaction:
                yield sql, ledgers.read(self.name, sql)
                return
            try:
                sql.execute("BEGIN")
                yield sql, ledgers.read(self.name, sql)
            finally:
                if sql.in_transaction:
                    sql.execute("ROLLBACK")

    @contextmanager
    def looking_up(self) -> Iterator[tuple[sqlite3.Connection, Ledger]]:
        """As `reading`, after the proof that what an index does not find is not there."""
        with self.reading() as (sql, ledger):
            self._prove(sql, ledger)
            yield sql, ledger

    @contextmanager
    def writing(self) -> Iterator[tuple[sqlite3.Connection, Ledger]]:
        """The connection, and the ledger with the revision to stamp; committed if something changed, else undone."""
        with sqlite_errors(self.name), self._writing_alone() as opened:
            sql = opened.connection
            ledger = ledgers.read(self.name, sql)
            self._prove(sql, ledger)
            ledger.revision += 1
            before = sql.total_changes
            yield sql, ledger
            if sql.total_changes > before:
                ledgers.write(sql, ledger)
            sql.execute("COMMIT")
            self._still_open()  # or the change went to a file that nobody sees
            self._shorten_log(opened)

    def wait_to_write(self) -> None:
        """Returns when no other process writes to the file; as long as it does, threads may read.

        Raises:
            StoreBusyError: it still does after the time that the store was opened with.
            StoreWriteError: it was opened read-only, or a block around this reads it.
        """
        with sqlite_errors(self.name), self._writing_alone():
            pass

    @contextmanager
    def _writing_alone(self) -> Iterator[Opened]:
        """A transaction that no other process writes beside, undone unless it is committed in the block.

        SQLite's own wait for the other process would keep our readers out.
        """
        self.refuse_if_read_only()
        deadline: float | None = None
        while True:
            with self._lock:
                opened = self._still_open()
                sql = opened.connection
                if sql.in_transaction:
                    raise StoreWriteError(f"{self.name} is read by the block around this change; change it after that")
                try:
                    if self._has_begun(opened, is_last=deadline is not None and time.monotonic() >= deadline):
                        yield opened
                        return
                finally:
                    # Whatever happened since it began, Ctrl-C too; a full disk may have ended it already.
                    if sql.in_transaction:
                        sql.execute("ROLLBACK")
                    _wait(opened, opened.patience)
            if deadline is None:
                deadline = time.monotonic() + opened.patience / 1000
            time.sleep(_BETWEEN_TRIES)

    def _has_begun(self, opened: Opened, *, is_last: bool) -> bool:
        """Begins to write, unless another process does and this is not the last try."""
        try:
            _wait(opened, 0)
            opened.connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if is_last or "locked" not in str(error):
                raise
            return False
        finally:
            _wait(opened, opened.patience)
        return True

    def _shorten_log(self, opened: Opened) -> None:
        """Empties a log that has become long, where readers let it; the change is made either way."""
        if opened.file is None:
            return
        log = opened.file.with_name(opened.file.name + "-wal")
        if _size(log) <= self._longest_log:
            return
        with contextlib.suppress(sqlite3.Error):
            try:
                _wait(opened, min(opened.patience, round(1000 * _WAIT_FOR_READERS)))
                opened.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                _wait(opened, opened.patience)
        self._longest_log = _LONGEST_LOG if (size := _size(log)) <= _LONGEST_LOG else size + _LONGEST_LOG

    def _prove(self, sql: sqlite3.Connection, ledger: Ledger) -> None:
        if not self._is_proven:
            proof.prove_texts(self.name, sql, ledger)
            self._is_proven = True

    def _still_open(self) -> Opened:
        if self.opened is None:
            raise StoreError(f"{self.name} is closed; open it again")
        self.opened.check_place(self.name)
        return self.opened


def _wait(opened: Opened, milliseconds: int) -> None:
    """How long a statement waits for another process from now on."""
    opened.connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
