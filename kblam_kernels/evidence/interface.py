"""Public calls that tell how much attention each knowledge token got."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import Unpack

from kblam_kernels.common.checks import bias_rows
from kblam_kernels.common.columns import may_be_read, of_tokens
from kblam_kernels.errors import expect, refuse, tensors, whole
from kblam_kernels.evidence import blocks
from kblam_kernels.evidence.call import EvidenceCall, num_blocks
from kblam_kernels.evidence.given import EvidenceOptions, Given, call_of
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.knowledge import Knowledge, LatentKnowledge
from kblam_kernels.precision import exactly


def evidence(knowledge_query: Tensor, knowledge: Knowledge, lse: Tensor, **options: Unpack[EvidenceOptions]) -> Tensor:
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
    return _masses(Given(knowledge_query, knowledge, lse, **options))


def _masses(given: Given) -> Tensor:
    if given.pieces is not None:
        return _of_pieces(given.query, given.pieces, given.lse, given.weight, given.backend, **given.options)
    return _mass(given.call(), given.backend)


def _in_blocks(given: Given) -> EvidenceCall | None:
    """The call, where chosen blocks of its tokens can be read; else None."""
    if given.pieces is not None:
        return None
    call = given.call()
    return call if call.is_eager() and evidence_mass.choose(call, given.backend) == "cpu" else None


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
    *,
    block_max: Tensor | None = None,
    **options: Unpack[EvidenceOptions],
) -> tuple[Tensor, Tensor]:
    """The k knowledge tokens that got the most attention: `evidence`, then the best of each batch row.

    Args:
        k: how many, at least 1.
        block_max: as `knowledge_lse` returned it for the same query, knowledge and options, or None. With it the C++
            kernels read only those blocks of tokens that may hold one of the k, which of a long list are few: no
            further pass over it. It changes no result but the choice among equals, and among masses that rounding
            has spoilt (the README of `evidence`). It is used without gradients and where no `row_weight` is negative;
            else, and on other backends, it is not.
        options: `scale`, `knowledge_bias`, `knowledge_range`, `row_weight`, `int8_products` and `backend`, as
            `evidence` takes them.

    Returns:
        mass (B, k') in the dtype of lse, largest first, and their indices int64 (B, k'), with k' = min(k, M). A token
        that is hidden, or outside its row's range, has mass 0 and comes last.

    Raises:
        UnsupportedInputError, BackendUnavailableError: as `evidence`, and if k < 1.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, knowledge_lse, top_evidence
        >>> query, key, value = torch.randn(1, 8, 1, 64), *torch.randn(2, 8, 9000, 64)
        >>> knowledge = DenseKnowledge(key, value)
        >>> lse, block_max = knowledge_lse(query, knowledge, return_block_max=True)  # of attention without a prompt
        >>> mass, index = top_evidence(query, knowledge, lse, 5, block_max=block_max)
        >>> mass.shape, index.shape
        (torch.Size([1, 5]), torch.Size([1, 5]))
    """
    k, given = whole("k", k), Given(knowledge_query, knowledge, lse, **options)
    if block_max is not None:
        shape = (*lse.shape, num_blocks(knowledge.num_tokens))
        expect("block_max", block_max, "B, Hq, N, blocks", shape, lse.device, lse.dtype)
        with exactly(lse.device):
            call = _in_blocks(given)
            if call is not None and bool((call.row_weight >= 0).all()):
                return blocks.top(call, min(k, call.num_tokens), block_max)
    mass = _masses(given)
    best, index = mass.topk(min(k, mass.shape[1]), dim=-1)
    return best, index


def evidence_at(
    knowledge_query: Tensor, knowledge: Knowledge, lse: Tensor, places: Tensor, **options: Unpack[EvidenceOptions]
) -> Tensor:
    """What `evidence` gives for chosen tokens; without gradients the C++ kernels read the blocks they are in alone.

    Args:
        places: int64 (B, S), tokens of each batch row, in [0, M).
        options: as `evidence` takes them.

    Returns:
        (B, S) in the dtype of lse.

    Raises:
        UnsupportedInputError, BackendUnavailableError: as `evidence`; also for places of another shape, and, where
            reading them waits for no device, for one that the list does not have.
    """
    given, M = Given(knowledge_query, knowledge, lse, **options), knowledge.num_tokens
    tensors(places=places)
    shape = (len(lse), places.shape[-1] if places.dim() else 0)
    expect("places", places, "B, S", shape, lse.device, torch.int64)
    if places.numel() and may_be_read(places):
        least, most = (int(end) for end in places.aminmax())
        if least < 0 or most >= M:
            refuse(f"places must be in [0, M={M}); got {least if least < 0 else most}")
    with exactly(lse.device):
        call = _in_blocks(given)
        if call is not None:
            return blocks.at(call, places)
    return _masses(given).gather(1, places)
