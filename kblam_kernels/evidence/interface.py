"""Public calls that tell how much attention each knowledge token got."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor
from typing_extensions import Unpack

from kblam_kernels.common import dispatch
from kblam_kernels.common.call import needs_gradient
from kblam_kernels.common.checks import (
    bias_rows,
    check_alike,
    check_computed,
    check_masks,
    one_row_if_shared,
    row_weight_of,
)
from kblam_kernels.common.columns import of_tokens
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.softmax import accumulation_dtype
from kblam_kernels.dense.call import check_heads
from kblam_kernels.errors import expect, number, refuse, switch, tensors, whole
from kblam_kernels.evidence import reference
from kblam_kernels.evidence.call import EvidenceCall
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.knowledge import Knowledge, LatentKnowledge, check_layout
from kblam_kernels.latent.absorption import absorb_query
from kblam_kernels.latent.call import check_projection
from kblam_kernels.precision import exactly


class Options(TypedDict, total=False):
    """Keyword arguments that say what is scored, as `rectangular_attention` takes them."""

    scale: float | None
    knowledge_bias: float | Tensor
    knowledge_range: Tensor | None


class EvidenceOptions(Options, total=False):
    """Keyword arguments of `evidence`."""

    row_weight: Tensor | None
    int8_products: bool
    backend: str


def evidence(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    lse: Tensor,
    *,
    row_weight: Tensor | None = None,
    int8_products: bool = False,
    backend: str = AUTO,
    **options: Unpack[Options],
) -> Tensor:
    """Exact attention mass of each knowledge token, in one pass and without ever holding an N x M matrix.

    Args:
        knowledge_query, knowledge, and options `scale`, `knowledge_bias`, `knowledge_range`: as given to
            `rectangular_attention`.
        lse: (B, Hq, N), as `rectangular_attention` returned it.
        row_weight: broadcastable to (B, Hq, N); the weight of a head and query in the sum, a constant. None is 1.
            `1 / (Hq * N)` gives a mean; 0 leaves a query out, which may hold NaN then, as may its lse.
        int8_products: as the attention was given. Where its scores were rounded (C++ with AVX512-VNNI) these are too:
            the share of an exact score in an lse of rounded ones may exceed 1. So ask the backend that served.
        backend: "auto", "triton", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".

    Returns:
        (B, M) in the dtype of lse: sum over h, n of row_weight * p[b, h, n, m]. Differentiable in dense keys, the
        knowledge query, lse and a bias.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit, or latents where a gradient is
            asked for; the message names it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reasons.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, evidence, rectangular_attention
        >>> query, key, value = (torch.randn(1, heads, 5, 64) for heads in (8, 2, 2))
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> _, lse = rectangular_attention(query, key, value, knowledge, return_lse=True)
        >>> evidence(query, knowledge, lse).shape
        torch.Size([1, 1000])
    """
    check_scores(knowledge_query, knowledge, options.get("knowledge_range"))
    expect(
        "lse", lse, "B, Hq, N", knowledge_query.shape[:3], knowledge_query.device, accumulation_dtype(knowledge_query)
    )
    int8_products = switch("int8_products", int8_products)
    weight = row_weight_of(knowledge_query, row_weight)
    if needs_gradient(weight):
        refuse("row_weight is a constant of the op and gets no gradient; pass row_weight.detach()")
    if isinstance(knowledge, LatentKnowledge) and knowledge.materialised:
        return _of_pieces(knowledge_query, knowledge, lse, weight, backend, **options)
    call = call_of(knowledge_query, knowledge, lse, weight, **options).but(int8_products=int8_products)
    if call.is_latent:
        call.check_gradients((), "evidence of latents has", "run it under torch.no_grad(), or take .to_dense() of them")
    return _mass(call, backend)


def _of_pieces(
    knowledge_query: Tensor,
    knowledge: LatentKnowledge,
    lse: Tensor,
    row_weight: Tensor,
    backend: str,
    *,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
) -> Tensor:
    """`evidence` of latents as the keys that they stand for, a piece at a time; of checked arguments."""
    bias = bias_rows(knowledge_bias, len(lse), knowledge.num_tokens, knowledge_query)
    parts = []
    for tokens, piece in knowledge.pieces():
        part_bias, part_range = of_tokens(tokens, bias, knowledge_range)
        part = call_of(knowledge_query, piece.to_dense(), lse, row_weight, scale)
        parts.append(_mass(part.but(bias=part_bias, knowledge_range=part_range), backend))
    return torch.cat(parts, 1)


def _mass(call: EvidenceCall, backend: str) -> Tensor:
    return evidence_mass(call, evidence_mass.choose(call, backend))[0]


def top_evidence(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    lse: Tensor,
    k: int,
    **options: Unpack[EvidenceOptions],
) -> tuple[Tensor, Tensor]:
    """The k knowledge tokens that got the most attention: `evidence`, then the best of each batch row.

    Args:
        k: how many, at least 1.
        options: `scale`, `knowledge_bias`, `knowledge_range`, `row_weight`, `int8_products` and `backend`, as
            `evidence` takes them.

    Returns:
        mass (B, k') in the dtype of lse, largest first, and their indices int64 (B, k'), with k' = min(k, M). A token
        that is hidden, or outside its row's range, has mass 0 and comes last.

    Raises:
        UnsupportedInputError, BackendUnavailableError: as `evidence`, and if k < 1.
    """
    k = whole("k", k)
    mass = evidence(knowledge_query, knowledge, lse, **options)
    best, index = mass.topk(min(k, mass.shape[1]), dim=-1)
    return best, index


def knowledge_lse(
    knowledge_query: Tensor, knowledge: Knowledge, *, int8_products: bool = False, **options: Unpack[Options]
) -> Tensor:
    """Natural-log sum of exponentials of the knowledge scores alone, (B, Hq, N), in float32 or the query's float64.

    exp(knowledge_lse - lse) is the share of attention that went to knowledge. It takes half as long as the attention,
    for whoever reads no output: on a CPU without gradients (`torch.no_grad`), where the C++ kernels serve, as
    KBLAM_BACKEND allows; else it is plain PyTorch, differentiable in the knowledge query and in dense keys.

    Args:
        int8_products: as the attention is given; only the C++ kernels multiply int8 latents so.
        options: `scale`, `knowledge_bias` and `knowledge_range`, as `rectangular_attention` takes them.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit; the message names it.
    """
    check_scores(knowledge_query, knowledge, options.get("knowledge_range"))
    int8_products = switch("int8_products", int8_products)
    unused = knowledge_query[..., 0]
    with exactly(knowledge_query.device):
        call = call_of(knowledge_query, knowledge, unused, unused, **options).but(int8_products=int8_products)
        if call.is_eager() and dispatch.requested(AUTO, evidence_mass.backends) in (AUTO, "cpu"):
            kernels = evidence_mass.named("cpu")
            if not kernels.reasons(call):
                return kernels.serving(call).knowledge_lse(call)
        return reference.knowledge_lse(call)


def check_scores(knowledge_query: Tensor, knowledge: Knowledge, knowledge_range: Tensor | None) -> None:
    """Shapes, dtypes and devices of the tensors that give knowledge scores."""
    tensors(knowledge_query=knowledge_query)
    check_layout(knowledge)
    if knowledge_query.dim() != 4:
        refuse(f"knowledge_query must be (batch, heads, tokens, head_dim); got {tuple(knowledge_query.shape)}")
    check_computed("knowledge_query", knowledge_query)
    if knowledge_query.shape[3] == 0:
        refuse(f"head_dim must be at least 1; got knowledge_query {tuple(knowledge_query.shape)}")
    if isinstance(knowledge, LatentKnowledge):
        check_projection(knowledge.projection.key_weight, knowledge_query)
        check_alike({"the latents' projection": knowledge.projection.key_weight}, knowledge_query)
    else:
        check_heads(knowledge.key, knowledge_query)
        check_alike({"knowledge": knowledge.key}, knowledge_query)
    check_masks(None, knowledge_range, knowledge_query, 0)


def call_of(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    lse: Tensor,
    row_weight: Tensor,
    scale: float | None = None,
    knowledge_bias: float | Tensor = 0.0,
    knowledge_range: Tensor | None = None,
) -> EvidenceCall:
    """The call of the op, of checked arguments."""
    bias = bias_rows(knowledge_bias, lse.shape[0], knowledge.num_tokens, knowledge_query)
    rows, constant, norm, key_scale = knowledge_query, None, None, None
    if isinstance(knowledge, LatentKnowledge):
        p = knowledge.projection
        rows, constant = absorb_query(knowledge_query, p.key_weight, p.key_bias)
        norm, key_scale = knowledge.norm, knowledge.key_scale
    return EvidenceCall(
        rows=rows,
        key=knowledge.key,
        norm=norm,
        key_scale=key_scale,
        constant=constant,
        lse=lse,
        bias=bias,
        knowledge_range=one_row_if_shared(knowledge_range),
        row_weight=row_weight,
        scale=knowledge.head_dim**-0.5 if scale is None else number("scale", scale),
    )
