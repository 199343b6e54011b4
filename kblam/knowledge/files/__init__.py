"""Files of triples: JSON, JSON Lines and CSV, read one triple at a time and written back.

JSON Lines and CSV are streamed, so a million triples need no more memory than one (plus a few bytes each to
find duplicates). A JSON document is held as text, and its triples are decoded one by one.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from kblam.errors import TripleFormatError
from kblam.knowledge.files.csv_table import read_csv, write_csv
from kblam.knowledge.files.json_document import read_json, write_json
from kblam.knowledge.files.json_lines import read_jsonl, write_jsonl
from kblam.knowledge.triples import Triple, triples_of, unread_fields

logger = logging.getLogger("kblam")

_SHOWN, _COUNTED = 8, 1000  # names of fields that are not read
Format = Literal["json", "jsonl", "csv"]
Duplicates = Literal["error", "last"]

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
_READERS: dict[Format, Callable[[Path], Iterator[tuple[int, object]]]] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
}
_WRITERS: dict[Format, Callable[[Path, Iterable[Triple]], int]] = {
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


def read_triples(
    path: str | Path,
    *,
    format: Format | None = None,
    duplicates: Duplicates = "error",
    unread: Counter[str] | None = None,
) -> Iterator[Triple]:
    """Yield the triples of a file in its order.

    Args:
        path: `.json` (a list of objects, or {"triples": [...]}), `.jsonl` or `.ndjson` (one object a line), `.csv`
            or `.tsv` (a header line; comma, semicolon or tab). UTF-8, with or without a byte order mark.
        format: overrides the suffix.
        duplicates: what two different triples with one identity mean. "error": the file contradicts itself, and
            the message names both lines. "last": the later line corrects the earlier one. A triple repeated
            word for word is never an error; it is yielded once.
        unread: counts the fields that hold something and are no part of a triple, by name.

    Raises:
        TripleFormatError: with file and line, for anything that cannot be read. Triples before the line have
            been yielded by then: `check_triples` reads the whole file first.
    """
    file = Path(path).expanduser()
    records = _READERS[_format_of(file, format)]
    unread = Counter() if unread is None else unread
    if duplicates == "last":
        last_line = {_digest(triple.identity): line for line, triple in _located(file, records, unread)}
        for line, triple in _located(file, records, Counter()):
            if last_line.get(_digest(triple.identity)) == line:
                yield triple
        return
    seen: dict[bytes, tuple[int, int]] = {}
    for line, triple in _located(file, records, unread):
        content = hash(triple)
        earlier = seen.setdefault(_digest(triple.identity), (line, content))
        if earlier[0] == line:
            yield triple
        elif earlier[1] != content:
            raise TripleFormatError(
                f"({triple.name!r}, {triple.property!r}) is on line {earlier[0]} too, with other words; "
                'remove one, or read with duplicates="last" to keep the later',
                path=file,
                line=line,
            )


def check_triples(path: str | Path, *, format: Format | None = None, duplicates: Duplicates = "error") -> int:
    """Read a whole file and return how many triples it holds, so that a bad file is refused as a whole.

    Fields that were not read are told in a warning.

    Raises:
        TripleFormatError: as `read_triples`.
    """
    unread: Counter[str] = Counter()
    count = sum(1 for _ in read_triples(path, format=format, duplicates=duplicates, unread=unread))
    if unread:
        shown = ", ".join(f"{name[:40]!r} ({times:,} times)" for name, times in unread.most_common(_SHOWN))
        logger.warning("%s: fields that are no part of a triple were not read: %s", path, shown)
    return count


def write_triples(path: str | Path, triples: Iterable[Triple], *, format: Format | None = None) -> int:
    """Write triples under our own field names; `read_triples` gives the same ones back. Returns how many.

    The file appears whole or not at all: an existing one stays as it was until the last triple is written.

    Raises:
        TripleFormatError: the suffix names no format, or the path cannot be written.
    """
    file = Path(path).expanduser().resolve()  # a link stays one, and the unfinished file lies beside what it means
    writer = _WRITERS[_format_of(file, format)]
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        try:
            count = writer(unfinished, triples)
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise TripleFormatError(f"cannot write: {error.strerror}", path=file) from error
    return count


def _format_of(path: Path, format: Format | None) -> Format:
    chosen = format or FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if chosen not in _READERS:
        known = ", ".join(FORMAT_OF_SUFFIX)
        raise TripleFormatError(f"cannot tell the format from {path.name!r}; name it {known}", path=path)
    return chosen


def _located(
    path: Path, records: Callable[[Path], Iterator[tuple[int, object]]], unread: Counter[str]
) -> Iterator[tuple[int, Triple]]:
    """(line, triple) for each record; errors of a record get its file and line."""
    try:
        for line, record in records(path):
            try:
                found = triples_of(record)
            except TripleFormatError as error:
                raise TripleFormatError(str(error), path=path, line=line) from None
            for name in unread_fields(record):
                if name in unread or len(unread) < _COUNTED:
                    unread[name] += 1
            yield from ((line, triple) for triple in found)
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=path) from error
    except ValueError as error:  # a NUL in the path
        raise TripleFormatError(f"cannot read: {error}", path=path) from error


def _digest(identity: tuple[str, str]) -> bytes:
    """Sixteen bytes that stand for an identity, whose texts would be several times that."""
    return blake2b("\0".join(identity).encode(), digest_size=16).digest()  # a NUL is in no field
