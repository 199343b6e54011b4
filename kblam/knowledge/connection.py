"""Opens a knowledge base file with SQLite, and turns SQLite's errors into ours."""

from __future__ import annotations

import contextlib
import operator
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from kblam.errors import EmbeddingError, KblamError, StoreBusyError, StoreError, StoreFormatError, StoreWriteError
from kblam.knowledge import ledger as ledgers
from kblam.knowledge import schema
from kblam.knowledge.foreign_log import set_aside_foreign_log
from kblam.knowledge.ledger import Ledger
from kblam.knowledge.migration import migrate
from kblam.knowledge.opened import Opened, making, opening

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
    ("constraint failed", StoreFormatError, _DAMAGED),
    ("too big", StoreFormatError, _DAMAGED),
)
# In WAL mode SQLite needs a small file beside the database even to read. What it says where that cannot be made:
_NO_ROOM_BESIDE = ("unable to open", "readonly", "disk i/o error", "disk is full")
_STEPS_BETWEEN_SIGNALS = 200_000  # of SQLite's virtual machine: about ten milliseconds
_LARGEST_NUMBER = 2**63 - 1  # of SQLite
_LARGEST_FIELD = 64 * 2**20  # bytes; a vector or a text is far smaller


@contextmanager
def sqlite_errors(path: Path | str) -> Iterator[None]:
    """Raise SQLite's errors as typed ones that name the file and the fix."""
    try:
        yield
    except KblamError:
        raise
    except sqlite3.Error as error:
        told = str(error)
        if told == "interrupted":  # by `_look_for_signals`
            raise KeyboardInterrupt from None
        for words, kind, fix in _MEANING:
            if words in told.lower():
                raise kind(f"{path}: {told}; {fix}") from error
        raise StoreError(f"{path}: SQLite reports {type(error).__name__}: {told}") from error


def given(path: str | Path) -> Path:
    """A path as it was given.

    Raises:
        StoreError: it cannot be one.
    """
    try:
        return Path(path)
    except TypeError as error:
        raise StoreError(f"{path!r} cannot be the path of a knowledge base: {error}") from error


def located(path: str | Path) -> Path:
    """The file that a path means, with `~` and links followed, so that what lies beside it is found.

    Raises:
        StoreError: it cannot be a path.
    """
    try:
        return given(path).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError(f"{str(path)!r} cannot be the path of a knowledge base: {error}") from error


def whole(name: str, value: Any) -> int:
    """A whole number, as near to it as SQLite's 64 bits hold.

    Raises:
        StoreError: it is none.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise StoreError(f"{name} must be a whole number, got {value!r}") from None
    return max(-_LARGEST_NUMBER, min(number, _LARGEST_NUMBER))


def connect(path: Path, *, read_only: bool, timeout: float) -> Opened:
    """Open an existing knowledge base.

    Raises:
        StoreError, StoreFormatError: it cannot be read, or is not a knowledge base of a known format.
    """
    file = located(path)

    def look() -> None:
        schema.check_file(file)
        set_aside_foreign_log(file, lambda options: _open(file, options, timeout))

    with sqlite_errors(path), opening(file, look):
        if read_only:
            return _connect_to_read(file, timeout)
        connection = _open(file, "mode=rw", timeout)
        try:
            version = schema.check_opened(file, connection)
            _use_wal(connection)
            if version < schema.FORMAT_VERSION:
                migrate(str(path), connection)
            return Opened(connection, file)
        except BaseException:
            connection.close()
            raise


def create(path: Path | None, *, encoder_spec: str, fingerprint: str, dimension: int, timeout: float) -> Opened:
    """Make a new knowledge base in a file, or in memory for None. The file is whole or blank, never in between.

    Raises:
        EmbeddingError: no vector can have this dimension.
        StoreError: a knowledge base is there already, also when another process was faster.
        StoreFormatError: something else is there; it is left untouched.
        StoreWriteError: it cannot be written.
    """
    if not 1 <= dimension <= schema.MAX_DIMENSION:
        raise EmbeddingError(
            f"the encoder {encoder_spec!r} says that its vectors have {dimension} numbers; possible are 1 to "
            f"{schema.MAX_DIMENSION}: check the encoder"
        )
    file = None if path is None else located(path)
    where: Path | str = file or "memory"
    with contextlib.ExitStack() as stack:
        stack.enter_context(sqlite_errors(where))
        if file is None:
            connection = _hardened(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
        else:
            blank = schema.is_blank(file)
            stack.enter_context(making(file, lambda: None if blank else schema.check_file(file)))
            if not blank:
                raise _exists(file)
            connection = _open(file, "mode=rwc", timeout)
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
            ledgers.write(connection, Ledger(uuid4().hex, encoder_spec, fingerprint, dimension, revision=0))
            connection.execute("COMMIT")
            # Only now: a file in WAL mode may keep its first pages, which say what it is, in the log.
            _use_wal(connection)
        except BaseException:
            connection.close()
            raise
        return Opened(connection, file)


def _exists(where: Path | str) -> StoreError:
    return StoreError(f"{where} already holds a knowledge base; open it, or update it with `kblam kb build`")


def _open(file: Path, options: str, timeout: float) -> sqlite3.Connection:
    # The store guards the connection with a lock, so that any thread may use it.
    return _hardened(
        sqlite3.connect(
            f"{file.as_uri()}?{options}",
            uri=True,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )
    )


def _hardened(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Settings against files that were damaged or made to hurt; they read nothing yet."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    # Sorting must not need a disk with room.
    connection.execute("PRAGMA temp_store = MEMORY")
    if hasattr(connection, "setlimit"):  # Python 3.11
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_FIELD)
    # Python sees Ctrl-C only between its own instructions, and a statement may run for minutes.
    connection.set_progress_handler(_look_for_signals, _STEPS_BETWEEN_SIGNALS)
    return connection


def _look_for_signals() -> int:
    """An interruption is raised in here, and SQLite then ends the statement."""
    return 0


def _connect_to_read(file: Path, timeout: float) -> Opened:
    # mode=ro is avoided where possible: such a connection leaves its -wal and -shm files behind when closed.
    connection = _open(file, "mode=rw", timeout)
    try:
        connection.execute("PRAGMA query_only = ON")
        schema.check_opened(file, connection)
        return Opened(connection, file)
    except sqlite3.OperationalError as error:
        connection.close()
        log = file.with_name(file.name + "-wal")
        forbidden = any(words in str(error).lower() for words in _NO_ROOM_BESIDE)
        if not forbidden or (log.exists() and log.stat().st_size > 0):
            raise
        # With no log there are no changes to miss, so the file may be read as it stands.
        connection = _open(file, "mode=ro&immutable=1", timeout)
        with contextlib.ExitStack() as undo:
            undo.callback(connection.close)
            schema.check_opened(file, connection)
            opened = Opened(connection, file)
            undo.pop_all()
        return opened
    except BaseException:
        connection.close()
        raise


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
