"""What openpyxl's streaming reader does not tell of a sheet: merged cells, and formulas without a result.

Both are looked for in the sheet's XML as it streams by, which takes a few hundredths of the time of reading its cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

_CHUNK, _LONGEST_CELL, _LONGEST_TAG = 2**20, 2**16, 2**23
MOST = 100_000
SOLVE = "open it in a spreadsheet program and save it there"
# No part can run past the next tag, so that a hostile file is gone through once.
_FORMULA, _FORMULA_OR_0 = (
    re.compile(
        rb"<(?:\w+:)?c\b([^<>]*)>\s*<(?:\w+:)?f\b(?:[^<>]*/>|[^<>]*>[^<]*</(?:\w+:)?f>)\s*"
        rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*" + nothing + rb"\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
    )
    for nothing in (b"", b"0?")
)
_CALCULATED_LATER = re.compile(rb'<(?:\w+:)?calcPr\b[^<>]*\bfullCalcOnLoad="(?:1|true)"')
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^<>]*\bref="([A-Z]{1,3})(\d{1,7}):[A-Z]{1,3}(\d{1,7})"')
_PLACE = re.compile(rb'\br="([A-Z]{1,3})(\d{1,7})"')
_IS_TEXT = re.compile(rb'\bt="str"')  # the result is a text, and here an empty one


@dataclass
class SheetParts:
    """Rows and columns count from 1.

    Attributes:
        below: column and rows of each cell that is merged with those below it: (column, first row, last row), by row.
        unsolved: row -> columns of formulas whose result the file does not hold.
    """

    below: list[tuple[int, int, int]] = field(default_factory=list)
    unsolved: dict[int, list[int]] = field(default_factory=dict)


def is_calculated_later(workbook: bytes) -> bool:
    """Whether the XML of a workbook has it calculated when it is opened, as programs write it that do not calculate."""
    return _CALCULATED_LATER.search(workbook) is not None


def parts_of(sheet: IO[bytes], *, calculated_later: bool = False) -> SheetParts:
    """Goes through the XML of a sheet.

    Args:
        calculated_later: of its workbook. Then the result 0 of a formula says that there is none: XlsxWriter, and so
            pandas, writes that.

    Raises:
        ValueError: there are more than 100,000 of one of them.
    """
    parts = SheetParts()
    unsolved = 0
    formula = _FORMULA_OR_0 if calculated_later else _FORMULA
    for block in _blocks(sheet):
        for found in formula.finditer(block):
            place = _PLACE.search(found[1])
            if place is not None and not _IS_TEXT.search(found[1]):
                unsolved += 1
                parts.unsolved.setdefault(int(place[2]), []).append(_number(place[1]))
        for found in _MERGED.finditer(block):
            if found[2] != found[3]:
                parts.below.append((_number(found[1]), int(found[2]), int(found[3])))
        if len(parts.below) > MOST:
            raise ValueError(f"more than {MOST:,} merged cells; save it as CSV")
        if unsolved > MOST:
            raise ValueError(f"more than {MOST:,} formulas without a result; {SOLVE}")
    parts.below.sort(key=lambda each: each[1])
    return parts


def letters(column: int) -> str:
    """The name of a column: 1 is A, 27 is AA."""
    name = ""
    while column:
        column, rest = divmod(column - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def _number(name: bytes) -> int:
    number = 0
    for letter in name:
        number = 26 * number + letter - ord("A") + 1
    return number


def _blocks(sheet: IO[bytes]) -> Iterator[bytes]:
    """The bytes, cut where no cell and no tag is open."""
    rest = b""
    while chunk := sheet.read(_CHUNK):
        block = rest + chunk
        # Behind a cell; where none has ended for long, as among the merged cells, behind a tag.
        end = block.rfind(b"c>", max(0, len(block) - _LONGEST_CELL)) + 2
        if end < 2:
            end = block.rfind(b">") + 1 if len(block) > _LONGEST_CELL else 0
        if len(block) - end > _LONGEST_TAG:
            raise ValueError(f"a tag is longer than {_LONGEST_TAG:,} bytes")
        yield block[:end]
        rest = block[end:]
    yield rest
