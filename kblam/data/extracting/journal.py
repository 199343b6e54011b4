"""What came of each piece, kept as soon as it is there: a killed extraction goes on, and asks nothing twice."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from kblam.data.documents import Piece
from kblam.data.extracting.asking import INSTRUCTIONS, Taken
from kblam.errors import DataError
from kblam.knowledge import triples_of
from kblam.strict_json import loads

try:
    import fcntl
except ImportError:  # not on Windows, where nobody keeps two processes from one journal
    fcntl = None  # type: ignore[assignment]


_BEGIN = b'{"piece": "'  # of every entry


def key_of(piece: Piece, model: str) -> str:
    """What an entry is found by: the model, the instructions, the document and the text with what stands above it."""
    parts = (model, INSTRUCTIONS, piece.document.name, str(piece.start), *piece.headings, piece.head, piece.text)
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Journal:
    """A file with a line for each piece; only one process at a time writes to it.

    Raises:
        DataError: another process has it, it cannot be read or written, or it is no journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._taken: dict[str, Taken] = {}
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

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._taken)

    def get(self, key: str) -> Taken | None:
        """What came of a piece; None if that is not known yet."""
        return self._taken.get(key)

    def put(self, key: str, taken: Taken) -> None:
        """Keeps what came of a piece; it is on disk when the call returns.

        Raises:
            DataError: it cannot be written.
        """
        entry = {
            "piece": key,
            "triples": [triple.to_record() for triple in taken.triples],
            "refused": dict(taken.refused),
            "tokens": [taken.prompt_tokens, taken.reply_tokens] if taken.is_counted else None,
        }
        try:
            self._file.write(json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write: {os.strerror(error.errno or 0)}; make room and run the same command again"
            ) from error
        self._taken[key] = taken

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"{self.path} is in use by another extraction; wait for it") from None

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n") and (_BEGIN.startswith(line) or line.startswith(_BEGIN)):
                break  # the process was killed while it wrote
            try:
                entry = loads(line)
                self._taken[entry["piece"]] = _taken(entry)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(f"{self.path}:{number}: no journal of an extraction ({error}); remove it") from None
            whole += len(line)
        self._file.truncate(whole)


def _taken(entry: Mapping[str, Any]) -> Taken:
    tokens = entry["tokens"]
    prompt, reply = tokens or (0, 0)
    return Taken(
        [triple for record in entry["triples"] for triple in triples_of(record)],
        Counter(entry["refused"]),
        None,
        prompt,
        reply,
        tokens is not None,
    )
