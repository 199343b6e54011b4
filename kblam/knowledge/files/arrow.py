"""Columns of Arrow as Python's values, also where Python has no value of that kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kblam.knowledge.files.cells import NoTextError
from kblam.knowledge.files.packages import needed


def cells_of(column: Any) -> list[object]:
    """The values of a column; in the place of one that cannot be had, an error that says so.

    Maps become objects, in which a key that stands twice has a list of values; floats of fewer bits their own shortest
    digits; times keep their nanoseconds, as text.
    """
    try:
        cells: list[object] = column.to_pylist()
    except Exception:  # one value among thousands, of whatever kind: a year 10,000, a zone, a text that is not UTF-8
        cells = [_cell(column[at]) for at in range(len(column))]
    types = needed("pyarrow", "tables").types
    if types.is_float32(column.type):
        return [shortest(np.float32, cell) for cell in cells]
    if types.is_float16(column.type):
        return [shortest(np.float16, cell) for cell in cells]
    if types.is_nested(column.type):
        return [_with_objects(types, cell, column.type) for cell in cells]
    return cells


def _cell(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except Exception as error:  # as above
        text = _with_nanoseconds(scalar) if isinstance(error, ValueError) else None
        return text or NoTextError(f"a {scalar.type} that cannot be read: {str(error)[:60]}")


def _with_nanoseconds(scalar: Any) -> str | None:
    """A time that is finer than Python's, as text; None of anything else."""
    pa = needed("pyarrow", "tables")
    kind = scalar.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        told = pa.scalar(scalar.value // 1000, pa.timestamp("us", kind.tz)).as_py().isoformat(" ", "microseconds")
    elif pa.types.is_time64(kind) and kind.unit == "ns":
        told = pa.scalar(scalar.value // 1000, pa.time64("us")).as_py().isoformat("microseconds")
    else:
        return None
    end = told.index(".") + 7
    return f"{told[:end]}{scalar.value % 1000:03d}{told[end:]}"


def shortest(kind: Any, cell: object) -> object:
    """The digits that give back a float of fewer bits than Python's; whole numbers and what is no number stay."""
    return str(kind(cell)) if isinstance(cell, float) and math.isfinite(cell) and not cell.is_integer() else cell


def _with_objects(types: Any, value: Any, kind: Any) -> Any:
    """Maps, which come as lists of pairs, as objects."""
    if value is None or isinstance(value, NoTextError) or not types.is_nested(kind):
        return value
    if types.is_map(kind):
        found: dict[str, list[object]] = {}
        for key, inner in value:
            found.setdefault(str(key), []).append(_with_objects(types, inner, kind.item_type))
        return {key: inner[0] if len(inner) == 1 else inner for key, inner in found.items()}
    if types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        return {field.name: _with_objects(types, value[field.name], field.type) for field in fields}
    if hasattr(kind, "value_type"):
        return [_with_objects(types, inner, kind.value_type) for inner in value]
    return value
