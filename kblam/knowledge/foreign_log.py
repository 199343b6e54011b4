"""A write-ahead log that belongs to another file than the one it lies beside.

`mv new.kb facts.kb` puts a file beside the log of the old one, when a process has the old one open or was killed while
it had. SQLite would take the old file's changes for changes of the new one.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from kblam.errors import StoreFormatError
from kblam.knowledge import schema

try:
    import fcntl
except ImportError:  # not on Windows; the moment between looking and moving is then not guarded
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("kblam")

_HEADER_BYTES = 32  # of a log; one that is not longer has no changes


def set_aside_foreign_log(file: Path, connect: Callable[[str], sqlite3.Connection]) -> None:
    """Renames a log whose changes are of another knowledge base, so that the file is read as it stands.

    Args:
        file: with links followed.
        connect: opens it, with the options of a SQLite URI.

    Raises:
        StoreFormatError: there is such a log, and it cannot be renamed.
    """
    if not _is_foreign(file, connect):
        return
    with _alone(file):
        if not _is_foreign(file, connect):  # another process may have been faster
            return
        log = _beside(file, "-wal")
        kept = _beside(file, f"-wal.{log.stat().st_mtime_ns}.other")
        try:
            log.rename(kept)
            # What is in the log, for processes that share it; the old file's still have it open.
            _beside(file, "-shm").unlink(missing_ok=True)
        except OSError as error:
            raise StoreFormatError(
                f"{log} is the log of another knowledge base that was at this place, and cannot be moved "
                f"({error.strerror}); move it away"
            ) from error
    logger.warning("%s is the log of another knowledge base that was at this place; it is now %s", log, kept.name)


def _is_foreign(file: Path, connect: Callable[[str], sqlite3.Connection]) -> bool:
    """Whether the file says that it is one knowledge base, and the file with its log that it is another."""
    try:
        if _beside(file, "-wal").stat().st_size <= _HEADER_BYTES:
            return False
    except OSError:
        return False
    alone = _store_id(file, connect, "mode=ro&immutable=1")
    return alone is not None and _store_id(file, connect, "mode=ro") not in (None, alone)


def _store_id(file: Path, connect: Callable[[str], sqlite3.Connection], options: str) -> str | None:
    """As which knowledge base the file describes itself; None where it cannot be read so."""
    try:
        with contextlib.closing(connect(options)) as connection:
            schema.check_opened(file, connection)
            return str(connection.execute("SELECT store_id FROM store").fetchone()[0])
    except (sqlite3.Error, StoreFormatError, TypeError):
        return None  # opening it for use says why


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process at a time, where the system has such locks."""
    with file.open("rb") as handle:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
