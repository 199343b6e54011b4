"""The public call that keeps the best k knowledge tokens of each batch row, or of the batch."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from kblam_kernels import dispatch
from kblam_kernels.evidence.arguments import check_scores
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge
from kblam_kernels.pruning import selection
from kblam_kernels.pruning.backends import PRUNING_BACKENDS
from kblam_kernels.pruning.op import summed_scores
from kblam_kernels.rectangular.arguments import bias_tensor, refuse, row_weight_of
from kblam_kernels.rectangular.interface import request_of
from kblam_kernels.rectangular.reference import accumulation_dtype, knowledge_offset


@overload
def prune(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    k: int,
    *,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
    shared: Literal[False] = False,
    backend: str = dispatch.AUTO,
) -> tuple[DenseKnowledge, Tensor, Tensor]: ...


@overload
def prune(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    k: int,
    *,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
    shared: bool,
    backend: str = dispatch.AUTO,
) -> tuple[DenseKnowledge | LatentKnowledge, Tensor, Tensor]: ...


def prune(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    k: int,
    *,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
    shared: bool = False,
    backend: str = dispatch.AUTO,
) -> tuple[DenseKnowledge | LatentKnowledge, Tensor, Tensor]:
    """The k tokens with the highest score summed over heads and queries, of each batch row or of the whole batch.

    Upstream's `dynamic_sparsify`, with one difference: the result attends with the *selected* tokens' own scores,
    where upstream pairs their values with the scores of the first k. One pass over the keys, O(B x M) memory.

    Args:
        knowledge_query, knowledge, knowledge_range: as given to `rectangular_attention`.
        k: how many to keep, at least 1.
        knowledge_bias: as given to `rectangular_attention`. It does not rank tokens, but -inf hides them.
        row_weight: broadcastable to (B, Hq, N), weight of a head and query in the sum; give padding queries 0.
        shared: one choice for the batch, by scores summed over the rows that see a token; the result keeps the layout
            of `knowledge`, so that latents stay latents. False: each row has its own.
        backend: "auto", "triton", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".

    Returns:
        The selected tokens, their bias (B, k') for `rectangular_attention` (-inf where a row does not see one), and
        their indices int64 (B, k'), best first, with k' = min(k, M). Tokens of each row: `DenseKnowledge`
        (B, Hq, k', D), projected if they were latents. Shared: the layout of `knowledge`, with k' tokens.
        Differentiable in dense keys and values, not in the choice.

    Raises:
        UnsupportedInputError: if k < 1, or a shape, dtype, device or value does not fit; the message has it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reason.
    """
    if k < 1:
        refuse(f"k must be at least 1; got {k}")
    check_scores(knowledge_query, knowledge, knowledge_range)
    B, M = knowledge_query.shape[0], knowledge.num_tokens
    bias = bias_tensor(knowledge_bias, B, M, knowledge_query)
    offset = knowledge_offset(bias, knowledge_range, slice(0, M), torch.float32, knowledge_query.device)
    if offset is None:
        offset = torch.zeros(B, M, dtype=torch.float32, device=knowledge_query.device)
    offset = offset.flatten(1).expand(B, M)
    name = dispatch.choose(lambda by_name: request_of(by_name, knowledge, knowledge_query), backend, PRUNING_BACKENDS)
    with torch.no_grad():
        scores = _scores(knowledge_query, knowledge, row_weight_of(knowledge_query, row_weight), name)
        hidden = offset == float("-inf")
        if shared:
            scores = scores.masked_fill(hidden, 0.0).sum(0, keepdim=True)
            hidden = hidden.all(0, keepdim=True)
        index = scores.masked_fill(hidden, float("-inf")).topk(min(k, M), dim=-1).indices
    if not shared:
        return selection.of_each_row(knowledge, index), offset.gather(1, index), index
    index = index.expand(B, -1)
    return selection.of_all_rows(knowledge, index[0]), offset.gather(1, index), index


def _scores(
    knowledge_query: Tensor, knowledge: DenseKnowledge | LatentKnowledge, row_weight: Tensor, backend: str
) -> Tensor:
    """Summed scores (B, M), without scale and bias."""
    dtype = accumulation_dtype(knowledge_query)
    rows = torch.einsum("bhnd,bhn->bhd", knowledge_query.to(dtype), row_weight.to(dtype))
    if isinstance(knowledge, DenseKnowledge):
        return summed_scores(rows, knowledge.key, None, None, None, backend)
    p = knowledge.projection
    absorbed = torch.einsum("bhd,hdp->bp", rows, p.key_weight.to(dtype))[:, None]
    constant = (rows * p.key_bias.to(dtype)).sum((1, 2))
    return summed_scores(absorbed, knowledge.key, knowledge.norm, knowledge.key_scale, constant, backend)
