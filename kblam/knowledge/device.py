"""The copy of a knowledge base's vectors on a device, kept in step row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kblam.errors import KnowledgeError
from kblam.knowledge.knowledge_base import KnowledgeBase
from kblam.knowledge.rows import DeviceRows


@dataclass(frozen=True)
class _Vectors:
    """Key and value vectors as they are, in one dtype."""

    dimension: int
    dtype: torch.dtype
    device: torch.device | str

    def allocate(self, rows: int) -> dict[str, Tensor]:
        shape = (rows, self.dimension)
        return {name: torch.zeros(shape, dtype=self.dtype, device=self.device) for name in ("key", "value")}

    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        return {"key": key.to(self.device).to(self.dtype), "value": value.to(self.device).to(self.dtype)}


class DeviceEmbeddings(DeviceRows):
    """Key and value vectors on a device, with room to grow, so that changing one triple rewrites one row in place.

    Rows [0, count) are in use, in no particular order; `ids[row]` says whose they are. The rest are zeros.

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
        super().__init__(dimension, _Vectors(dimension, dtype, device), device, headroom)

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
    def key(self) -> Tensor:
        """(capacity, P) vectors of the key texts."""
        return self.buffers["key"]

    @property
    def value(self) -> Tensor:
        """(capacity, P) vectors of the value texts."""
        return self.buffers["value"]

    @property
    def dtype(self) -> torch.dtype:
        """Of both."""
        return self.key.dtype
