"""Standard streams: in any encoding, full, closed, or read by a program that has ended."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import IO, Any

from kblam.errors import KblamError


class OutputError(KblamError):
    """What a command found out cannot be written to standard output."""


class Stream:
    """A stream whose failure to take data is an `OutputError`; what cannot be said on stderr is not said.

    Args:
        stream: None where the process has none.
        is_data: of standard output.
    """

    def __init__(self, stream: IO[str] | None, *, is_data: bool) -> None:
        self._stream = stream
        self._is_data = is_data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, as a file does."""
        if self._stream is None:
            return self._failed("it is closed")
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            return self._failed_by(error)

    def flush(self) -> None:
        """Writes what is waiting."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._failed_by(error)

    def _failed_by(self, error: OSError | ValueError) -> int:
        if self._is_data and isinstance(error, BrokenPipeError):
            raise error
        return self._failed(getattr(error, "strerror", None) or str(error))

    def _failed(self, reason: str) -> int:
        if self._is_data:
            raise OutputError(f"cannot write to standard output: {reason}; what was printed is not complete")
        return 0


def prepare() -> None:
    """Bytes of stdin that are no text come as half surrogates."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def finish() -> None:
    """Writes out what waits in stdout, so that the exit status tells whether it arrived.

    Raises:
        OutputError: it cannot be written.
    """
    if sys.stdout is not None:
        try:
            Stream(sys.stdout, is_data=True).flush()
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
        except OutputError:
            abandon()
            raise


def abandon() -> None:
    """Nothing is written to stdout any more, or Python would complain once more while it ends."""
    if sys.stdout is None:
        return
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
