"""The `triton` backend of dense knowledge: which of its two kernels serves a call."""

from __future__ import annotations

import os
from collections.abc import Callable

from torch import Tensor

from kblam_kernels.rectangular import chunks
from kblam_kernels.tiles import TILE_VARIABLE


def is_split(N: int) -> bool:
    """Whether N new queries go to split decode. A pinned KBLAM_TILE belongs to the single pass: it serves all then."""
    return N <= chunks.MAX_DECODE_QUERIES and not os.environ.get(TILE_VARIABLE)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """`reference.forward` by `triton_decode` for few queries, by `triton_forward` for many."""
    chosen: Callable[..., tuple[Tensor, Tensor]]
    if is_split(query.shape[2]):
        from kblam_kernels.rectangular import triton_decode

        chosen = triton_decode.forward
    else:
        from kblam_kernels.rectangular import triton_forward

        chosen = triton_forward.forward
    return chosen(
        query,
        key,
        value,
        knowledge_key,
        knowledge_value,
        knowledge_query,
        bias,
        prompt_mask,
        knowledge_range,
        scale,
        window,
    )
