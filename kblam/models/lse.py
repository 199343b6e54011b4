"""The lse of attention whose output nobody reads, as where a pass ends with what its evidence layer attends to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge, RectangularAttention, knowledge_lse, rectangular_attention
from kblam_kernels.common.dispatch import AUTO


def can_be_alone(attend: RectangularAttention, knowledge_query: Any) -> bool:
    """Whether the lse can be had without the output: C++ kernels have it in half the time, others only with it."""
    knowledge = attend.knowledge
    return (
        isinstance(knowledge_query, Tensor)
        and knowledge_query.device.type == "cpu"
        and attend.backend in (AUTO, "cpu")
        and not (isinstance(knowledge, LatentKnowledge) and knowledge.materialised)
        and not torch.is_grad_enabled()
    )


def lse_alone(
    attend: RectangularAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_query: Tensor,
    *,
    scale: float,
    window: int | None,
    knowledge_bias: float | Tensor,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
) -> Tensor:
    """The lse that `attend` would give for these arguments, float32 (B, Hq, N)."""
    nothing = DenseKnowledge.empty(query.shape[1], query.shape[3], dtype=query.dtype, device=query.device)
    _, of_prompt = rectangular_attention(
        query, key, value, nothing, scale=scale, window=window, prompt_mask=prompt_mask, return_lse=True
    )
    of_knowledge = knowledge_lse(
        knowledge_query,
        attend.knowledge,
        scale=scale,
        knowledge_bias=knowledge_bias,
        knowledge_range=knowledge_range,
        int8_products=attend.int8_products,
    )
    # A row that sees no prompt is padding, and sees no knowledge.
    return torch.logaddexp(of_prompt, of_knowledge).masked_fill(of_prompt == -torch.inf, -torch.inf)
