"""Opens a knowledge base file with SQLite, and turns SQLite's errors into ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from kblam.errors import KblamError, StoreBusyError, StoreError, StoreFormatError, StoreWriteError
from kblam.knowledge import schema

# Python 3.10 has no error codes on sqlite3's exceptions, so the messages, which SQLite keeps stable, decide.
_DAMAGED = "the file is damaged: restore it from a copy, or build it again"
_BUSY = "another process is writing to it; try again, or wait longer with timeout"
_MEANING: tuple[tuple[str, type[StoreError], str], ...] = (
    ("locked", StoreBusyError, _BUSY),
    ("busy", StoreBusyError, _BUSY),
    ("disk is full", StoreWriteError, "the disk is full: make room and run the same command again"),
    ("readonly", StoreWriteError, "the file or its folder is read-only: change its permissions, or use a copy"),
    ("unable to open", StoreWriteError, "check that the folder exists and may be written"),
    ("disk i/o error", StoreWriteError, "the disk failed or is full: check it, then run the same command again"),
    ("could not decode", StoreFormatError, _DAMAGED),
    ("malformed", StoreFormatError, _DAMAGED),
    ("not a database", StoreFormatError, _DAMAGED),
    ("no such table", StoreFormatError, _DAMAGED),
    ("no such column", StoreFormatError, _DAMAGED),
)


@contextmanager
def sqlite_errors(path: Path | str) -> Iterator[None]:
    """Raise SQLite's errors as typed ones that name the file and the fix."""
    try:
        yield
    except KblamError:
        raise
    except sqlite3.Error as error:
        told = str(error)
        for words, kind, fix in _MEANING:
            if words in told.lower():
                raise kind(f"{path}: {told}; {fix}") from error
        raise StoreError(f"{path}: SQLite reports {type(error).__name__}: {told}") from error


def connect(path: Path, *, read_only: bool, timeout: float) -> sqlite3.Connection:
    """Open an existing knowledge base.

    Raises:
        StoreError, StoreFormatError: it cannot be read, or is not a knowledge base of a known format.
    """
    schema.check_file(path)
    with sqlite_errors(path):
        if read_only:
            return _connect_to_read(path, timeout)
        connection = _open(path, "mode=rw", timeout)
        try:
            _check(path, connection)
            _use_wal(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def create(
    path: Path | None, *, encoder_spec: str, fingerprint: str, dimension: int, timeout: float
) -> sqlite3.Connection:
    """Make a new knowledge base in a file, or in memory for None. The file is whole or blank, never in between.

    Raises:
        StoreError: a knowledge base is there already, also when another process was faster.
        StoreFormatError: something else is there; it is left untouched.
        StoreWriteError: it cannot be written.
    """
    if path is not None and not schema.is_blank(path):
        schema.check_file(path)
        raise _exists(path)
    where: Path | str = path or "memory"
    with sqlite_errors(where):
        if path is None:
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        else:
            connection = _open(path, "mode=rwc", timeout)
        try:
            connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
            connection.execute("BEGIN EXCLUSIVE")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                connection.execute("ROLLBACK")
                raise _exists(where)
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {schema.FORMAT_VERSION}")
            for statement in schema.TABLES:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO store VALUES (1, ?, ?, ?, ?, 0)", (uuid4().hex, encoder_spec, fingerprint, dimension)
            )
            connection.execute("COMMIT")
            # Only now: a file in WAL mode may keep its first pages, which say what it is, in the log.
            _use_wal(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _exists(where: Path | str) -> StoreError:
    return StoreError(f"{where} already holds a knowledge base; open it, or update it with `kblam kb build`")


def _open(path: Path, options: str, timeout: float) -> sqlite3.Connection:
    # The store guards the connection with a lock, so that any thread may use it.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{options}",
        uri=True,
        timeout=timeout,
        isolation_level=None,
        check_same_thread=False,
    )


def _connect_to_read(path: Path, timeout: float) -> sqlite3.Connection:
    # mode=ro is avoided where possible: such a connection leaves its -wal and -shm files behind when closed.
    connection = _open(path, "mode=rw", timeout)
    try:
        connection.execute("PRAGMA query_only = ON")
        _check(path, connection)
    except sqlite3.OperationalError as error:
        connection.close()
        log = path.with_name(path.name + "-wal")
        forbidden = any(words in str(error) for words in ("unable to open", "readonly"))
        if not forbidden or (log.exists() and log.stat().st_size > 0):
            raise
        # WAL needs a small file beside the database, which a read-only folder cannot have. With no log there
        # are no changes to miss, so the file may be read as it stands.
        connection = _open(path, "mode=ro&immutable=1", timeout)
        _check(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Check again through SQLite: recovering a log may have changed the first bytes."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    schema.check_numbers(path, application, version)
    connection.execute("SELECT revision FROM store").fetchone()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL, unless another process that works with the file right now prevents it."""
    # In memory, and on file systems without shared memory, SQLite answers with another mode and goes on.
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        # The next process to open it will switch it; until then it is as safe, only less concurrent.
