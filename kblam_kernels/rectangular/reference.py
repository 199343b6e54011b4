"""Rectangular attention in plain PyTorch: the specification of the op.

Accumulates in float32 (float64 for float64 inputs). Both loops go over column chunks, so memory grows with
N x CHUNK and never with N x M. The maths is in this folder's README; KBLaM section 3, arXiv 2410.10450.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 4096


class Gradients(NamedTuple):
    """One gradient for each differentiable argument, in its dtype and shape."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_query: Tensor
    knowledge_key: Tensor
    knowledge_value: Tensor


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for everything else."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def chunks(length: int) -> Iterator[slice]:
    """Slices of at most CHUNK that cover `range(length)`."""
    for start in range(0, length, CHUNK):
        yield slice(start, min(start + CHUNK, length))


def times_grouped(rows: Tensor, columns: Tensor) -> Tensor:
    """rows (B, Hq, N, K) @ columns (B, Hkv, K, L) -> (B, Hq, N, L); query head h reads column head h // (Hq / Hkv)."""
    B, Hq, N, K = rows.shape
    Hkv = columns.shape[1]
    return (rows.reshape(B, Hkv, Hq // Hkv * N, K) @ columns).view(B, Hq, N, columns.shape[-1])


def times_knowledge(rows: Tensor, columns: Tensor) -> Tensor:
    """rows (B, H, N, K) @ columns (H, K, L) or (B, H, K, L) -> (B, H, N, L); a shared matrix is read once."""
    if columns.dim() == 4:
        return rows @ columns
    B, H, N, K = rows.shape
    folded = rows.transpose(0, 1).reshape(H, B * N, K) @ columns
    return folded.view(H, B, N, columns.shape[-1]).transpose(0, 1)


def prompt_visibility(
    N: int,
    T: int,
    cols: slice,
    prompt_mask: Tensor | None,
    window: int | None,
    device: torch.device,
) -> Tensor:
    """Which of the prompt columns `cols` each new query sees: bool (B or 1, N, len(cols))."""
    column = torch.arange(cols.start, cols.stop, device=device)
    last = torch.arange(T - N, T, device=device)[:, None]
    visible = column <= last  # [N, len(cols)]
    if window is not None:
        visible = visible & (column > last - window)
    visible = visible[None]
    return visible if prompt_mask is None else visible & prompt_mask[:, None, cols]


def knowledge_offset(
    bias: Tensor | None, knowledge_range: Tensor | None, cols: slice, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """What is added to the knowledge scores of `cols`: (B or 1, 1, 1, len(cols)); -inf outside a row's range."""
    offset = None if bias is None else bias[:, None, None, cols].to(dtype)
    if knowledge_range is None:
        return offset
    column = torch.arange(cols.start, cols.stop, device=device)
    start, end = knowledge_range[:, 0, None], knowledge_range[:, 1, None]
    inside = ((column >= start) & (column < end))[:, None, None, :]
    zero = torch.zeros((), dtype=dtype, device=device)
    return torch.where(inside, zero if offset is None else offset, float("-inf"))


class OnlineSoftmax:
    """Running maximum, sum and weighted values of a softmax whose columns arrive in chunks."""

    def __init__(self, rows: tuple[int, ...], head_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.maximum = torch.full(rows, float("-inf"), dtype=dtype, device=device)
        self.total = torch.zeros(rows, dtype=dtype, device=device)
        self.output = torch.zeros(*rows, head_dim, dtype=dtype, device=device)

    def rescale(self, scores: Tensor) -> Tensor:
        """Takes the scores (..., L) in and returns exp(scores - new maximum), which the caller weighs values with."""
        maximum = torch.maximum(self.maximum, scores.amax(-1))
        # A row that has seen nothing keeps -inf; subtracting it from itself would be NaN.
        safe = maximum.masked_fill(maximum == float("-inf"), 0.0)
        shrink = torch.exp(self.maximum - safe)
        weights = torch.exp(scores - safe[..., None])
        self.maximum = maximum
        self.total = self.total * shrink + weights.sum(-1)
        self.output = self.output * shrink[..., None]
        return weights


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """One softmax over knowledge and prompt. Arguments as `rectangular_attention`, bias already (B or 1, M).

    Returns:
        output (B, Hq, N, D) in the dtype of `query`, and the natural-log lse (B, Hq, N) in the accumulation dtype.
    """
    B, Hq, N, D = query.shape
    T, M = key.shape[2], knowledge_key.shape[-2]
    dtype, device = accumulation_dtype(query), query.device
    softmax = OnlineSoftmax((B, Hq, N), D, dtype, device)
    sees_prompt = torch.zeros(B, N, dtype=torch.bool, device=device)

    q = query.to(dtype) * scale
    for cols in chunks(T):
        visible = prompt_visibility(N, T, cols, prompt_mask, window, device)
        sees_prompt = sees_prompt | visible.any(-1)
        scores = times_grouped(q, key[:, :, cols].to(dtype).transpose(-1, -2))
        weights = softmax.rescale(scores.masked_fill(~visible[:, None], float("-inf")))
        softmax.output = softmax.output + times_grouped(weights, value[:, :, cols].to(dtype))

    r = knowledge_query.to(dtype) * scale
    for cols in chunks(M):
        scores = times_knowledge(r, knowledge_key[..., cols, :].to(dtype).transpose(-1, -2))
        offset = knowledge_offset(bias, knowledge_range, cols, dtype, device)
        weights = softmax.rescale(scores if offset is None else scores + offset)
        softmax.output = softmax.output + times_knowledge(weights, knowledge_value[..., cols, :].to(dtype))

    # A padding row sees no prompt column, so it sees no knowledge either.
    row = sees_prompt[:, None, :]
    output = torch.where(row[..., None], softmax.output / softmax.total[..., None], 0.0)
    lse = torch.where(row, softmax.maximum + softmax.total.log(), float("-inf"))
    return output.to(query.dtype), lse


def backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    output: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> Gradients:
    """Gradients from (output, lse) alone: probabilities are recomputed chunk by chunk, p = exp(s - lse).

    ds = p * (dp - <grad_output, output> + grad_lse); the bias is a constant and gets no gradient.
    """
    B, Hq, N, _ = query.shape
    Hkv, T, M = key.shape[1], key.shape[2], knowledge_key.shape[-2]
    dtype, device = accumulation_dtype(query), query.device
    do = grad_output.to(dtype)
    delta = (do * output.to(dtype)).sum(-1)
    if grad_lse is not None:
        delta = delta - grad_lse.to(dtype)
    # +inf where a row saw nothing: its probabilities and so its gradients are 0.
    level = lse.to(dtype).masked_fill(lse == float("-inf"), float("inf"))[..., None]
    q, r = query.to(dtype), knowledge_query.to(dtype)

    def fold(rows: Tensor) -> Tensor:
        """(B, Hq, N, L) -> (B, Hkv, group * N, L): the rows that share one prompt head."""
        return rows.reshape(B, Hkv, Hq // Hkv * N, rows.shape[-1])

    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.empty_like(key), torch.empty_like(value)
    for cols in chunks(T):
        k, v = key[:, :, cols].to(dtype), value[:, :, cols].to(dtype)
        visible = prompt_visibility(N, T, cols, prompt_mask, window, device)[:, None]
        scores = times_grouped(q, k.transpose(-1, -2)) * scale
        p = torch.exp(scores.masked_fill(~visible, float("-inf")) - level)
        ds = p * (times_grouped(do, v.transpose(-1, -2)) - delta[..., None]) * scale
        grad_q += times_grouped(ds, k)
        grad_k[:, :, cols] = (fold(ds).transpose(-1, -2) @ fold(q)).to(key.dtype)
        grad_v[:, :, cols] = (fold(p).transpose(-1, -2) @ fold(do)).to(value.dtype)

    shared = knowledge_key.dim() == 3
    grad_r = torch.zeros_like(r)
    grad_kappa, grad_nu = torch.empty_like(knowledge_key), torch.empty_like(knowledge_value)
    columns_times = "bhnm,bhnd->hmd" if shared else "bhnm,bhnd->bhmd"
    for cols in chunks(M):
        kappa = knowledge_key[..., cols, :].to(dtype)
        nu = knowledge_value[..., cols, :].to(dtype)
        scores = times_knowledge(r, kappa.transpose(-1, -2)) * scale
        offset = knowledge_offset(bias, knowledge_range, cols, dtype, device)
        p = torch.exp((scores if offset is None else scores + offset) - level)
        ds = p * (times_knowledge(do, nu.transpose(-1, -2)) - delta[..., None]) * scale
        grad_r += times_knowledge(ds, kappa)
        grad_kappa[..., cols, :] = torch.einsum(columns_times, ds, r).to(knowledge_key.dtype)
        grad_nu[..., cols, :] = torch.einsum(columns_times, p, do).to(knowledge_value.dtype)

    return Gradients(grad_q.to(query.dtype), grad_k, grad_v, grad_r.to(knowledge_query.dtype), grad_kappa, grad_nu)
