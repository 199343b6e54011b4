"""CSV: a header line and one triple a row, streamed; rows may span lines inside quotes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from kblam.errors import TripleFormatError
from kblam.knowledge.files.lines import numbered_lines
from kblam.knowledge.triples import FIELD_NAMES, Triple

_COLUMNS = frozenset(name for names in FIELD_NAMES.values() for name in names)


class _Lines:
    """The text of each line, for the csv module to pull, remembering how far it has got."""

    def __init__(self, path: Path) -> None:
        self._lines = numbered_lines(path)
        self.number = 0
        self.pulled: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for number, text in self._lines:
            self.number = number
            self.pulled.append(text)
            yield text


def read_csv(path: Path) -> Iterator[tuple[int, object]]:
    lines = _Lines(path)
    texts = iter(lines)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        return
    delimiter, header = _header(path, lines.number, first)
    rows = csv.reader(texts, delimiter=delimiter, strict=True)
    while True:
        line = lines.number + 1
        lines.pulled.clear()
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise TripleFormatError(f"not CSV: {error}; an unclosed quote?", path=path, line=line) from None
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if trouble := _of_two_files(lines.pulled[0], row, header) or _swallowed(lines.pulled, delimiter, len(header)):
            raise TripleFormatError(trouble, path=path, line=line)
        if len(row) != len(header):
            raise TripleFormatError(
                f"{len(row)} cells, but the header has {len(header)}; quote a cell that holds {delimiter!r}",
                path=path,
                line=line,
            )
        yield line, dict(zip(header, row, strict=True))


def _of_two_files(text: str, row: list[str], header: list[str]) -> str | None:
    """What shows that two files were put together, whose seam would be read as a triple."""
    if text.startswith("\ufeff"):
        return "a byte order mark inside the file: were two files put together? remove it, and the header after it"
    if [cell.strip() for cell in row] == header:
        return "the header stands here again: were two files put together? remove this line"
    return None


def _swallowed(lines: list[str], delimiter: str, cells: int) -> str | None:
    """Whether a quote seems to have taken whole rows for its text: dumps with tabs quote nothing."""
    if delimiter != "\t" or len(lines) < 2 or any(line.count("\t") != cells - 1 for line in lines):
        return None
    return (
        f"a quote that opens on this line takes {len(lines) - 1} more lines into its cell, and each looks like a row "
        'of its own; write a quote that belongs to a text as ""'
    )


def _header(path: Path, line: int, text: str) -> tuple[str, list[str]]:
    """The delimiter and the column names: the first of comma, semicolon and tab that gives known columns."""
    for delimiter in ",;\t":
        try:
            header = [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter, strict=True))]
        except csv.Error:
            continue
        if all(_COLUMNS.intersection(FIELD_NAMES[field], header) for field in ("name", "value")):
            if len(set(header)) < len(header):
                raise TripleFormatError(f"two columns have one name: {header}", path=path, line=line)
            return delimiter, header
    shown = text.strip()[:100]
    raise TripleFormatError(
        f"the first line must name the columns, such as name,property,value; it is {shown!r}",
        path=path,
        line=line,
    )


def write_csv(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        # A row that begins with a byte order mark would look like the beginning of another file.
        quoting = csv.writer(file, delimiter=writer.dialect.delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(FIELD_NAMES)
        for count, triple in enumerate(triples, start=1):  # noqa: B007 - the last number is the count
            record = triple.to_record()
            chosen = quoting if triple.name.startswith("\ufeff") else writer
            chosen.writerow([record.get(field, "") for field in FIELD_NAMES])
    return count
