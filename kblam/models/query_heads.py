"""The query heads of an attached adapter in one byte a number, beside the full weights that the adapter keeps.

A decoded token reads every weight of its query heads once. At Llama-3-8B's shape that is 33.5 MB a layer in bfloat16,
more than the latents of 10,000 triples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.plain import is_plain_linear
from kblam.errors import AdapterError, KnowledgeError
from kblam.models.graphs import stay
from kblam.models.weights import places, probe

INT8 = "int8"
QUERY_STORAGE = ("auto", INT8)
_LARGEST = 127
# What `_weight_int8pack_mm` is quick in: on a CPU no other dtype has vector instructions. Rounding states and outputs
# to bfloat16 costs a fifth of what rounding the weights to int8 does.
PRODUCT = torch.bfloat16
# Outputs of a head that are looked at to see whether its weights were written in a way that is not counted (`.data`,
# inference mode): all of them would be read as often as the head itself.
_LOOKED_AT = 64
# It reads the weights again for every few rows; with more, a product with widened weights is quicker.
MOST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Int8Head:
    """A query head: weight[o] * scale[o] is what the full one has for output o, but for rounding.

    Args:
        weight: int8 (Hq * D, hidden).
        scale: bfloat16 (Hq * D,).
    """

    weight: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, device: torch.device) -> Int8Head:
        """Rounds floating-point weights (Hq * D, hidden) to nearest, each output by its own largest number."""
        rows = weight.detach().float()
        # In the dtype in which it is read: rounding it later would shift a whole output.
        scale = (torch.linalg.vector_norm(rows, torch.inf, dim=1) / _LARGEST).to(PRODUCT)
        scaled = rows / scale.float().masked_fill(scale == 0, 1.0)[:, None]
        return cls(scaled.round().clamp(-_LARGEST, _LARGEST).to(torch.int8).to(device), scale.to(device))

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> (..., Hq * D) in the same dtype."""
        dtype, rows = hidden_states.dtype, hidden_states.flatten(0, -2)
        # It has no derivative.
        if rows.shape[0] <= MOST_ROWS and not (torch.is_grad_enabled() and rows.requires_grad):
            made = torch._weight_int8pack_mm(rows.to(PRODUCT).contiguous(), self.weight, self.scale).to(dtype)
        else:
            made = F.linear(rows, self.weight.to(dtype)) * self.scale.to(dtype)
        return made.view(*hidden_states.shape[:-1], -1)


class QueryHeads:
    """The int8 heads of one attachment, made anew when a weight of the adapter has changed."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Tensor, Int8Head]] = {}

    def of(self, layer: int) -> Int8Head | None:
        """The head of a knowledge layer; None where the adapter's own is used."""
        made = self._made.get(layer)
        return None if made is None else made[2]

    @torch.inference_mode(False)
    @torch.no_grad()
    def follow(self, adapter: KnowledgeAdapter, device: torch.device) -> None:
        """Brings all heads, on a device, up to the adapter's weights.

        Raises:
            AdapterError: a head is more than its weight.
        """
        _check_plain(adapter)
        for layer in adapter.config.knowledge_layers:
            weight = cast(nn.Linear, adapter.query_heads[str(layer)]).weight
            state, image = (device, places([weight])), _image(weight)
            made = self._made.get(layer)
            if made is None or made[0] != state or not torch.equal(made[1], image):
                head = Int8Head.of(weight, device)
                stay(head)
                self._made[layer] = state, image, head


def check_query_storage(query_storage: str, adapter: KnowledgeAdapter, *, trainable: bool) -> None:
    """Checks that an adapter's query heads can be stored so.

    Raises:
        KnowledgeError: if not, or if the name is not known.
        AdapterError: a head is more than its weight.
    """
    if query_storage not in QUERY_STORAGE:
        raise KnowledgeError(f"query_storage must be one of {', '.join(QUERY_STORAGE)}; got {query_storage!r}")
    if query_storage != INT8:
        return
    if trainable:
        raise KnowledgeError(
            f"query_storage={INT8!r} rounds query heads, and trainable=True lets them learn; choose one of the two"
        )
    if not adapter.config.separate_query_head:
        raise KnowledgeError(
            f"query_storage={INT8!r}: this adapter has no query heads (separate_query_head is off), it asks with the "
            "model's own queries; leave query_storage out"
        )
    _check_plain(adapter)


def _image(weight: Tensor) -> Tensor:
    some = weight.detach()[:: max(1, len(weight) // _LOOKED_AT)]
    return F.linear(probe(weight.shape[1]).to(some), some)


def _check_plain(adapter: KnowledgeAdapter) -> None:
    for layer, head in adapter.query_heads.items():
        if not is_plain_linear(head):
            raise AdapterError(
                f"query_storage={INT8!r}: the query head of layer {layer} ({type(head).__name__}) is wrapped or "
                "hooked; merge what wraps it (LoRA, parametrizations), or leave query_storage out"
            )
