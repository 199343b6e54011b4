"""Cells of tables and properties of graphs as texts: dates in ISO 8601, numbers in their own digits."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Mapping
from decimal import Decimal

from kblam.errors import TripleFormatError

BINARY = "binary data"


class NoTextError(TripleFormatError):
    """A value that is no text and has none, such as a picture."""


def text_of(value: object) -> str:
    """One value as text; "" where there is nothing (None, NaN, blanks).

    Numbers keep the shortest digits that give them back. Dates and times are ISO 8601; a time of midnight without a
    zone is a date, since spreadsheets have no other dates.

    Raises:
        NoTextError: it has no text; the reason is the same for values of one kind.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | Decimal):
        return _number(value)
    if isinstance(value, datetime.datetime):
        is_date = value.tzinfo is None and value.time() == datetime.time()
        return value.date().isoformat() if is_date else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | uuid.UUID):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raise NoTextError(BINARY)
    if callable(iso := getattr(value, "iso_format", None)):  # the temporal types of the Neo4j driver
        return str(iso())
    raise NoTextError(f"a value of the kind {type(value).__name__}, which has no text")


def plain(value: object) -> object:
    """A cell as records hold it: texts to the letter, numbers, lists and objects.

    Raises:
        NoTextError: it, or a part of it, has no text.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return text_of(value) or None


def _number(value: float | Decimal) -> str:
    if isinstance(value, Decimal):
        if value.is_nan():
            return ""
        if value.is_infinite():
            raise NoTextError("infinity")
        return f"{value:f}"
    if math.isnan(value):
        return ""
    if math.isinf(value):
        raise NoTextError("infinity")
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
