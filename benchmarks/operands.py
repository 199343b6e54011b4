"""What every peer takes, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Operands:
    """query (B, Hq, N, D), key and value (B, Hkv, T, D), knowledge (Hq, M, D), a bias for all knowledge scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_key: Tensor
    knowledge_value: Tensor
    bias: float

    @property
    def scale(self) -> float:
        """1 / sqrt(D)."""
        return float(self.query.shape[-1] ** -0.5)


Peer = Callable[[Operands], Callable[[], Tensor]]


def grouped(tensor: Tensor, heads: int) -> Tensor:
    """(B, Hkv, T, D) with a copy for each of `heads` query heads."""
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)
