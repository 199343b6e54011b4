"""Answers of a model, kept as soon as they are there: a killed run goes on, and asks nothing twice."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, Generic, TypeVar

from kblam.errors import DataError, TripleFormatError
from kblam.strict_json import loads

try:
    import fcntl
except ImportError:  # not on Windows, where nobody keeps two processes from one journal
    fcntl = None  # type: ignore[assignment]

Kept = TypeVar("Kept")
Itself = TypeVar("Itself", bound="Journal[Any]")


def beside(output: Path, suffix: str) -> Path:
    """Where the journal of a file is: one, whatever links lead to the file."""
    file = Path(os.path.realpath(output))
    return file.with_name(file.name + suffix)


class Journal(Generic[Kept]):
    """A file with a line of JSON for each answer, found by its key; only one process at a time writes to it.

    Each kind of answer has a class of its own, which says how one is written and read.

    Raises:
        DataError: another process has it, it cannot be read or written, or it is no journal.
    """

    _key: ClassVar[str]  # the first field of every entry
    _work: ClassVar[tuple[str, str]]  # whose journal it is, as messages name it: article and words
    _is_passing: ClassVar[bool] = False  # whether its file goes at the end where nothing is kept in it

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[str, Kept] = {}
        try:
            self._file: IO[bytes] = path.open("a+b")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise DataError(f"{path}: cannot write: {reason}") from error
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self: Itself) -> Itself:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_passing and not self._kept:
            self._remove()
        with contextlib.suppress(OSError):  # what could not be written, as `put` has told
            self._file.close()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Kept | None:
        """The answer that is kept under a key; None if there is none."""
        return self._kept.get(key)

    def values(self) -> list[Kept]:
        """All answers, the first one first."""
        return list(self._kept.values())

    def put(self, key: str, kept: Kept) -> None:
        """Keeps an answer; it is on disk when the call returns.

        Raises:
            DataError: it cannot be written.
        """
        self._kept[key] = kept
        entry = {self._key: key, **self._fields(kept)}
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write: {os.strerror(error.errno or 0)}; make room and run the same command again"
            ) from error

    def clear(self) -> None:
        """Keeps none of the answers any longer, since they are elsewhere now."""
        self._kept.clear()
        self._file.truncate(0)

    def _fields(self, kept: Kept) -> dict[str, Any]:
        """What an entry says beside its key."""
        raise NotImplementedError

    def _answer(self, entry: Mapping[str, Any]) -> Kept:
        """The answer of an entry; ValueError, KeyError or TypeError where it is none."""
        raise NotImplementedError

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The process that had the lock until now may have removed the file.
                is_there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
            except OSError:
                is_there = False
            if not is_there:
                raise DataError(f"{self.path} is in use by another {self._work[1]}; wait for it")

    def _remove(self) -> None:
        """Removes the file while this process has the lock, so that no other one has it open by then."""
        with contextlib.suppress(OSError):  # Windows keeps what is open; an empty journal does no harm
            self.path.unlink()

    def _read(self) -> None:
        begin = f'{{"{self._key}": "'.encode()  # of every entry
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            written = line.rstrip(b"\0")  # where the machine stopped, a file may go on with zeros
            if not line.endswith(b"\n") and (begin.startswith(written) or written.startswith(begin)):
                break  # the process was killed while it wrote
            try:
                entry = loads(line)
                self._kept[entry[self._key]] = self._answer(entry)
            except (ValueError, KeyError, TypeError, RecursionError, TripleFormatError) as error:
                work, why = " ".join(self._work), error.reason if isinstance(error, TripleFormatError) else error
                what = "remove this line, and what is in the others is kept" if whole else "remove it"
                raise DataError(f"{self.path}:{number}: no journal of {work} ({why}); {what}") from None
            whole += len(line)
        self._file.truncate(whole)
