"""The copy of a knowledge base's vectors on a device, kept in step row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from kblam.errors import KnowledgeError
from kblam.knowledge.knowledge_base import KnowledgeBase

_MIN_CAPACITY = 64


class DeviceEmbeddings:
    """Key and value vectors on a device, with room to grow, so that changing one triple rewrites one row in place.

    Rows [0, count) are in use, in no particular order; `ids[row]` says whose they are. The rest are zeros.

    Attributes:
        key, value: (capacity, P) in `dtype` on `device`. The tensors stay the same objects at the same address
            until `capacity` changes.
        ids: the triple of each row in use (`KnowledgeBase.triples_at` gives the words).
        version: rises with every `sync` that changed something.

    Args:
        dimension: P.
        dtype: any floating type the device has.
        device: as torch names it.
        headroom: spare rows as a share of those in use, whenever room is made.

    Raises:
        KnowledgeError: the dtype is not floating, the device is not there, or a size makes no sense.
    """

    def __init__(
        self,
        dimension: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        headroom: float = 0.125,
    ) -> None:
        if not dtype.is_floating_point:
            raise KnowledgeError(f"embeddings cannot be held as {dtype}; use a floating type such as torch.bfloat16")
        if dimension < 1 or not headroom >= 0:
            raise KnowledgeError(f"dimension must be positive and headroom at least 0, got {dimension} and {headroom}")
        self.headroom = headroom
        self.ids: list[int] = []
        self.version = 0
        self._row_of: dict[int, int] = {}
        self._store_id: str | None = None
        self._revision = 0
        try:
            self.key = torch.zeros(_MIN_CAPACITY, dimension, dtype=dtype, device=device)
        # torch raises either for a device that is not there, by kind of device and release.
        except (RuntimeError, AssertionError) as error:
            reason = (str(error) or "no such device").splitlines()[0]
            raise KnowledgeError(f"cannot hold embeddings on {device!s}: {reason}; use device='cpu'") from error
        self.value = torch.zeros_like(self.key)

    @classmethod
    def of(
        cls,
        kb: KnowledgeBase,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        headroom: float = 0.125,
    ) -> DeviceEmbeddings:
        """A copy of a knowledge base as it is now."""
        copy = cls(kb.dimension, dtype=dtype, device=device, headroom=headroom)
        copy.sync(kb)
        return copy

    @property
    def count(self) -> int:
        """Rows in use."""
        return len(self.ids)

    @property
    def capacity(self) -> int:
        """Rows there is room for. When it changes, `key` and `value` are new tensors."""
        return self.key.shape[0]

    @property
    def dimension(self) -> int:
        return self.key.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.key.dtype

    @property
    def device(self) -> torch.device:
        return self.key.device

    @property
    def revision(self) -> int:
        """The revision of the knowledge base that this is a copy of."""
        return self._revision

    def sync(self, kb: KnowledgeBase) -> list[int]:
        """Take over what changed in `kb` since the last call; returns the rows whose contents are new, ascending.

        A changed triple keeps its row, a new one is appended, and a removal moves the last row into the hole,
        so what is derived from the rows (projected keys and values) need only be redone for those returned, and
        cut to `count`. Another knowledge base than last time replaces everything.

        Raises:
            KnowledgeError: its vectors have another dimension, or memory ran out; nothing was changed.
        """
        if kb.dimension != self.dimension:
            raise KnowledgeError(
                f"{kb!r} has vectors of {kb.dimension} numbers, this copy holds {self.dimension}; "
                "make a new copy with DeviceEmbeddings.of(kb)"
            )
        other = kb.store_id != self._store_id
        changes = kb.changes_since(0 if other else self._revision)
        known = {} if other else self._row_of
        gone = sum(one in known for one in changes.removed.tolist())
        new = sum(one not in known for one in changes.upserted.ids.tolist())
        # Everything that can run out of memory comes before anything that changes a row.
        key, value = self._to_device(changes.upserted.key), self._to_device(changes.upserted.value)
        self._make_room(len(known) - gone + new)
        if other:
            self._clear()
        moved = self._remove(changes.removed.tolist())
        written = self._write(changes.upserted.ids.tolist(), key, value)
        rows = sorted({*moved, *written})
        if other or gone or rows:
            self.version += 1
        self._store_id, self._revision = kb.store_id, changes.revision
        return rows

    def _clear(self) -> None:
        self.key[: self.count].zero_()
        self.value[: self.count].zero_()
        self.ids.clear()
        self._row_of.clear()

    def _remove(self, ids: list[int]) -> list[int]:
        """Forget these triples; returns the rows that another one moved into."""
        before = self.count
        origin: dict[int, int] = {}  # row -> the row whose vectors belong there now
        for one in ids:
            hole = self._row_of.pop(one, None)
            if hole is None:
                continue  # it came and went between two calls
            last = len(self.ids) - 1
            mover = self.ids.pop()
            source = origin.pop(last, last)
            if hole != last:
                self.ids[hole] = mover
                self._row_of[mover] = hole
                origin[hole] = source
        if origin:
            to = torch.tensor(list(origin), device=self.device)
            source_rows = torch.tensor(list(origin.values()), device=self.device)
            # Indexing on the right copies first, so rows that are both read and written are safe.
            self.key[to] = self.key[source_rows]
            self.value[to] = self.value[source_rows]
        self.key[self.count : before].zero_()
        self.value[self.count : before].zero_()
        return list(origin)

    def _write(self, ids: list[int], key: torch.Tensor, value: torch.Tensor) -> list[int]:
        """Put vectors in their rows, appending those of new triples; returns the rows."""
        rows = []
        for one in ids:
            row = self._row_of.setdefault(one, len(self.ids))
            if row == len(self.ids):
                self.ids.append(one)
            rows.append(row)
        if rows:
            # A run of rows, as at the first copy and at every append, needs no index on the device.
            run = rows == list(range(rows[0], rows[0] + len(rows)))
            where = slice(rows[0], rows[-1] + 1) if run else torch.tensor(rows, device=self.device)
            self.key[where] = key
            self.value[where] = value
        return rows

    def _to_device(self, vectors: np.ndarray) -> torch.Tensor:
        with self._memory(len(vectors)):
            return torch.from_numpy(vectors).to(self.device).to(self.dtype)

    def _make_room(self, count: int) -> None:
        if count <= self.capacity:
            return
        capacity = count + int(count * self.headroom)
        with self._memory(capacity):
            shape = (capacity, self.dimension)
            key, value = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        key[: self.capacity] = self.key
        value[: self.value.shape[0]] = self.value
        self.key, self.value = key, value

    @contextmanager
    def _memory(self, rows: int) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            size = 2 * rows * self.dimension * self.dtype.itemsize / 2**20
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise KnowledgeError(
                f"no room for {rows:,} rows of embeddings ({size:,.0f} MiB) on {self.device}: {reason}; "
                "use a smaller dtype or device='cpu'"
            ) from error
