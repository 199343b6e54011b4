"""A run beside an earlier one of the same machine."""

from __future__ import annotations

from typing import Any

from kblam.bench.environment import MACHINE
from kblam.bench.report import Stored
from kblam.bench.rows import Row
from kblam.errors import BenchmarkError


def check_machine(stored: Stored, about: dict[str, Any], file: object) -> None:
    """Raises BenchmarkError if a result file is of another machine than this run: their times say nothing together."""
    for name in MACHINE:
        before, now = stored.about.get(name), about[name]
        if before != now:
            raise BenchmarkError(
                f"{file} is of another machine: its {name} is {_said(before)}, this one's {_said(now)}; "
                "compare runs of one machine with as many threads"
            )


def _said(value: object) -> str:
    return str(value.get("model")) if isinstance(value, dict) and "model" in value else repr(value)


def speedup(row: Row, before: list[Row]) -> float | None:
    """How many times as fast as before; None where it was not measured."""
    for old in before:
        if (old.case, old.implementation) == (row.case, row.implementation) and old.seconds and row.seconds:
            return old.seconds / row.seconds
    return None
