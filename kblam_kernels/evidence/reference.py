"""Scores and masses of knowledge tokens in plain PyTorch, chunked over M: memory is O(M + rows x CHUNK).

Both layouts are one formula (this folder's README): dense rows are knowledge queries, latent rows absorbed ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kblam_kernels.rectangular.reference import accumulation_dtype, chunks, knowledge_offset, times_knowledge


def score_chunks(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (columns, scores (B, Hq, N, len(columns))), -inf outside a row's range, with the scores

        scale * norm * (key_scale * rows . key + constant) + bias

    Args:
        rows: (B, Hq, N, W), the knowledge query, or for latents the absorbed one.
        key: (Hq, M, W), (B, Hq, M, W), or latents (M, W) in any storage dtype.
        norm, key_scale: (M,), of latents; None is 1.
        constant: (B, Hq, N), of latents; None is 0.
        bias: float32 (B or 1, M) or None.
        knowledge_range: int32 (B or 1, 2) or None.
        scale: of all scores.
    """
    dtype, device = accumulation_dtype(rows), rows.device
    a = rows.to(dtype) if norm is not None else rows.to(dtype) * scale
    for cols in chunks(key.shape[-2]):
        columns = key[..., cols, :].to(dtype).transpose(-1, -2)
        scores = a @ columns if columns.dim() == 2 else times_knowledge(a, columns)
        if key_scale is not None:
            scores = scores * key_scale[cols]
        if constant is not None:
            scores = scores + constant[..., None]
        if norm is not None:
            scores = scores * (norm[cols] * scale)
        offset = knowledge_offset(bias, knowledge_range, cols, dtype, device)
        yield cols, scores if offset is None else scores + offset


def mass(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
) -> Tensor:
    """sum over (h, n) of row_weight * exp(s - lse): (B, M) in the dtype of lse. Other arguments as `score_chunks`."""
    total = torch.zeros(rows.shape[0], key.shape[-2], dtype=lse.dtype, device=lse.device)
    level, weight = _level(lse), row_weight.to(accumulation_dtype(rows))
    for cols, scores in score_chunks(rows, key, norm, key_scale, constant, bias, knowledge_range, scale):
        total[:, cols] = torch.einsum("bhnm,bhn->bm", torch.exp(scores - level), weight).to(total.dtype)
    return total


def mass_gradients(
    grad: Tensor,
    rows: Tensor,
    key: Tensor,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `mass` of dense knowledge for rows, key and lse, from `grad` (B, M).

    With p = exp(s - lse) recomputed: ds = grad * row_weight * p, and the gradient of lse is - sum over m of ds.
    """
    dtype = accumulation_dtype(rows)
    level, weight, r = _level(lse), row_weight.to(dtype)[..., None], rows.to(dtype)
    grad_rows, grad_key, grad_lse = torch.zeros_like(r), torch.empty_like(key), torch.zeros_like(lse)
    columns_times = "bhnm,bhnd->hmd" if key.dim() == 3 else "bhnm,bhnd->bhmd"
    for cols, scores in score_chunks(rows, key, None, None, None, bias, knowledge_range, scale):
        ds = grad[:, None, None, cols].to(dtype) * weight * torch.exp(scores - level)
        grad_lse -= ds.sum(-1).to(lse.dtype)
        grad_rows += times_knowledge(ds, key[..., cols, :].to(dtype)) * scale
        grad_key[..., cols, :] = (torch.einsum(columns_times, ds, r) * scale).to(key.dtype)
    return grad_rows.to(rows.dtype), grad_key, grad_lse


def _level(lse: Tensor) -> Tensor:
    # +inf where a row saw nothing: its weights are 0.
    return lse.masked_fill(lse == float("-inf"), float("inf"))[..., None]


def knowledge_lse(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
) -> Tensor:
    """log sum exp of the knowledge scores alone, (B, Hq, N); -inf where a row sees no knowledge."""
    lse = torch.full(rows.shape[:3], float("-inf"), dtype=accumulation_dtype(rows), device=rows.device)
    for _, scores in score_chunks(rows, key, norm, key_scale, constant, bias, knowledge_range, scale):
        lse = torch.logaddexp(lse, torch.logsumexp(scores, -1))
    return lse
