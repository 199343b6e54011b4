"""What every peer takes, and what it gives back."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Columns(NamedTuple):
    """Keys and values (B, Hq, M + T, D): knowledge and prompt as one list, for each batch row and query head a copy."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class Operands:
    """query (B, Hq, N, D), key and value (B, Hkv, T, D), knowledge (Hq, M, D), a bias for all knowledge scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_key: Tensor
    knowledge_value: Tensor
    bias: float
    # The last concatenation, as long as somebody uses it: the peers on a static cache share one.
    _held: list[weakref.ref[Tensor]] = field(default_factory=list)

    def concatenated(self) -> Columns:
        """Knowledge and prompt, copied anew."""
        B, H = self.query.shape[:2]
        return Columns(
            torch.cat([self.knowledge_key.expand(B, -1, -1, -1), grouped(self.key, H)], dim=2),
            torch.cat([self.knowledge_value.expand(B, -1, -1, -1), grouped(self.value, H)], dim=2),
        )

    def held(self) -> Columns:
        """The same, copied once for all who hold it at a time."""
        alive = [tensor for tensor in (reference() for reference in self._held) if tensor is not None]
        if len(alive) == 2:
            return Columns(*alive)
        made = self.concatenated()
        self._held[:] = [weakref.ref(tensor) for tensor in made]
        return made

    @property
    def scale(self) -> float:
        """1 / sqrt(D)."""
        return float(self.query.shape[-1] ** -0.5)


Peer = Callable[[Operands], Callable[[], Tensor]]


def grouped(tensor: Tensor, heads: int) -> Tensor:
    """(B, Hkv, T, D) with a copy for each of `heads` query heads, or the tensor itself where they are as many."""
    each = heads // tensor.shape[1]
    return tensor if each == 1 else tensor.repeat_interleave(each, dim=1)
