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

    def __iter__(self) -> Iterator[str]:
        for number, text in self._lines:
            self.number = number
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
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise TripleFormatError(f"not CSV: {error}; an unclosed quote?", path=path, line=line) from None
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise TripleFormatError(
                f"{len(row)} cells, but the header has {len(header)}; quote a cell that holds {delimiter!r}",
                path=path,
                line=line,
            )
        yield line, dict(zip(header, row, strict=True))


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
        writer.writerow(FIELD_NAMES)
        for count, triple in enumerate(triples, start=1):  # noqa: B007 - the last number is the count
            record = triple.to_record()
            writer.writerow([record.get(field, "") for field in FIELD_NAMES])
    return count
