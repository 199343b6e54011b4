"""The public call that keeps the best k knowledge tokens of each batch row."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.evidence.arguments import check_scores
from kblam_kernels.knowledge import DenseKnowledge
from kblam_kernels.pruning import reference
from kblam_kernels.rectangular.arguments import bias_tensor, refuse, row_weight_of
from kblam_kernels.rectangular.reference import knowledge_offset


def prune(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge,
    k: int,
    *,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> tuple[DenseKnowledge, Tensor, Tensor]:
    """The k tokens of each batch row with the highest score summed over heads and queries.

    Upstream's `dynamic_sparsify`, with one difference: the result attends with the *selected* tokens' own scores,
    where upstream pairs their values with the scores of the first k.

    Args:
        knowledge_query, knowledge, knowledge_range: as given to `rectangular_attention`.
        k: how many to keep, at least 1.
        knowledge_bias: as given to `rectangular_attention`. It does not rank tokens, but -inf hides them.
        row_weight: broadcastable to (B, Hq, N), weight of a head and query in the sum; give padding queries 0.

    Returns:
        The selected tokens (B, Hq, k', D) with k' = min(k, M), their bias (B, k') for `rectangular_attention`, and
        their indices int64 (B, k'), best first. Differentiable in keys and values, not in the choice.

    Raises:
        UnsupportedInputError: if k < 1, or a shape, dtype, device or value does not fit; the message has it.
    """
    if k < 1:
        refuse(f"k must be at least 1; got {k}")
    check_scores(knowledge_query, knowledge, knowledge_range)
    B, Hq, _, D = knowledge_query.shape
    M = knowledge.num_tokens
    bias = bias_tensor(knowledge_bias, B, M, knowledge_query)
    offset = knowledge_offset(bias, knowledge_range, slice(0, M), torch.float32, knowledge_query.device)
    if offset is None:
        offset = torch.zeros(B, M, dtype=torch.float32, device=knowledge_query.device)
    offset = offset.flatten(1).expand(B, M)
    with torch.no_grad():
        weight = row_weight_of(knowledge_query, row_weight)
        scores = reference.summed_scores(knowledge_query, knowledge.key, weight, 1.0)
        scores = scores.masked_fill(offset == float("-inf"), float("-inf"))
        index = scores.topk(min(k, M), dim=-1).indices
    rows = index[:, None, :, None].expand(B, Hq, index.shape[1], D)
    key, value = (t.expand(B, Hq, M, D).gather(2, rows) for t in (knowledge.key, knowledge.value))
    return DenseKnowledge(key, value), offset.gather(1, index), index
