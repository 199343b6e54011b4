"""Attention to the best k knowledge tokens only (upstream's `dynamic_sparsify`): which they are, and their knowledge.

Plain PyTorch on every device: a sum of scores over heads and queries is one product with the summed query, bound by
memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.checks import bias_rows, row_weight_of
from kblam_kernels.common.columns import biased, chunks, inside_range, may_be_read
from kblam_kernels.common.softmax import LOWEST, accumulation_dtype
from kblam_kernels.errors import refuse, tensors, whole
from kblam_kernels.evidence.given import check_scores
from kblam_kernels.knowledge import DenseKnowledge, Knowledge, check_layout, dequantise
from kblam_kernels.precision import exactly

# Numbers of keys converted to float32 at a time: the choice should not depend on rounding, nor its memory on M.
CONVERTED = 2**24
_LAYOUTS = {2: "bhw,mw->bm", 3: "bhw,hmw->bm", 4: "bhw,bhmw->bm"}


def prune(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    k: int,
    *,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[DenseKnowledge, Tensor, Tensor]:
    """The k tokens of each batch row that `choose` ranks highest, ready for `rectangular_attention`.

    Upstream's `dynamic_sparsify`, with one difference: the result attends with the *selected* tokens' own scores,
    where upstream pairs their values with the scores of the first k.

    Args:
        As `choose`.

    Returns:
        The selected tokens, `DenseKnowledge` (B, Hq, k', D), projected if they were latents; their bias (B, k'), -inf
        where a row does not see one; and their indices int64 (B, k'), best first, with k' = min(k, M).
        Differentiable in dense keys and values, not in the choice.

    Raises:
        UnsupportedInputError: as `choose`.
    """
    hidden: dict[str, Any] = {"knowledge_bias": knowledge_bias, "knowledge_range": knowledge_range}
    index = choose(knowledge_query, knowledge, k, row_weight=row_weight, **hidden)
    chosen = _taken(knowledge, index)
    if knowledge_range is not None:
        # Where a row sees fewer than k tokens, the others are not its own, and may be NaN.
        start, end = knowledge_range[:, :1], knowledge_range[:, 1:]
        outside = ((index < start) | (index >= end))[:, None, :, None]
        chosen = DenseKnowledge(*(each.masked_fill(outside, 0) for each in (chosen.key, chosen.value)))
    return chosen, _offset(knowledge_query, knowledge, **hidden).gather(1, index), index


@torch.no_grad()
def choose(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    k: int,
    *,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """The k tokens with the highest score summed over heads and queries, of each batch row.

    Args:
        knowledge_query, knowledge, knowledge_range: as given to `rectangular_attention`.
        k: how many to keep, at least 1.
        knowledge_bias: as given to `rectangular_attention`. It does not rank tokens, but -inf hides them.
        row_weight: broadcastable to (B, Hq, N), weight of a head and query in the sum; give padding queries 0.

    Returns:
        Indices int64 (B, k'), best first, with k' = min(k, M); tokens that a row does not see come last.

    Raises:
        UnsupportedInputError: if k < 1, or a shape, dtype, device or value does not fit; the message names it.
    """
    k = whole("k", k)
    check_scores(knowledge_query, knowledge, knowledge_range)
    offset = _offset(knowledge_query, knowledge, knowledge_bias, knowledge_range)
    with exactly(knowledge_query.device):
        scores = summed_scores(knowledge_query, knowledge, row_weight_of(knowledge_query, row_weight))
    return scores.masked_fill(offset < LOWEST, float("-inf")).topk(min(k, scores.shape[1]), dim=-1).indices


def select(knowledge: Knowledge, index: Tensor) -> DenseKnowledge:
    """Tokens index[b] of each batch row: (B, Hq, k, D), gathered, or projected from the gathered latents.

    Args:
        index: int64 (B, k), each in [0, M).

    Raises:
        UnsupportedInputError: an index of another shape, dtype or device; rows of knowledge that are not B; and, where
            reading the index waits for no device, one that is no token's. The message names it.
    """
    check_layout(knowledge)
    tensors(index=index)
    if index.dim() != 2 or index.dtype != torch.int64 or index.device != knowledge.key.device:
        refuse(
            f"index must be int64 (B, k) on {knowledge.key.device}; "
            f"got {index.dtype} {tuple(index.shape)} on {index.device}"
        )
    rows, M = knowledge.key.shape[0], knowledge.num_tokens
    if knowledge.key.dim() == 4 and rows not in (1, len(index)):
        refuse(f"index must have a row for each of {rows} rows of knowledge; got {tuple(index.shape)}")
    if may_be_read(index):
        strange = index[(index < 0) | (index >= M)]
        if len(strange) > 0:
            refuse(f"index must be in [0, M={M}); got {strange[0].item()}")
    return _taken(knowledge, index)


def _taken(knowledge: Knowledge, index: Tensor) -> DenseKnowledge:
    """`select`, of indices that are there."""
    B, k = index.shape
    if isinstance(knowledge, DenseKnowledge):
        H, M, D = knowledge.key.shape[-3:]
        rows = index[:, None, :, None].expand(B, H, k, D)
        key, value = (t.expand(B, H, M, D).gather(2, rows) for t in (knowledge.key, knowledge.value))
        return DenseKnowledge(key, value)
    p, flat = knowledge.projection, index.flatten()
    dtype = p.key_weight.dtype

    def projected(latents: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        chosen = dequantise(latents[flat], None if scale is None else scale[flat], dtype)
        with exactly(chosen.device):
            return chosen.view(B, 1, k, p.width) @ weight.transpose(1, 2) + bias[:, None]

    key = projected(knowledge.key, knowledge.key_scale, p.key_weight, p.key_bias)
    value = projected(knowledge.value, knowledge.value_scale, p.value_weight, p.value_bias)
    return DenseKnowledge((key * knowledge.norm[index][:, None, :, None]).to(dtype), value)


def summed_scores(knowledge_query: Tensor, knowledge: Knowledge, row_weight: Tensor) -> Tensor:
    """Scores (B, M) summed over heads and queries with `row_weight` (B, Hq, N), without scale and bias; float32.

    A sum of scores is linear in the query, so rows are summed first. This leaves one query for each head and batch
    row, and for latents, whose heads are summed too, one vector of width P.
    """
    dtype = accumulation_dtype(knowledge_query)
    # A row of padding weighs 0, and may be NaN.
    counted = knowledge_query.to(dtype).masked_fill(row_weight[..., None] == 0, 0)
    rows = torch.einsum("bhnd,bhn->bhd", counted, row_weight.to(dtype))
    if isinstance(knowledge, DenseKnowledge):
        return _products(rows, knowledge.key)
    p = knowledge.projection
    absorbed = torch.einsum("bhd,hdp->bp", rows, p.key_weight.to(dtype))[:, None]
    scores = _products(absorbed, knowledge.key)
    if knowledge.key_scale is not None:
        scores = scores * knowledge.key_scale
    return (scores + (rows * p.key_bias.to(dtype)).sum((1, 2))[:, None]) * knowledge.norm


def _products(rows: Tensor, key: Tensor) -> Tensor:
    """rows (B, H, W) against keys (H, M, W), (B, H, M, W) or latents (M, W), summed over heads: (B, M)."""
    M = key.shape[-2]
    size = max(CONVERTED * M // max(key.numel(), 1), 1)
    parts = [torch.einsum(_LAYOUTS[key.dim()], rows, key[..., cols, :].to(rows.dtype)) for cols in chunks(M, size)]
    return torch.cat(parts, 1) if parts else rows.new_empty(rows.shape[0], 0)


def _offset(
    knowledge_query: Tensor, knowledge: Knowledge, knowledge_bias: float | Tensor, knowledge_range: Tensor | None
) -> Tensor:
    """What is added to the scores of each row, (B, M): its bias, -inf where the row does not see a token."""
    B, M, device = knowledge_query.shape[0], knowledge.num_tokens, knowledge_query.device
    bias = bias_rows(knowledge_bias, B, M, knowledge_query)
    every, nothing = slice(0, M), torch.zeros(B, 1, 1, M, dtype=torch.float32, device=device)
    return biased(nothing, bias, inside_range(knowledge_range, every, device), every)[:, 0, 0]
