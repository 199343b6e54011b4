"""What tells whether weights are as they were when something was made of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter

# Of the largest number: what the order of additions, which depends on the number of threads, may change.
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class State:
    """Projectors at one moment.

    Args:
        tensors: where each weight lies, and how often it was written.
        image: what they make of one fixed vector, float32 (2, out_dim). It also tells of what a count of writes does
            not: `.data`, a hook, a LoRA that is switched on or off.
    """

    tensors: tuple[Any, ...]
    image: Tensor

    def is_that_of(self, adapter: KnowledgeAdapter) -> bool:
        """Whether an adapter's projectors are still the same."""
        return self.tensors == _tensors(adapter) and self._looks_like(_image(adapter))

    def _looks_like(self, other: Tensor) -> bool:
        if other.device != self.image.device or other.shape != self.image.shape:
            return False
        allowed = self.image.abs().amax() * _ROUNDING
        return bool(((other - self.image).abs() <= allowed).all())


def state_of(adapter: KnowledgeAdapter) -> State:
    """The state of an adapter's projectors now; costs about one projected triple."""
    return State(_tensors(adapter), _image(adapter))


def probe(width: int) -> Tensor:
    """Float32 (1, width), numbers without a pattern that a projection might hide, the same at every call."""
    return torch.sin(torch.arange(1, width + 1, dtype=torch.float32, device="cpu") * 12.9898)[None]


def places(tensors: Iterable[Tensor]) -> tuple[Any, ...]:
    """Where each tensor lies, and how often it was written; one made in inference mode does not count that."""
    return tuple(
        (tensor.data_ptr(), tensor.dtype, tensor.shape, None if tensor.is_inference() else tensor._version)
        for tensor in tensors
    )


def _tensors(adapter: KnowledgeAdapter) -> tuple[Any, ...]:
    projectors = (adapter.key_projector, adapter.value_projector)
    return places(tensor for module in projectors for tensor in (*module.parameters(), *module.buffers()))


@torch.no_grad()
def _image(adapter: KnowledgeAdapter) -> Tensor:
    device = next(adapter.key_projector.parameters(), torch.empty(0, device="cpu")).device
    vector = probe(adapter.config.embedding_dim)
    with torch.autocast(device.type, enabled=False):
        projected = adapter.project(vector, vector.flip(1))
    return torch.cat([projected.keys, projected.values]).float()
