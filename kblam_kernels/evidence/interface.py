"""Public calls on what attention gave to each knowledge token."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kblam_kernels import dispatch
from kblam_kernels.evidence import reference
from kblam_kernels.evidence.arguments import check_scores
from kblam_kernels.evidence.backends import EVIDENCE_BACKENDS
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge
from kblam_kernels.latent.interface import absorb_query
from kblam_kernels.rectangular.arguments import bias_tensor, refuse, row_weight_of
from kblam_kernels.rectangular.interface import request_of


class _Scored(NamedTuple):
    """What both layouts come down to; fields as `reference.score_chunks`."""

    rows: Tensor
    key: Tensor
    norm: Tensor | None
    key_scale: Tensor | None
    constant: Tensor | None


def evidence(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    lse: Tensor,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
    backend: str = dispatch.AUTO,
) -> Tensor:
    """Exact attention mass of each knowledge token, in one pass and without ever holding an N x M matrix.

    Args:
        knowledge_query, knowledge, scale, knowledge_bias, knowledge_range: as given to `rectangular_attention`.
        lse: (B, Hq, N), what it returned.
        row_weight: broadcastable to (B, Hq, N); the weight of a head and query in the sum, a constant. None is 1.
            `1 / (Hq * N)` gives a mean; zeros leave queries out.
        backend: "auto", "triton", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".

    Returns:
        (B, M) in the dtype of lse: sum over h, n of row_weight * p[b, h, n, m]. Differentiable in dense keys, the
        knowledge query and lse.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit, or latents where a gradient is
            asked for; the message has it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reason.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, evidence, rectangular_attention
        >>> query, key, value = (torch.randn(1, heads, 5, 64) for heads in (8, 2, 2))
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> _, lse = rectangular_attention(query, key, value, knowledge, return_lse=True)
        >>> evidence(query, knowledge, lse).shape
        torch.Size([1, 1000])
    """
    check_scores(knowledge_query, knowledge, knowledge_range)
    if lse.shape != knowledge_query.shape[:3] or lse.device != knowledge_query.device:
        refuse(
            f"lse must be (B, Hq, N) = {tuple(knowledge_query.shape[:3])} on {knowledge_query.device}; "
            f"got {tuple(lse.shape)} on {lse.device}"
        )
    bias = bias_tensor(knowledge_bias, lse.shape[0], knowledge.num_tokens, knowledge_query)
    weight = row_weight_of(knowledge_query, row_weight)
    if weight.requires_grad:
        refuse("row_weight is a constant of the op and gets no gradient; pass row_weight.detach()")
    if isinstance(knowledge, LatentKnowledge) and torch.is_grad_enabled():
        inputs = (knowledge_query, lse, knowledge.key, knowledge.projection.key_weight)
        if any(t.requires_grad for t in inputs):
            refuse(
                "evidence of latents has no gradient and an input requires one: run it under torch.no_grad(), or take "
                "LatentKnowledge.to_dense()"
            )
    return evidence_mass(
        *_scored(knowledge_query, knowledge),
        lse,
        bias,
        knowledge_range,
        weight,
        knowledge.head_dim**-0.5 if scale is None else float(scale),
        dispatch.choose(lambda by_name: request_of(by_name, knowledge, knowledge_query), backend, EVIDENCE_BACKENDS),
    )


def top_evidence(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    lse: Tensor,
    k: int,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
    row_weight: Tensor | None = None,
    backend: str = dispatch.AUTO,
) -> tuple[Tensor, Tensor]:
    """The k knowledge tokens that got the most attention: `evidence`, then the best of each batch row.

    Args:
        k: how many, at least 1; the others as `evidence`.

    Returns:
        mass (B, k') in the dtype of lse, largest first, and their indices int64 (B, k'), with k' = min(k, M). A token
        that is hidden, or outside its row's range, has mass 0 and comes last.

    Raises:
        UnsupportedInputError, BackendUnavailableError: as `evidence`, and if k < 1.
    """
    if k < 1:
        refuse(f"k must be at least 1; got {k}")
    mass = evidence(
        knowledge_query,
        knowledge,
        lse,
        scale=scale,
        knowledge_bias=knowledge_bias,
        knowledge_range=knowledge_range,
        row_weight=row_weight,
        backend=backend,
    )
    best, index = mass.topk(min(k, mass.shape[1]), dim=-1)
    return best, index


def knowledge_lse(
    knowledge_query: Tensor,
    knowledge: DenseKnowledge | LatentKnowledge,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
) -> Tensor:
    """Natural-log sum of exponentials of the knowledge scores alone, (B, Hq, N); plain PyTorch on every device.

    exp(knowledge_lse - lse) is the share of attention that went to knowledge. Differentiable in the knowledge query
    and in dense keys.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit; the message has it.
    """
    check_scores(knowledge_query, knowledge, knowledge_range)
    bias = bias_tensor(knowledge_bias, knowledge_query.shape[0], knowledge.num_tokens, knowledge_query)
    scale = knowledge.head_dim**-0.5 if scale is None else float(scale)
    return reference.knowledge_lse(*_scored(knowledge_query, knowledge), bias, knowledge_range, scale)


def _scored(knowledge_query: Tensor, knowledge: DenseKnowledge | LatentKnowledge) -> _Scored:
    if isinstance(knowledge, DenseKnowledge):
        return _Scored(knowledge_query, knowledge.key, None, None, None)
    absorbed_query, constant = absorb_query(knowledge_query, knowledge)
    return _Scored(absorbed_query, knowledge.key, knowledge.norm, knowledge.key_scale, constant)
