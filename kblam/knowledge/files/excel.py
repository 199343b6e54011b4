"""Excel workbooks (.xlsx): each sheet a table with a header row, read row by row."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kblam.errors import TripleFormatError
from kblam.knowledge.columns import below_a_title, quoted
from kblam.knowledge.files.cells import NoTextError, text_of
from kblam.knowledge.files.lines import Records
from kblam.knowledge.files.number_format import shown
from kblam.knowledge.files.packages import needed
from kblam.knowledge.files.sheet_parts import SOLVE, SheetParts, is_calculated_later, letters, parts_of
from kblam.knowledge.records import RecordReader

# XML of numbers shrinks to a tenth. What shrinks to less than a two-hundredth is no table.
LARGEST_RATIO, ALLOWED_BYTES, MOST_BYTES = 200, 100 * 2**20, 4 * 2**30
_HEAD = 2**16
_ESCAPE = re.compile(r"_x(?![dD][89A-Fa-f])([0-9A-Fa-f]{4})_")  # but for halves of a character
_FORBIDDEN = re.compile(rb"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


def read_excel(path: Path, reader: RecordReader) -> Records:
    """(row, record) of each row of each sheet.

    Raises:
        TripleFormatError: it is no workbook, a bomb, or a sheet has no header that can be read.
        MissingPackageError: openpyxl is not installed.
    """
    openpyxl = needed("openpyxl", "tables")
    refuse_bombs(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except MemoryError:
        raise
    except Exception as error:  # openpyxl raises whatever a file that it does not foresee leads it to
        raise TripleFormatError(f"not an Excel workbook that can be read: {error}", path=path) from error
    try:
        sheets = list(book.worksheets)
        held = False
        for sheet in sheets:
            reader.sheet = sheet.title if len(sheets) > 1 else ""
            for row, record in _sheet(path, sheet, reader):
                held = True
                yield row, record
        if not held:
            raise TripleFormatError("no sheet has rows below a header", path=path)
    finally:
        book.close()


def refuse_bombs(path: Path) -> None:
    """Looks at what a zip archive says of its parts, and at the head of each part, before anything is read.

    Raises:
        TripleFormatError: it would become far larger than it is, or declares entities.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            size = sum(part.file_size for part in parts)
            # The parts cannot be longer than they say: zipfile stops there.
            if size > MOST_BYTES or size > max(ALLOWED_BYTES, LARGEST_RATIO * path.stat().st_size):
                raise TripleFormatError(
                    f"unpacked it has {size:,} bytes, {size // max(1, path.stat().st_size):,} times its size: a bomb? "
                    "save it as CSV if you trust it",
                    path=path,
                )
            for part in parts:
                if part.filename.endswith((".xml", ".rels")):
                    with archive.open(part) as file:
                        if _FORBIDDEN.search(file.read(_HEAD)):
                            raise TripleFormatError(f"{part.filename} declares entities, which are refused", path=path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise TripleFormatError(f"not an Excel workbook (.xlsx): {error}", path=path) from error


def _sheet(path: Path, sheet: Any, reader: RecordReader) -> Records:
    where = reader.where
    parts = _parts(path, sheet, where)
    header: list[str] | None = None
    merged: _Merged | None = None
    read: frozenset[int] = frozenset()
    for number, cells in _rows(path, sheet, where):
        if all(cell.value is None for cell in cells):
            continue
        if header is None:
            header = [text_of(_unescaped(cell.value)) for cell in cells]
            while header and not header[-1]:  # a cell may be empty
                header.pop()
            if not header:  # blanks, which nobody sees
                header = None
                continue
            try:
                read = _columns_read(path, number, header, reader, where)
            except TripleFormatError as error:
                if not where:
                    raise
                yield number, error  # a sheet of notes, say: it may be left out as a bad row may, with a word
                return
            merged = _Merged(parts.below, number, len(header))
            continue
        assert merged is not None
        if unsolved := [at for at in parts.unsolved.get(number, ()) if at in read]:
            reason = f"the cell {letters(unsolved[0])}{number} holds a formula without its result; {SOLVE}"
            yield number, TripleFormatError(f"{where}{reason}", path=path, line=number)
            continue
        if any(cell.value is not None for cell in cells[len(header) :]):
            found = TripleFormatError(f"{where}a cell stands beside the columns of the header", path=path, line=number)
            yield number, found
            continue
        try:
            texts = [_text(cell, name) for name, cell in zip(header, cells, strict=False)]
        except NoTextError as error:
            yield number, TripleFormatError(f"{where}{error.reason}", path=path, line=number)
            continue
        texts += [None] * (len(header) - len(texts))
        reader.merged += merged.fill(number, texts)
        yield number, dict(zip(header, texts, strict=True))


class _Merged:
    """Cells that stand in the rows below theirs too, since they are merged with those.

    Args:
        below: (column, first row, last row), by row.
        header: row of the header; what is merged above it, or with it, is no cell of the table.
        columns: of the header.
    """

    def __init__(self, below: list[tuple[int, int, int]], header: int, columns: int) -> None:
        self._coming = [each for each in below if each[1] > header and each[0] <= columns][::-1]
        self._open: dict[int, tuple[int, str | None]] = {}

    def fill(self, row: int, texts: list[str | None]) -> int:
        """Writes them into the empty cells of a row; returns how many."""
        filled = 0
        for column, (last, text) in list(self._open.items()):
            if row > last:
                del self._open[column]
            elif texts[column - 1] is None and text is not None:
                texts[column - 1] = text
                filled += 1
        while self._coming and self._coming[-1][1] <= row:
            column, first, last = self._coming.pop()
            if first == row:
                self._open[column] = last, texts[column - 1]
        return filled


def _parts(path: Path, sheet: Any, where: str) -> SheetParts:
    try:
        with zipfile.ZipFile(path) as archive:
            workbooks = [part for part in archive.namelist() if part.endswith("workbook.xml")]
            later = any(is_calculated_later(archive.read(part)) for part in workbooks)
            with archive.open(sheet._worksheet_path) as file:
                return parts_of(file, calculated_later=later)
    except (KeyError, ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise TripleFormatError(f"{where}cannot be read: {error}", path=path) from error


def _rows(path: Path, sheet: Any, where: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
    sheet.reset_dimensions()  # or each row is made as wide as the file says that the widest is
    rows = enumerate(sheet.iter_rows(), start=1)
    while True:
        try:
            number, cells = next(rows)
        except StopIteration:
            return
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise TripleFormatError(f"{where}cannot be read: {error}", path=path) from error
        yield number, cells


def _columns_read(path: Path, row: int, header: list[str], reader: RecordReader, where: str) -> frozenset[int]:
    """Numbers of the columns that say something, after a look at the header."""
    if twice := [name for name, times in Counter(filter(None, header)).items() if times > 1]:
        raise TripleFormatError(f"{where}two columns have one name: {quoted(twice)}", path=path, line=row)
    try:
        plan = reader.plan(header)
    except TripleFormatError as error:
        raise type(error)(f"{where}{error.reason}{below_a_title(header)}", path=path, line=row) from None
    names = {*plan.properties, *(column for columns in plan.fields.values() for column in columns)}
    return frozenset(at for at, name in enumerate(header, start=1) if name in names)


def _text(cell: Any, column: str) -> str | None:
    """A cell as it is shown: a number with the sign of its format, a date as a date."""
    value = cell.value
    if cell.data_type == "e":
        raise NoTextError(f"the column {column[:40]!r} holds the error {value}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return shown(value, str(getattr(cell, "number_format", "") or ""))
    return text_of(_unescaped(value)) or None


def _unescaped(value: object) -> object:
    """A text without the escapes of what XML cannot hold or would change: `_x000D_` is a carriage return."""
    if not isinstance(value, str) or "_x" not in value:
        return value
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value)
