"""Scores and masses of knowledge tokens in plain PyTorch, chunked over M: memory is O(M + rows x CHUNK)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kblam_kernels.common.call import Saved
from kblam_kernels.common.columns import inside_range, score_chunks, times_knowledge, without_unseen
from kblam_kernels.common.softmax import accumulation_dtype, highest, level_of
from kblam_kernels.evidence.call import BLOCK, EvidenceCall, num_blocks


def _scores(call: EvidenceCall) -> Iterator[tuple[slice, Tensor]]:
    return score_chunks(call, call.rows, call.key, call.constant, call.norm, call.key_scale)


def weighed(call: EvidenceCall) -> tuple[Tensor, Tensor]:
    """lse and weight of each row. One of weight 0 is left out, as one that saw nothing: its lse is -inf."""
    weight = call.row_weight.to(accumulation_dtype(call.rows))
    return call.lse.masked_fill(weight == 0, float("-inf")), weight


def shares(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(score - lse); 0 for a row that is left out, whose scores may be NaN."""
    return torch.exp(scores - level_of(lse)).masked_fill(lse[..., None] == float("-inf"), 0)


def forward(call: EvidenceCall) -> tuple[Tensor]:
    """sum over (h, n) of row_weight * exp(s - lse): (B, M) in the dtype of lse."""
    lse, weight = weighed(call)
    parts = [torch.einsum("bhnm,bhn->bm", shares(scores, lse), weight).to(lse.dtype) for _, scores in _scores(call)]
    return (torch.cat(parts, 1) if parts else lse.new_zeros(call.rows.shape[0], 0),)


def backward(call: EvidenceCall, saved: Saved) -> dict[str, Tensor]:
    """Gradients of the masses of dense knowledge.

    With p = exp(s - lse) recomputed: ds = grad * row_weight * p. The gradient of lse is - sum over m of ds, that of the
    bias the sum over (h, n).
    """
    (grad,), dtype = saved.gradients, accumulation_dtype(call.rows)
    assert grad is not None  # of the only result
    lse, weight = weighed(call)
    r = call.rows.to(dtype).masked_fill(lse[..., None] == float("-inf"), 0)
    made = {name: torch.zeros_like(r if name == "rows" else getattr(call, name)) for name in saved.wanted}
    columns_times = "bhnm,bhnd->hmd" if call.key.dim() == 3 else "bhnm,bhnd->bhmd"
    for cols, scores in _scores(call):
        ds = grad[:, None, None, cols].to(dtype) * weight[..., None] * shares(scores, lse)
        if "lse" in made:
            made["lse"] -= ds.sum(-1).to(call.lse.dtype)
        if "bias" in made:
            of_bias = made["bias"][:, cols]
            of_bias += ds.sum((1, 2)).sum_to_size(of_bias.shape).to(of_bias.dtype)
        if "rows" in made:
            inside = inside_range(call.knowledge_range, cols, r.device)
            made["rows"] += times_knowledge(ds, without_unseen(call.key[..., cols, :].to(dtype), inside)) * call.scale
        if "key" in made:
            made["key"][..., cols, :] = (torch.einsum(columns_times, ds, r) * call.scale).to(call.key.dtype)
    return {name: gradient.to(getattr(call, name).dtype) for name, gradient in made.items()}


def knowledge_lse(call: EvidenceCall) -> Tensor:
    """log sum exp of the knowledge scores alone, (B, Hq, N); -inf where a row sees no knowledge. Reads no `lse`.

    Such a row has a gradient of 0: `torch.logsumexp` would give NaN.
    """
    dtype, device = accumulation_dtype(call.rows), call.rows.device
    maximum = torch.full(call.rows.shape[:3], float("-inf"), dtype=dtype, device=device)
    level = total = torch.zeros(call.rows.shape[:3], dtype=dtype, device=device)
    for _, scores in _scores(call):
        before, maximum = maximum, highest(torch.maximum(maximum, scores.detach().amax(-1)))
        level = maximum.masked_fill(maximum == float("-inf"), 0.0)
        total = total * torch.exp(before - level) + torch.exp(scores - level[..., None]).sum(-1)
    seen = maximum != float("-inf")  # NaN is not: it must show
    return torch.where(seen, level + torch.where(seen, total, 1.0).log(), float("-inf"))


def block_max(call: EvidenceCall) -> Tensor:
    """The largest score of each block of BLOCK tokens, (B, Hq, N, blocks): -inf of one that a row does not see."""
    shape = (*call.rows.shape[:3], num_blocks(call.num_tokens))
    found = torch.full(shape, float("-inf"), dtype=accumulation_dtype(call.rows), device=call.rows.device)
    for cols, scores in _scores(call):
        block = torch.arange(cols.start, cols.stop, device=scores.device) // BLOCK
        found = found.scatter_reduce(-1, block.expand_as(scores), scores.detach(), "amax")  # in place no vmap has it
    return found
