"""Files that may be compressed, read so that a bomb is found before it has filled anything."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from kblam.errors import TripleFormatError

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# Texts shrink to a tenth, repetitive dumps to a fiftieth. A bomb shrinks to a thousandth and less.
LARGEST_RATIO = 500
ALLOWED_BYTES = 100 * 2**20


def plain_suffix(path: Path) -> str:
    """The suffix, in small letters, that says what is in a file: `.nt` of `dump.nt.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_compressed(path: Path) -> bool:
    """Whether the last suffix is that of a compressed file."""
    return path.suffix.lower() in _OPENERS


def open_file(path: Path) -> BinaryIO:
    """A file's bytes, decompressed where its last suffix is `.gz`, `.bz2` or `.xz`.

    Raises:
        TripleFormatError: it cannot be read, or is a bomb (also while it is read).
    """
    try:
        if not is_compressed(path):
            return path.open("rb")
        size = path.stat().st_size
        raw = _Guarded(_OPENERS[path.suffix.lower()](path, "rb"), path, size)
        return io.BufferedReader(raw, 2**20)
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=path) from error


class _Guarded(io.RawIOBase):
    def __init__(self, file: Any, path: Path, size: int) -> None:
        self._file, self._path, self._most, self._read = file, path, max(ALLOWED_BYTES, size * LARGEST_RATIO), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._file.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise TripleFormatError(f"cannot be decompressed: {error}", path=self._path) from error
        self._read += len(block)
        if self._read > self._most:
            raise TripleFormatError(
                f"decompressed it is more than {LARGEST_RATIO} times its size: a bomb? decompress it yourself if you "
                "trust it",
                path=self._path,
            )
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._file.close()
        super().close()
