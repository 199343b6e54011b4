"""Knowledge after the adapter: flat keys and values of all slots, seen layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kblam.adapter.config import AdapterConfig
from kblam.errors import KnowledgeError
from kblam_kernels import DenseKnowledge


def slot_view(flat: Tensor, config: AdapterConfig, slot: int) -> Tensor:
    """(..., M, S * Hq * D) -> view (..., Hq, M, D) of one slot; slot-major, then head, as upstream lays it out."""
    return flat.unflatten(-1, (config.num_slots, config.num_heads, config.head_dim))[..., slot, :, :].transpose(-3, -2)


@dataclass(frozen=True)
class ProjectedKnowledge:
    """Keys and values of M triples for every slot.

    Args:
        keys, values: (M, out_dim) shared by the batch, or (B, M, out_dim), one list per row.
        config: of the adapter that made them.

    Raises:
        KnowledgeError: if shapes, dtypes or devices do not fit.
    """

    keys: Tensor
    values: Tensor
    config: AdapterConfig

    def __post_init__(self) -> None:
        if self.keys.dim() not in (2, 3) or self.keys.shape[-1] != self.config.out_dim:
            raise KnowledgeError(
                f"projected keys must be (M, {self.config.out_dim}) or (B, M, {self.config.out_dim}); "
                f"got {tuple(self.keys.shape)}"
            )
        same = (self.keys.shape, self.keys.dtype, self.keys.device)
        if same != (self.values.shape, self.values.dtype, self.values.device):
            raise KnowledgeError(
                "projected keys and values must have one shape, dtype and device; got "
                f"{tuple(self.keys.shape)} {self.keys.dtype} and {tuple(self.values.shape)} {self.values.dtype}"
            )

    @property
    def num_triples(self) -> int:
        """M."""
        return self.keys.shape[-2]

    @property
    def filled(self) -> None:
        """Every row holds a triple."""

    @property
    def log_count(self) -> float:
        """log M; 0 without triples."""
        return math.log(max(self.num_triples, 1))

    @property
    def dtype(self) -> torch.dtype:
        """dtype of keys and values."""
        return self.keys.dtype

    @property
    def device(self) -> torch.device:
        """Where keys and values are."""
        return self.keys.device

    def layer(self, layer: int, new_tokens: int = 1) -> DenseKnowledge:
        """What one knowledge layer attends to: a view, no copy, the same for any number of new tokens."""
        slot = self.config.slot_of(layer)
        return DenseKnowledge(slot_view(self.keys, self.config, slot), slot_view(self.values, self.config, slot))

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> ProjectedKnowledge:
        """A copy in another dtype or on another device."""
        return ProjectedKnowledge(
            self.keys.to(device=device, dtype=dtype), self.values.to(device=device, dtype=dtype), self.config
        )
