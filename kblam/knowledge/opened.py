"""A file that is open: whether it is still at its place, and which files this process has open."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kblam.errors import StoreError

Identity = tuple[int, int]

_lock = threading.Lock()
_open_here: Counter[Identity] = Counter()


@dataclass(slots=True)
class Opened:
    """A connection to a knowledge base.

    Attributes:
        connection: guarded by its store, so that any thread may use it.
        file: with links followed; None in memory.
        identity: device and number of the file; None in memory.
    """

    connection: sqlite3.Connection
    file: Path | None = None
    identity: Identity | None = None

    def __post_init__(self) -> None:
        if self.file is not None:
            self.identity = identity_of_file(self.file)
            with _lock:
                _open_here[self.identity] += 1

    def close(self) -> None:
        """Releases the file; once."""
        self.connection.close()
        if self.identity is not None:
            with _lock:
                _open_here[self.identity] -= 1
                if not _open_here[self.identity]:
                    del _open_here[self.identity]

    def check_place(self, name: str) -> None:
        """What is written to a file that was moved away is seen by nobody, and what is read there is of yesterday.

        Raises:
            StoreError: the file was removed, or another one is in its place.
        """
        if self.file is not None and identity_of_file(self.file) != self.identity:
            raise StoreError(f"{name} was removed, or replaced by another file, after it was opened; open it again")


def identity_of_file(file: Path) -> Identity:
    """Device and number; (0, 0) where no file is."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def is_open_here(file: Path) -> bool:
    """Whether this process has it open.

    It must then not be opened past SQLite: closing any handle of a file gives up all locks that the process has on it.
    """
    with _lock:
        return _open_here[identity_of_file(file)] > 0
