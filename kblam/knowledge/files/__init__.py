"""Files of triples: JSON, JSON Lines, CSV, Excel and Parquet, read one triple at a time and written back.

All but JSON are streamed, so a million triples need no more memory than one (plus a few bytes each to find
duplicates). A JSON document is held as text, and its triples are decoded one by one.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from kblam.errors import TripleFormatError, argument
from kblam.knowledge.columns import READING, Columns
from kblam.knowledge.files.csv_table import read_csv, write_csv
from kblam.knowledge.files.excel import read_excel
from kblam.knowledge.files.json_document import read_json, write_json
from kblam.knowledge.files.json_lines import read_jsonl, write_jsonl
from kblam.knowledge.files.lines import Records, check_is_file
from kblam.knowledge.files.parquet import read_parquet
from kblam.knowledge.files.trouble import Trouble
from kblam.knowledge.files.whole import check_target, whole_file
from kblam.knowledge.records import RecordReader, joined
from kblam.knowledge.renaming import Renames
from kblam.knowledge.sources import Source
from kblam.knowledge.triples import Triple

logger = logging.getLogger("kblam")

Format = Literal["json", "jsonl", "csv", "excel", "parquet"]
Duplicates = Literal["error", "last", "join"]

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".xlsx": "excel",
    ".parquet": "parquet",
}
_READERS: dict[Format, Callable[[Path, RecordReader], Records]] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "excel": read_excel,
    "parquet": read_parquet,
}
_WRITERS: dict[Format, Callable[[Path, Iterable[Triple]], int]] = {
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}


class TripleFile:
    """A file of triples that has been read once from end to end, so that a bad one is refused as a whole.

    Iterating reads it again, one triple at a time; `len` is how many there are. What was guessed about its columns is
    logged as information; what was not read, as a warning.

    Args:
        path: `.json` (a list of objects, an object that holds such a list, one object a line, one object, or results of
            a SPARQL query), `.jsonl` or `.ndjson` (one object a line), `.csv` or `.tsv` (a header line; comma,
            semicolon or tab). UTF-8, with or without a byte order mark. `.xlsx` (each sheet a table with a header) and
            `.parquet`, which need openpyxl and pyarrow (the extra "tables").
        format: overrides the suffix.
        duplicates: what two different triples with one identity mean. "error": the file contradicts itself, and
            the message names both lines. "last": the later line corrects the earlier one. "join": a fact has several
            values, which become one, with commas between. A triple repeated word for word is never an error; it is
            yielded once.
        columns: which column is which field, where their names do not tell.
        skip_bad: leave out records that cannot be read, with a warning that says how many and where.
        renames: other words for properties: {"emp_start_dt": "start date"}. Two that become one are one in what
            `duplicates` says.

    Attributes:
        skipped: how many records were left out.

    Raises:
        BadLinesError: several records cannot be read; it names all.
        TripleFormatError: one record cannot be read, or the file as a whole; or a chosen column is nowhere.
        DataError: a property that is to be renamed is nowhere.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        format: Format | None = None,
        duplicates: Duplicates = "error",
        columns: Columns | None = None,
        skip_bad: bool = False,
        renames: Mapping[str, str] | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        chosen = Renames(renames) if renames else None
        self._source = _Source(self.path, _READERS[_format_of(self.path, format)], columns, duplicates, chosen)
        check_is_file(self.path)
        reader, trouble = RecordReader(columns), Trouble(self.path, is_endless=skip_bad)
        self._count = 0
        try:
            for _ in self._source.accepted(reader, trouble):
                self._count += 1
        except TripleFormatError as end:
            raise trouble.error(end) from None
        if trouble.count and not (skip_bad and self._count):
            raise trouble.error()
        try:
            reader.check()
        except TripleFormatError as error:
            raise TripleFormatError(error.reason, path=self.path) from None
        if chosen is not None:
            chosen.check()
        self.skipped = trouble.count
        self._tell(reader, trouble)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Triple]:
        trouble = Trouble(self.path, is_endless=True) if self.skipped else None
        yield from self._source.accepted(RecordReader(self._source.columns), trouble)

    def _tell(self, reader: RecordReader, trouble: Trouble) -> None:
        reader.tell(str(self.path))
        if trouble.count:
            one = trouble.count == 1
            what = "1 record that cannot be read was" if one else f"{trouble.count:,} records that cannot be read were"
            logger.warning("%s: %s left out:\n  %s", self.path, what, "\n  ".join(trouble.details()))


def read_triples(
    path: str | Path,
    *,
    format: Format | None = None,
    duplicates: Duplicates = "error",
    columns: Columns | None = None,
) -> Iterator[Triple]:
    """Yield the triples of a file in its order, without reading it whole before; the arguments of `TripleFile`.

    Raises:
        TripleFormatError: with file and line, for anything that cannot be read. Triples before the line have
            been yielded by then: `TripleFile` reads the whole file first.
    """
    file = Path(path).expanduser()
    source = _Source(file, _READERS[_format_of(file, format)], columns, duplicates)
    yield from source.accepted(RecordReader(columns), None)


def check_triples(path: str | Path, *, format: Format | None = None, duplicates: Duplicates = "error") -> int:
    """Read a whole file and return how many triples it holds, so that a bad file is refused as a whole.

    Raises:
        TripleFormatError: as `TripleFile`.
    """
    return len(TripleFile(path, format=format, duplicates=duplicates))


def located_triples(
    path: str | Path, reader: RecordReader, *, format: Format | None = None
) -> Iterator[tuple[int, Triple | TripleFormatError]]:
    """(line, triple) of each fact of a file, in the place of a record that cannot be read its error.

    What two different values of one fact mean is left to the caller.

    Args:
        reader: chooses the columns, and notes how the records were read.

    Raises:
        TripleFormatError: the rest of the file cannot be read.
    """
    file = Path(path).expanduser()
    return _located(file, _READERS[_format_of(file, format)], reader)


def write_triples(
    path: str | Path, triples: Iterable[Triple], *, format: Format | None = None, overwrite: bool = True
) -> int:
    """Write triples under our own field names; `read_triples` gives the same ones back. Returns how many.

    The file appears whole or not at all: an existing one stays as it was until the last triple is written.

    Args:
        overwrite: replace what is at `path`.

    Raises:
        TripleFormatError: the suffix names no format, the path cannot be written, or something is there that is not
            to be replaced.
    """
    file = Path(path).expanduser()
    writer = _writer_of(file, format)
    with whole_file(file, overwrite=overwrite) as unfinished:
        return writer(unfinished, triples)


def check_written_to(path: str | Path, *, overwrite: bool = True) -> None:
    """Before long work: whether `write_triples` can write its result there.

    Raises:
        TripleFormatError: it cannot.
    """
    file = Path(path).expanduser()
    _writer_of(file, None)
    check_target(file, overwrite=overwrite)


def _writer_of(path: Path, format: Format | None) -> Callable[[Path, Iterable[Triple]], int]:
    known = ", ".join(suffix for suffix, each in FORMAT_OF_SUFFIX.items() if each in _WRITERS)
    chosen = _format_of(path, format, known)
    if chosen not in _WRITERS:
        raise TripleFormatError(f"{path.suffix} is read, not written; name it {known}", path=path)
    return _WRITERS[chosen]


def _format_of(path: Path, format: Format | None, known: str = ", ".join(FORMAT_OF_SUFFIX)) -> Format:
    chosen = format or FORMAT_OF_SUFFIX.get(path.suffix.lower())
    if chosen not in _READERS:
        raise TripleFormatError(f"cannot tell the format from {path.name!r}; name it {known}", path=path)
    return chosen


@dataclasses.dataclass(frozen=True)
class _Source:
    """A file and how it is read. Errors of single records go into a `Trouble`; without one they are raised."""

    path: Path
    records: Callable[[Path, RecordReader], Records]
    columns: Columns | None
    duplicates: Duplicates
    renames: Renames | None = None

    def accepted(self, reader: RecordReader, trouble: Trouble | None) -> Iterator[Triple]:
        """The triples of the file after what `duplicates` says of them."""
        if self.duplicates == "last":
            return self._last(reader, trouble)
        return self._joined(reader, trouble) if self.duplicates == "join" else self._single(reader, trouble)

    def _single(self, reader: RecordReader, trouble: Trouble | None) -> Iterator[Triple]:
        seen: dict[bytes, tuple[int, int, str]] = {}
        for line, triple in self._located(reader, trouble):
            content = hash(triple)
            known = seen.setdefault(digest := _digest(triple.identity), (0, content, ""))
            if known[0] == 0:
                seen[digest] = line, content, reader.sheet
                yield triple
            elif known[1] != content:
                last = argument('duplicates="last"', "--duplicates last", READING)
                join = argument('duplicates="join"', "--duplicates join", READING)
                if known[2] != reader.sheet:
                    where = f"line {known[0]} of sheet {known[2]!r}"
                else:
                    where = "this line" if known[0] == line else f"line {known[0]}"
                error = TripleFormatError(
                    f"{reader.where}({triple.name!r}, {triple.property!r}) is on {where} too, with other words; "
                    f"remove one, keep the later with {last}, or put them together with {join}"
                )
                self._note(trouble, line, error)

    def _last(self, reader: RecordReader, trouble: Trouble | None) -> Iterator[Triple]:
        last = {_digest(triple.identity): at for at, (_, triple) in enumerate(self._quietly(trouble))}
        for at, (_, triple) in enumerate(self._located(reader, trouble)):
            if last.get(_digest(triple.identity)) == at:
                yield triple

    def _joined(self, reader: RecordReader, trouble: Trouble | None) -> Iterator[Triple]:
        first: dict[bytes, int] = {}
        several: dict[bytes, tuple[dict[str, None], dict[Source, None]]] = {}
        for _, triple in self._quietly(trouble):
            said = hash((triple.value, triple.sources))
            if first.setdefault(digest := _digest(triple.identity), said) != said:
                several[digest] = {}, {}
        if several:
            for _, triple in self._quietly(trouble):
                if (found := several.get(_digest(triple.identity))) is not None:
                    found[0][triple.value] = None
                    found[1].update(dict.fromkeys(triple.sources))
        done: set[bytes] = set()
        for line, triple in self._located(reader, trouble):
            if (digest := _digest(triple.identity)) in done:
                continue
            done.add(digest)
            try:
                if found := several.get(digest):
                    triple = dataclasses.replace(triple, value=joined(list(found[0])), sources=tuple(found[1]))
                yield triple
            except TripleFormatError as error:  # too long
                self._note(trouble, line, TripleFormatError(f"{reader.where}{error.reason}"))

    def _quietly(self, trouble: Trouble | None) -> Iterator[tuple[int, Triple]]:
        """The triples, in a pass before the one that tells of trouble."""
        return self._located(
            RecordReader(self.columns), None if trouble is None else Trouble(self.path, is_endless=True)
        )

    def _located(self, reader: RecordReader, trouble: Trouble | None) -> Iterator[tuple[int, Triple]]:
        """(line, triple) for each fact that can be read."""
        for line, found in _located(self.path, self.records, reader):
            if isinstance(found, TripleFormatError):
                self._note(trouble, line, found)
            else:
                yield line, found if self.renames is None else self.renames.applied(found)

    def _note(self, trouble: Trouble | None, line: int, error: TripleFormatError) -> None:
        if trouble is None:
            raise TripleFormatError(error.reason, path=self.path, line=line) from None
        trouble.add(line, error)


def _located(
    path: Path, records: Callable[[Path, RecordReader], Records], reader: RecordReader
) -> Iterator[tuple[int, Triple | TripleFormatError]]:
    try:
        for line, record in records(path, reader):
            if isinstance(record, TripleFormatError):
                yield line, record
                continue
            try:
                found = reader.read(record)
            except TripleFormatError as error:
                yield line, type(error)(f"{reader.where}{error.reason}")
                continue
            yield from ((line, triple) for triple in found)
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=path) from error
    except ValueError as error:  # a NUL in the path
        raise TripleFormatError(f"cannot read: {error}", path=path) from error


def _digest(identity: tuple[str, str]) -> bytes:
    """Sixteen bytes that stand for an identity, whose texts would be several times that."""
    return blake2b("\0".join(identity).encode(), digest_size=16).digest()  # a NUL is in no field
