"""Office documents are zip archives: how much they unpack to is read from their directory before anything is."""

from __future__ import annotations

import zipfile
from pathlib import Path

from kblam.errors import DocumentError

MOST_UNPACKED = 512 * 2**20  # bytes
MOST_RATIO = 200  # of unpacked to packed, from SMALL on; texts reach about 20
SMALL = 2**22
MOST_ENTRIES = 20_000


def check_archive(file: Path) -> None:
    """Refuses what would fill the memory when it is unpacked.

    Python's zipfile unpacks no more of an entry than its directory says, so the directory is enough to look at.

    Raises:
        DocumentError: it is no archive, or a bomb.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DocumentError(f"{file}: damaged, or no document of its kind: {error}") from error
    unpacked = sum(entry.file_size for entry in entries)
    packed = max(1, file.stat().st_size)
    if len(entries) > MOST_ENTRIES or unpacked > MOST_UNPACKED or (unpacked > SMALL and unpacked > MOST_RATIO * packed):
        raise DocumentError(
            f"{file}: {packed:,} bytes that unpack to {unpacked:,} in {len(entries):,} parts: a zip bomb; it was not "
            "unpacked"
        )
