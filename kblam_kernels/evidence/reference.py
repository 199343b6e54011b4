"""Scores and masses of knowledge tokens in plain PyTorch, chunked over M: memory is O(M + rows x CHUNK)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kblam_kernels.rectangular.reference import accumulation_dtype, chunks, knowledge_offset, times_knowledge


def score_chunks(
    knowledge_query: Tensor,
    knowledge_key: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (columns, scores (B, Hq, N, len(columns))) with bias and ranges applied."""
    dtype, device = accumulation_dtype(knowledge_query), knowledge_query.device
    r = knowledge_query.to(dtype) * scale
    for cols in chunks(knowledge_key.shape[-2]):
        scores = times_knowledge(r, knowledge_key[..., cols, :].to(dtype).transpose(-1, -2))
        offset = knowledge_offset(bias, knowledge_range, cols, dtype, device)
        yield cols, scores if offset is None else scores + offset


def mass(
    knowledge_query: Tensor,
    knowledge_key: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
) -> Tensor:
    """sum over (h, n) of row_weight * exp(s - lse): float32 (B, M)."""
    B, M = knowledge_query.shape[0], knowledge_key.shape[-2]
    total = torch.zeros(B, M, dtype=lse.dtype, device=lse.device)
    level = lse.masked_fill(lse == float("-inf"), float("inf"))[..., None]
    for cols, scores in score_chunks(knowledge_query, knowledge_key, bias, knowledge_range, scale):
        total[:, cols] = torch.einsum("bhnm,bhn->bm", torch.exp(scores - level), row_weight.to(scores.dtype))
    return total


def knowledge_lse(
    knowledge_query: Tensor,
    knowledge_key: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
) -> Tensor:
    """log sum exp of the knowledge scores alone, (B, Hq, N); -inf where a row sees no knowledge."""
    lse = torch.full(
        knowledge_query.shape[:3],
        float("-inf"),
        dtype=accumulation_dtype(knowledge_query),
        device=knowledge_query.device,
    )
    for _, scores in score_chunks(knowledge_query, knowledge_key, bias, knowledge_range, scale):
        lse = torch.logaddexp(lse, torch.logsumexp(scores, -1))
    return lse
