"""The rows of the pool: which spans are taken, and how the gaps between them are closed."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from kblam.errors import EngineError

_PIECE = 4096  # rows that are moved at a time
NO_ROOM = "no room"  # how an error of the pool begins that needs time or a larger one


@dataclass(eq=False)
class Span:
    """Rows [start, start + rows) of the pool.

    Args:
        start: its first row; another after gaps were closed.
        rows: how many.
        parts: these rows of each of the pool's buffers, by name; others after gaps were closed.
    """

    start: int
    rows: int
    parts: dict[str, Tensor]

    @property
    def stop(self) -> int:
        """The row after the last."""
        return self.start + self.rows


class Spans:
    """Who has which rows. Where only gaps are left, what is there moves together: steps read where a span is now.

    Args:
        buffers: of the pool, by name, with as many rows each.

    Attributes:
        taken: in the order of their rows.
    """

    def __init__(self, buffers: Mapping[str, Tensor]) -> None:
        self._buffers = buffers
        self.taken: list[Span] = []

    @property
    def capacity(self) -> int:
        """Rows, taken or not."""
        return len(next(iter(self._buffers.values())))

    def take(self, rows: int) -> Span:
        """The first so many free rows that lie together, as zeros.

        Raises:
            EngineError: there are none.
        """
        free = self.capacity - sum(span.rows for span in self.taken)
        if free < rows:
            raise EngineError(
                f"{NO_ROOM} for {rows:,} rows of knowledge: {free:,} of {self.capacity:,} are free, versions that "
                "requests in progress attend to included; unload a base, wait, or start with a larger kblam.capacity"
            )
        start = self._gap(rows)
        if start is None:
            start = self._close_gaps()
        found = Span(start, rows, self._parts(start, rows))
        for part in found.parts.values():
            part.zero_()
        bisect.insort(self.taken, found, key=lambda span: span.start)
        return found

    def give_back(self, spans: Iterable[Span]) -> None:
        """The inverse of `take`."""
        for span in spans:
            self.taken.remove(span)

    def _gap(self, rows: int) -> int | None:
        start = 0
        for span in self.taken:
            if span.start - start >= rows:
                return start
            start = span.stop
        return start if self.capacity - start >= rows else None

    def _close_gaps(self) -> int:
        """Moves all to the front; returns the first row behind them."""
        end = 0
        for span in self.taken:
            for buffer in self._buffers.values() if span.start > end else ():
                for at in range(0, span.rows, _PIECE):  # by pieces, since old and new rows may overlap
                    piece = buffer[span.start + at : min(span.start + at + _PIECE, span.stop)].clone()
                    buffer[end + at : end + at + len(piece)] = piece
            span.start = end
            span.parts |= self._parts(end, span.rows)  # the same dict, for whoever has it
            end = span.stop
        return end

    def _parts(self, start: int, rows: int) -> dict[str, Tensor]:
        return {name: buffer[start : start + rows] for name, buffer in self._buffers.items()}
