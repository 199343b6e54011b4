"""Rows on a device that follow a knowledge base: one a triple, over-allocated, rewritten in place."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kblam.errors import DeviceFullError, KnowledgeError, argument
from kblam.knowledge.knowledge_base import KnowledgeBase

MIN_CAPACITY = 64
# What allocators say; "CUDA error: an illegal memory access" is none of theirs. A size past 2 ** 63 overflows.
_LACKS = ("out of memory", "not enough memory", "allocate memory", "alloc failed", "overflow")


def _on_the_cpu() -> str:
    return argument("device='cpu'", "--device cpu", ("ask", "chat", "eval"))


def room_for(triples: int) -> int:
    """The rows that are made for so many triples: an eighth are spare."""
    return max(MIN_CAPACITY, triples + triples // 8)


class RowFormat(Protocol):
    """What is kept of each triple."""

    def allocate(self, rows: int) -> dict[str, Tensor]:
        """Zeros by name, with `rows` as the first dimension of each."""

    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """(n, P) vectors as the store has them, on the CPU -> what to write into n rows, by name."""


class DeviceRows:
    """A knowledge base's triples in one format, with room to grow: changing one triple rewrites one row.

    Rows [0, count) are in use, in no particular order; `ids[row]` is the id of the row's triple. The rest are zeros.

    Attributes:
        buffers: tensors by name, `capacity` rows each. They stay the same objects at the same address until
            `capacity` changes.
        ids: the triple of each row in use (`KnowledgeBase.triples_at` gives the words).

    Args:
        dimension: P of the vectors.
        form: what is kept of them.
        device: where.

    Raises:
        KnowledgeError: the dimension is not positive, or the device is not there.
    """

    def __init__(self, dimension: int, form: RowFormat, device: torch.device | str) -> None:
        if dimension < 1:
            raise KnowledgeError(f"dimension must be positive, got {dimension}")
        self.dimension = dimension
        self.ids: list[int] = []
        self._form = form
        self._row_of: dict[int, int] = {}
        # Not its store_id: a copied file has the original's, and their revisions mean different changes.
        self._follows: object = None
        self._revision = 0
        try:
            # With its number, as the model's.
            self.device = torch.empty(0, device=device).device
            self.buffers = form.allocate(MIN_CAPACITY)
        # torch raises either for a device that is not there, by kind of device and release.
        except (RuntimeError, AssertionError) as error:
            reason = (str(error) or "no such device").splitlines()[0]
            raise KnowledgeError(f"cannot hold embeddings on {device!s}: {reason}; use {_on_the_cpu()}") from error

    @property
    def count(self) -> int:
        """Rows in use."""
        return len(self.ids)

    @property
    def capacity(self) -> int:
        """Rows there is room for. When it changes, `buffers` are new tensors."""
        return next(iter(self.buffers.values())).shape[0]

    @property
    def revision(self) -> int:
        """The revision of the knowledge base that this is a copy of."""
        return self._revision

    def rows_of(self, ids: Iterable[int]) -> list[int]:
        """The rows of the triples with these ids, as far as they are here."""
        return [row for one in ids if (row := self._row_of.get(one)) is not None]

    def sync(self, kb: KnowledgeBase) -> list[int]:
        """Apply what changed in `kb` since the last call; returns the rows whose contents are new, ascending.

        A changed triple keeps its row, a new one is appended, and a removal moves the last row into the hole.
        Another `KnowledgeBase` object than last time replaces everything.

        Raises:
            KnowledgeError: its vectors have another dimension; nothing was changed.
            DeviceFullError: there is no room; nothing was changed. If memory ran out later, the call was
                interrupted, or a vector was not as it was written, the next one writes all rows again.
            StoreFormatError: the file is damaged.
        """
        if kb.dimension != self.dimension:
            raise KnowledgeError(
                f"{kb!r} has vectors of {kb.dimension} numbers, this copy holds {self.dimension}; "
                "make a new copy for it"
            )
        other = kb.mark is not self._follows
        with kb.pieces_since(0 if other else self._revision) as changes:
            known = {} if other else self._row_of
            gone = sum(one in known for one in changes.removed.tolist())
            new = sum(one not in known for one in changes.ids.tolist())
            # The largest allocation comes before any row changes.
            self._make_room(len(known) - gone + new)
            # Until all is done it follows nothing: rows that were moved or written in part are written again.
            self._follows = None
            if other:
                self._clear()
            rows = set(self._remove(changes.removed.tolist()))
            for piece in changes.vectors:
                rows.update(self._write(*piece))
        self._follows, self._revision = kb.mark, changes.revision
        return sorted(rows)

    def copy(self, form: RowFormat | None = None) -> DeviceRows:
        """The same rows in other memory; each follows the knowledge base by itself from here on.

        Args:
            form: whose memory; None is this one's.

        Raises:
            DeviceFullError: there is no room.
        """
        form = self._form if form is None else form
        twin = copy.copy(self)
        twin.ids, twin._row_of, twin._form = list(self.ids), dict(self._row_of), form
        capacity = room_for(self.count)
        with self._memory(capacity):
            twin.buffers = form.allocate(capacity)
        for name, buffer in self.buffers.items():
            twin.buffers[name][: self.count] = buffer[: self.count]
        return twin

    def _clear(self) -> None:
        for buffer in self.buffers.values():
            buffer.zero_()  # all of it: after an interrupted call rows beyond the count may be filled
        self.ids.clear()
        self._row_of.clear()

    def _remove(self, ids: list[int]) -> list[int]:
        """Forget these triples; returns the rows that another one moved into."""
        before = self.count
        origin: dict[int, int] = {}  # row -> the row whose contents belong there now
        for one in ids:
            hole = self._row_of.pop(one, None)
            if hole is None:
                continue  # added and removed between two calls
            last = len(self.ids) - 1
            mover = self.ids.pop()
            source = origin.pop(last, last)
            if hole != last:
                self.ids[hole] = mover
                self._row_of[mover] = hole
                origin[hole] = source
        if self.count == before:
            return []
        to = torch.tensor(list(origin), dtype=torch.int64, device=self.device)
        source_rows = torch.tensor(list(origin.values()), dtype=torch.int64, device=self.device)
        for buffer in self.buffers.values():
            if origin:
                with self._memory(len(origin)):
                    # Indexing on the right copies first, so rows that are both read and written are safe.
                    buffer[to] = buffer[source_rows]
            buffer[self.count : before].zero_()
        return list(origin)

    def _write(self, ids: np.ndarray, key: np.ndarray, value: np.ndarray) -> list[int]:
        """Put triples in their rows, appending new ones; returns the rows."""
        rows = []
        for one in ids.tolist():
            row = self._row_of.setdefault(one, len(self.ids))
            if row == len(self.ids):
                self.ids.append(one)
            rows.append(row)
        with self._memory(len(rows)):
            encoded = self._form.encode(torch.from_numpy(key), torch.from_numpy(value))
        # A run of rows, as at the first copy and at every append, needs no index on the device.
        run = rows == list(range(rows[0], rows[0] + len(rows)))
        where = slice(rows[0], rows[-1] + 1) if run else torch.tensor(rows, device=self.device)
        for name, buffer in self.buffers.items():
            buffer[where] = encoded[name]
        return rows

    def _make_room(self, count: int) -> None:
        if count <= self.capacity:
            return
        capacity = room_for(count)
        with self._memory(capacity):
            fresh = self._form.allocate(capacity)
        for name, buffer in self.buffers.items():
            fresh[name][: self.count] = buffer[: self.count]
        self.buffers = fresh

    @contextmanager
    def _memory(self, rows: int) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            row_bytes = sum(buffer[0].numel() * buffer.element_size() for buffer in self.buffers.values())
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if not _is_of_memory(error):
                raise KnowledgeError(
                    f"{rows:,} rows of embeddings cannot be made on {self.device}: {reason}"
                ) from error
            raise DeviceFullError(
                f"no room for {rows:,} rows of embeddings ({rows * row_bytes / 2**20:,.0f} MiB) on {self.device}: "
                f"{reason}; use a smaller dtype or {_on_the_cpu()}"
            ) from error


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory is what lacks: allocators raise RuntimeError too, and so does whatever else is wrong."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # Libraries of CUDA give the name of a constant, such as CUBLAS_STATUS_ALLOC_FAILED.
    said = str(error).lower().replace("_", " ")
    return any(words in said for words in _LACKS)
