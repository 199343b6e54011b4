"""The plainest thing to keep of each triple on a device: its two vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kblam.knowledge import KnowledgeBase
from kblam.knowledge.rows import DeviceRows


@dataclass(frozen=True)
class Vectors:
    """A `RowFormat`: key and value vectors as they are, in one dtype."""

    dimension: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def allocate(self, rows: int) -> dict[str, Tensor]:
        shape = (rows, self.dimension)
        return {name: torch.zeros(shape, dtype=self.dtype, device=self.device) for name in ("key", "value")}

    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        return {"key": key.to(self.device).to(self.dtype), "value": value.to(self.device).to(self.dtype)}


def copy_of(kb: KnowledgeBase, dtype: torch.dtype = torch.float32, device: str = "cpu") -> DeviceRows:
    """A knowledge base's vectors as it is now."""
    copy = DeviceRows(kb.dimension, Vectors(kb.dimension, dtype, device), device)
    copy.sync(kb)
    return copy
