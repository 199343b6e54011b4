"""Databases that SQLite keeps in its folder of temporary files, and removes however the process ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from kblam.errors import DataError


@contextmanager
def on_disk() -> Iterator[None]:
    """For work on such a database.

    Raises:
        DataError: it cannot be kept there.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise DataError(
            f"cannot keep what was read in the folder of temporary files: {error}; SQLITE_TMPDIR names another folder"
        ) from error
