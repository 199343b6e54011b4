"""A file that is open: whether it is still at its place, and which files this process has open."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kblam.errors import StoreReplacedError

Identity = tuple[int, int]

_NO_FILE: Identity = (0, 0)
_lock = threading.Lock()
_open_here: Counter[Identity] = Counter()
# By path. While one thread looks at a file past SQLite, no other may begin to open it.
_looking: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


@dataclass(slots=True)
class Opened:
    """A connection to a knowledge base.

    Attributes:
        connection: guarded by its store, so that any thread may use it.
        file: with links followed; None in memory.
        identity: device and number of the file; None in memory.
        patience: milliseconds to wait for another writer, as it was opened with.
    """

    connection: sqlite3.Connection
    file: Path | None = None
    identity: Identity | None = None
    patience: int = field(init=False)

    def __post_init__(self) -> None:
        self.patience = self.connection.execute("PRAGMA busy_timeout").fetchone()[0]
        if self.file is not None:
            self.identity = identity_of_file(self.file)
            _count(self.identity, 1)

    def close(self) -> None:
        """Releases the file; once."""
        self.connection.close()
        if self.identity is not None:
            _count(self.identity, -1)

    def check_place(self, name: str) -> None:
        """What is written to a file that was moved away is seen by nobody, and what is read there is of yesterday.

        Raises:
            StoreReplacedError: the file was removed, or another one is in its place.
        """
        if self.file is not None and identity_of_file(self.file) != self.identity:
            raise StoreReplacedError(
                f"{name} was removed, or replaced by another file, after it was opened; open it again"
            )


def identity_of_file(file: Path) -> Identity:
    """Device and number; (0, 0) where no file is."""
    try:
        found = file.stat()
    except OSError:
        return _NO_FILE
    return found.st_dev, found.st_ino


@contextmanager
def opening(file: Path, look: Callable[[], object]) -> Iterator[None]:
    """A block that opens a file with SQLite, after a look at it past SQLite, unless this process has it open.

    Closing any handle of a file gives up all locks that the process has on it, those of SQLite too: others would then
    change what is being read, or take away a log that is being written. So no thread looks at a file that another one
    has open or is about to open.

    Args:
        look: opens the file, and closes it.
    """
    with _looking_at(file):
        identity = identity_of_file(file)
        if not is_open_here(identity):
            look()
        if identity != _NO_FILE:
            _count(identity, 1)
    try:
        yield
    finally:
        if identity != _NO_FILE:
            _count(identity, -1)


@contextmanager
def making(file: Path, look: Callable[[], object]) -> Iterator[None]:
    """A block that makes a file with SQLite, after a look as for `opening`; no other thread opens one meanwhile."""
    with _looking_at(file):
        if not is_open_here(identity_of_file(file)):
            look()
        yield


def _looking_at(file: Path) -> threading.Lock:
    with _lock:
        return _looking[file]


def is_open_here(identity: Identity) -> bool:
    """Whether this process has a file open."""
    with _lock:
        return _open_here[identity] > 0


def _count(identity: Identity, change: int) -> None:
    with _lock:
        _open_here[identity] += change
        if not _open_here[identity]:
            del _open_here[identity]
