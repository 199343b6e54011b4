"""Public calls on what attention gave to each knowledge token."""

from __future__ import annotations

from torch import Tensor

from kblam_kernels.evidence import reference
from kblam_kernels.knowledge import DenseKnowledge
from kblam_kernels.rectangular.arguments import bias_tensor, check_scores, refuse, row_weight_of


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
        UnsupportedInputError: a shape, dtype, device or value that does not fit; the message has it.
    """
    check_scores(knowledge_query, knowledge, knowledge_range)
    if lse.shape != knowledge_query.shape[:3] or lse.device != knowledge_query.device:
        refuse(
            f"lse must be (B, Hq, N) = {tuple(knowledge_query.shape[:3])} on {knowledge_query.device}; "
            f"got {tuple(lse.shape)} on {lse.device}"
        )
    bias = bias_tensor(knowledge_bias, lse.shape[0], knowledge.num_tokens, knowledge_query)
    scale = knowledge.head_dim**-0.5 if scale is None else scale
    weight = row_weight_of(knowledge_query, row_weight)
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

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit; the message has it.
    """
    check_scores(knowledge_query, knowledge, knowledge_range)
    bias = bias_tensor(knowledge_bias, knowledge_query.shape[0], knowledge.num_tokens, knowledge_query)
    scale = knowledge.head_dim**-0.5 if scale is None else scale
    return reference.knowledge_lse(knowledge_query, knowledge.key, bias, knowledge_range, scale)
