"""The lse of attention whose output nobody reads, as where a pass ends with what its evidence layer attends to.

Of a long list with the largest score of each block of its tokens, by which the triples with the most mass are found
without another pass over it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge, RectangularAttention, knowledge_lse, rectangular_attention
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.evidence.call import num_blocks
from kblam_kernels.knowledge import Knowledge

# Knowledge tokens from which it pays to look for the best in few blocks of them; below, a second pass takes no longer.
IN_BLOCKS_FROM = 1 << 15
# Memory for the largest scores of blocks, in numbers: 256 MiB. Rows that would take more do without them.
MOST_MAXIMA = 1 << 26


def tokens_at_once(knowledge: Knowledge, batch: int) -> int | None:
    """New tokens of each batch row whose block maxima there is memory for; None for any number."""
    if knowledge.num_tokens < IN_BLOCKS_FROM or knowledge.key.device.type != "cpu":
        return None
    return max(1, MOST_MAXIMA // (batch * knowledge.num_heads * num_blocks(knowledge.num_tokens)))


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
) -> tuple[Tensor, Tensor | None]:
    """The lse that `attend` would give for these arguments, float32 (B, Hq, N), and `knowledge_lse`'s block maxima."""
    nothing = DenseKnowledge.empty(query.shape[1], query.shape[3], dtype=query.dtype, device=query.device)
    _, of_prompt = rectangular_attention(
        query, key, value, nothing, scale=scale, window=window, prompt_mask=prompt_mask, return_lse=True
    )
    of_knowledge, block_max = of_knowledge_alone(
        knowledge_query,
        attend.knowledge,
        scale=scale,
        knowledge_bias=knowledge_bias,
        knowledge_range=knowledge_range,
        int8_products=attend.int8_products,
    )
    # A row that sees no prompt is padding, and sees no knowledge.
    lse = torch.logaddexp(of_prompt, of_knowledge).masked_fill(of_prompt == -torch.inf, -torch.inf)
    return lse, block_max


def of_knowledge_alone(knowledge_query: Tensor, knowledge: Knowledge, **options: Any) -> tuple[Tensor, Tensor | None]:
    """`knowledge_lse`, float32 (B, Hq, N), with its block maxima where looking in few blocks pays and there is room.

    Args:
        knowledge_query, knowledge, options: as `knowledge_lse` takes them.
    """
    tokens, numbers = knowledge.num_tokens, knowledge_query[..., 0].numel()
    if tokens < IN_BLOCKS_FROM or numbers * num_blocks(tokens) > MOST_MAXIMA:
        return knowledge_lse(knowledge_query, knowledge, **options), None
    lse, block_max = knowledge_lse(knowledge_query, knowledge, return_block_max=True, **options)
    return lse, block_max
