"""CSV: a header line and one triple a row, streamed; rows may span lines inside quotes."""

from __future__ import annotations

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from kblam.counts import many
from kblam.errors import TripleFormatError
from kblam.knowledge.columns import Columns, MissingFieldError, below_a_title, choice, quoted
from kblam.knowledge.files.lines import MAX_LINE_BYTES, NoTextLineError, Records, numbered_lines
from kblam.knowledge.records import RecordReader
from kblam.knowledge.sources import SOURCES, text_of
from kblam.knowledge.triples import FIELDS, Triple

# The line in which Excel notes its delimiter, above the header.
_SEPARATOR = re.compile('"?sep=.?"?', re.IGNORECASE)
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
_BLANKS = str.maketrans("01", " \t")
_LOOKED_AT = 20  # lines, where the first one does not tell the delimiter


class _Lines:
    """The text of each line, for the csv module to pull, remembering how far it has got."""

    def __init__(self, path: Path) -> None:
        self._lines = numbered_lines(path)
        self.number = 0
        self.pulled: list[str] = []
        self.trouble: TripleFormatError | None = None

    def ahead(self, count: int) -> list[str]:
        """The texts of the next lines, which are still to be pulled."""
        found = list(islice(self._lines, count))
        self._lines = chain(found, self._lines)
        return [text.text if isinstance(text, NoTextLineError) else str(text) for _, text in found]

    def __iter__(self) -> Iterator[str]:
        while (numbered := next(self._lines, None)) is not None:
            self.number, text = numbered
            if isinstance(text, NoTextLineError):
                self.trouble, text = text, text.text
            assert isinstance(text, str)
            self.pulled.append(text)
            yield text


def read_csv(path: Path, reader: RecordReader) -> Records:
    # A cell may hold what a line may: the sources of a fact are one. The limit is of the process, and others may need a
    # higher one; it ends what a quote that is never closed swallows.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    lines = _Lines(path)
    texts = iter(lines)
    first = next((text for text in texts if text.strip() and not _SEPARATOR.fullmatch(text.strip())), None)
    if first is None:
        return
    if lines.trouble is not None:
        raise lines.trouble
    delimiter, header = _header(path, lines, first, reader)
    line = lines.number
    if header is None:
        header = _numbers(first, delimiter)
        rows = csv.reader(chain([first], texts), delimiter=delimiter, strict=True)
    else:
        rows = csv.reader(texts, delimiter=delimiter, strict=True)
        lines.pulled.clear()
        line += 1
    keys = _keys(header)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            found = TripleFormatError(f"not CSV: {error}; an unclosed quote?", path=path, line=line)
            if len(lines.pulled) > 1:  # which of these lines are rows, and where the next begins, nobody can tell
                raise found from None
            yield line, found
        else:
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield line, _record(path, line, row, header, keys, lines, delimiter)
        lines.pulled.clear()
        lines.trouble = None
        line = lines.number + 1


def _record(
    path: Path, line: int, row: list[str], header: list[str], keys: list[str], lines: _Lines, delimiter: str
) -> dict[str, str] | TripleFormatError:
    """The cells of a row by their columns, or what is wrong with it."""
    if lines.trouble is not None:
        return lines.trouble
    if lines.pulled[0].startswith("\ufeff"):
        # The rest may have other columns, or the same in another order.
        raise TripleFormatError(
            "a byte order mark inside the file: were two files put together? remove it, and the header after it",
            path=path,
            line=line,
        )
    trouble = None
    if [cell.strip() for cell in row] == header:
        trouble = "the header stands here again: were two files put together? remove this line"
    elif trouble := _swallowed(lines.pulled, delimiter, len(header)):
        pass
    elif len(row) != len(header):
        cells = "1 cell" if len(row) == 1 else f"{len(row)} cells"
        trouble = f"{cells}, but the header has {len(header)}; quote a cell that holds {delimiter!r}"
    if trouble:
        return TripleFormatError(trouble, path=path, line=line)
    return dict(zip(keys, row, strict=True))


def _keys(header: list[str]) -> list[str]:
    """The names of the columns, with other white space for each that has none, so that none hides another."""
    return [name or f"{number:b}".translate(_BLANKS) for number, name in enumerate(header)]


def _swallowed(lines: list[str], delimiter: str, cells: int) -> str | None:
    """Whether a quote seems to have taken whole rows for its text: dumps with tabs quote nothing."""
    if delimiter != "\t" or len(lines) < 2 or any(line.count("\t") != cells - 1 for line in lines):
        return None
    return (
        f"a quote that opens on this line takes {many(len(lines) - 1, 'more line')} into its cell, and each looks "
        'like a row of its own; write a quote that belongs to a text as ""'
    )


# A column that a message can show in a command.
_PLAIN = re.compile(r"[^\W_][\w -]{0,39}")


def _header(path: Path, lines: _Lines, text: str, reader: RecordReader) -> tuple[str, list[str] | None]:
    """The delimiter and the column names: the first of comma, semicolon and tab that gives columns that can be read.

    None for the names where columns are chosen by number.
    """
    line = lines.number
    delimiters = "\t,;" if path.suffix.lower() == ".tsv" else ",;\t"
    chosen = reader.columns.numbers
    headers: list[tuple[str, list[str]]] = []
    for delimiter in delimiters:
        with contextlib.suppress(csv.Error):
            # A fact may go on in the next line; names do not.
            row = next(csv.reader([text], delimiter=delimiter, strict=not chosen))
            headers.append((delimiter, [cell.strip() for cell in row]))
    if chosen and headers:
        delimiter, header = _of_numbers(path, lines, text, headers, max(map(int, chosen)))
        if not chosen.intersection(header):
            _check_numbers(reader.columns, len(header), path, line)
            return delimiter, None
    told: TripleFormatError | None = None
    widest = 0
    for delimiter, header in headers:
        try:
            reader.plan(header)
        except TripleFormatError as error:
            if len(header) > widest:
                told, widest = error, len(header)
            continue
        named = [name for name in header if name]
        if twice := [name for name, times in Counter(named).items() if times > 1]:
            raise TripleFormatError(f"two columns have one name: {quoted(twice)}", path=path, line=line)
        return delimiter, header
    cells: list[str] = max((header for _, header in headers), key=len, default=[]) or [""]
    if widest > 1 and told is not None and not isinstance(told, MissingFieldError):
        raise TripleFormatError(f"{told}{below_a_title(cells)}", path=path, line=line)
    own = cells[0]
    column = own if _PLAIN.fullmatch(own) else "COLUMN"
    raise TripleFormatError(
        "the first line must name the columns, such as name,property,value, and none of these is known to hold names: "
        f"{text.strip()[:100]!r}. Choose the one that does, such as {choice({'name': column})}, and the others are "
        "read as properties; in a file without a line of names choose by number: "
        f"{choice({'name': '1', 'property': '2', 'value': '3'})}{below_a_title(cells)}",
        path=path,
        line=line,
    )


def _of_numbers(
    path: Path, lines: _Lines, text: str, headers: Sequence[tuple[str, list[str]]], largest: int
) -> tuple[str, list[str]]:
    """The delimiter, and the cells of the first line, where columns up to the number `largest` are chosen.

    Raises:
        TripleFormatError: two delimiters cut the first lines equally well.
    """
    if headers[0][0] == "\t" and len(headers[0][1]) > 1:  # a file of tabs: the others stand in its texts
        return headers[0]
    wide = [each for each in headers if len(each[1]) >= max(largest, 2)]  # name and value are two
    if len(wide) < 2:
        return wide[0] if wide else max(headers, key=lambda each: len(each[1]))
    first = [text, *lines.ahead(_LOOKED_AT - 1)]
    alike = {delimiter: _alike(first, delimiter) for delimiter, _ in wide}
    best = [each for each in wide if alike[each[0]] == max(alike.values())]
    if len(best) > 1:
        raise TripleFormatError(
            f"{' and '.join(_NAMES[delimiter] for delimiter, _ in best)} could each divide the columns: "
            f"{text.strip()[:100]!r}. Put a line of names above, divided by the one that does, such as "
            f"{best[0][0].join(FIELDS[:3])!r}",
            path=path,
            line=lines.number,
        )
    return best[0]


def _alike(lines: Sequence[str], delimiter: str) -> int:
    """How many of the first rows have as many cells as the first."""
    counts: list[int] = []
    with contextlib.suppress(csv.Error):  # a quote that is closed further on, or never
        counts.extend(len(row) for row in csv.reader(lines, delimiter=delimiter, strict=True) if "".join(row).strip())
    return counts.count(counts[0]) if counts else 0


def _check_numbers(columns: Columns, count: int, path: Path, line: int) -> None:
    """Refuse a choice by number that does not fit this first line, which is then a fact."""
    largest = max(map(int, columns.numbers))
    if largest > count:
        raise TripleFormatError(f"there is no column {largest}; this line has {count}", path=path, line=line)
    if columns.name is None or columns.value is None:
        raise TripleFormatError(
            "columns are chosen by number in a file without a line of names, and name and value are needed there; "
            f"such as {choice({'name': '1', 'property': '2', 'value': '3'})}",
            path=path,
            line=line,
        )


def _numbers(text: str, delimiter: str) -> list[str]:
    return [str(number) for number, _ in enumerate(next(csv.reader([text], delimiter=delimiter)), start=1)]


def write_csv(path: Path, triples: Iterable[Triple]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        # A row that begins with a byte order mark would look like the beginning of another file.
        quoting = csv.writer(file, delimiter=writer.dialect.delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow((*FIELDS, SOURCES))
        for count, triple in enumerate(triples, start=1):  # noqa: B007 - the last number is the count
            record = triple.to_record()
            chosen = quoting if triple.name.startswith("\ufeff") else writer
            cells = [record.get(field, "") for field in FIELDS]
            chosen.writerow([*cells, text_of(triple.sources) if triple.sources else ""])
    return count
