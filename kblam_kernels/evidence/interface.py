"""Public calls on what attention gave to each knowledge token."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.errors import UnsupportedInputError
from kblam_kernels.evidence import reference
from kblam_kernels.knowledge import DenseKnowledge
from kblam_kernels.rectangular.interface import _bias_tensor


def _row_weight(knowledge_query: Tensor, row_weight: Tensor | None) -> Tensor:
    rows = knowledge_query.shape[:3]
    if row_weight is None:
        return torch.ones(rows, dtype=torch.float32, device=knowledge_query.device)
    try:
        return row_weight.expand(rows)
    except RuntimeError:
        raise UnsupportedInputError(
            f"row_weight must broadcast to (B, Hq, N) = {tuple(rows)}; got {tuple(row_weight.shape)}"
        ) from None


def evidence(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge,
    lse: Tensor,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Exact attention mass of each knowledge token, without ever holding an N x M matrix.

    Args:
        knowledge_query, knowledge, scale, knowledge_bias, knowledge_range: as given to `rectangular_attention`.
        lse: (B, Hq, N), what it returned.
        row_weight: broadcastable to (B, Hq, N); the weight of a head and query in the sum. None is 1.
            `1 / (Hq * N)` gives a mean; zeros leave queries out.

    Returns:
        (B, M) in the dtype of lse: sum over h, n of row_weight * p[b, h, n, m].

    Raises:
        UnsupportedInputError: if row_weight or knowledge_bias does not fit.
    """
    bias = _bias_tensor(knowledge_bias, lse.shape[0], knowledge.num_tokens, knowledge_query)
    scale = knowledge.head_dim**-0.5 if scale is None else scale
    weight = _row_weight(knowledge_query, row_weight)
    return reference.mass(knowledge_query, knowledge.key, lse, bias, knowledge_range, weight, scale)


def knowledge_lse(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
) -> Tensor:
    """Natural-log sum of exponentials of the knowledge scores alone, (B, Hq, N).

    exp(knowledge_lse - lse) is the share of attention that went to knowledge. Differentiable.
    """
    bias = _bias_tensor(knowledge_bias, knowledge_query.shape[0], knowledge.num_tokens, knowledge_query)
    scale = knowledge.head_dim**-0.5 if scale is None else scale
    return reference.knowledge_lse(knowledge_query, knowledge.key, bias, knowledge_range, scale)


def top_knowledge(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge,
    k: int,
    *,
    row_weight: Tensor | None = None,
) -> Tensor:
    """The k tokens of each batch row with the highest score summed over heads and queries.

    This is the selection of upstream's `dynamic_sparsify`; attend to the selected tokens with their own scores.

    Args:
        row_weight: as in `evidence`; give padding queries 0.

    Returns:
        int64 (B, min(k, M)), best first.

    Raises:
        UnsupportedInputError: if k < 1.
    """
    if k < 1:
        raise UnsupportedInputError(f"k must be at least 1; got {k}")
    weight = _row_weight(knowledge_query, row_weight)
    scores = reference.summed_scores(knowledge_query, knowledge.key, weight, 1.0)
    return scores.topk(min(k, knowledge.num_tokens), dim=-1).indices
