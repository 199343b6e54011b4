"""Attention to dense knowledge in plain PyTorch: the specification of the op. The maths is in this folder's README.

Accumulates in float32 (float64 for float64 inputs). Both loops go over column chunks, so memory grows with
N x CHUNK and never with N x M. KBLaM section 3, arXiv 2410.10450.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common.columns import (
    biased,
    chunks,
    inside_range,
    mix_knowledge,
    prompt_visibility,
    score_chunks,
    take_prompt,
    times_grouped,
    times_knowledge,
    without_hidden,
    without_unseen,
)
from kblam_kernels.common.softmax import OnlineSoftmax, accumulation_dtype, in_model_layout, level_of
from kblam_kernels.dense.call import DenseCall

Tensors = tuple[Tensor, ...]


def forward(call: DenseCall) -> Tensors:
    """One softmax over knowledge and prompt.

    Returns:
        output (B, Hq, N, D) in the dtype of the query, and the natural-log lse (B, Hq, N) in the accumulation dtype.
    """
    query, nu = call.query, call.knowledge_value
    softmax = OnlineSoftmax(tuple(query.shape[:3]), query.shape[3], accumulation_dtype(query), query.device)
    row = take_prompt(softmax, call)
    for cols, of_columns in score_chunks(call, call.knowledge_query, call.knowledge_key, None, None, None):
        weights = softmax.rescale(of_columns)
        inside = inside_range(call.knowledge_range, cols, nu.device)
        softmax.output = softmax.output + mix_knowledge(weights, nu[..., cols, :].to(weights.dtype), inside)

    if call.is_alone:
        row = softmax.maximum != float("-inf")
    output = torch.where(row[..., None], softmax.output / softmax.total[..., None], 0.0)
    lse = torch.where(row, softmax.maximum + softmax.total.log(), float("-inf"))
    return in_model_layout(output.to(query.dtype)), lse


def backward(call: DenseCall, results: Tensors, gradients: Tensors) -> Tensors:
    """Gradients from the results alone: probabilities are recomputed chunk by chunk, p = exp(s - lse).

    ds = p * (dp - <grad_output, output> + grad_lse); the bias is a constant and gets no gradient.

    Returns:
        The gradients of `DenseCall.DIFFERENTIABLE`, each in the dtype and shape of its tensor.
    """
    (output, lse), (grad_output, grad_lse) = results, gradients
    query, key, value, scale = call.query, call.key, call.value, call.scale
    kappa, nu = call.knowledge_key, call.knowledge_value
    B, Hq, Hkv, N, T, M = call.sizes
    dtype, device = accumulation_dtype(query), query.device
    do = grad_output.to(dtype)
    delta = ((do * output.to(dtype)).sum(-1) - grad_lse.to(dtype))[..., None]
    level = level_of(lse.to(dtype))
    padding = lse[..., None] == float("-inf")  # may be NaN
    q, r = (rows.to(dtype).masked_fill(padding, 0) for rows in (query, call.knowledge_query))

    def fold(rows: Tensor) -> Tensor:
        """(B, Hq, N, L) -> (B, Hkv, group * N, L): the rows that share one prompt head."""
        return rows.reshape(B, Hkv, Hq // Hkv * N, rows.shape[-1])

    grad_q, grad_k, grad_v = torch.zeros_like(q), torch.empty_like(key), torch.empty_like(value)
    for cols in chunks(T):
        k, v = (without_hidden(t[:, :, cols].to(dtype), call.prompt_mask, cols) for t in (key, value))
        visible = prompt_visibility(N, T, cols, call.prompt_mask, call.window, device)[:, None]
        scores = times_grouped(q, k.transpose(-1, -2)) * scale
        p = torch.exp(scores.masked_fill(~visible, float("-inf")) - level)
        ds = p * (times_grouped(do, v.transpose(-1, -2)) - delta) * scale
        grad_q += times_grouped(ds, k)
        grad_k[:, :, cols] = (fold(ds).transpose(-1, -2) @ fold(q)).to(key.dtype)
        grad_v[:, :, cols] = (fold(p).transpose(-1, -2) @ fold(do)).to(value.dtype)

    grad_r, grad_kappa, grad_nu = torch.zeros_like(r), torch.empty_like(kappa), torch.empty_like(nu)
    columns_times = "bhnm,bhnd->hmd" if kappa.dim() == 3 else "bhnm,bhnd->bhmd"
    for cols in chunks(M):
        inside = inside_range(call.knowledge_range, cols, device)
        keys, values = (without_unseen(t[..., cols, :].to(dtype), inside) for t in (kappa, nu))
        scores = times_knowledge(r, keys.transpose(-1, -2)) * scale
        p = torch.exp(biased(scores, call.bias, inside, cols) - level)
        ds = p * (times_knowledge(do, values.transpose(-1, -2)) - delta) * scale
        grad_r += times_knowledge(ds, keys)
        grad_kappa[..., cols, :] = torch.einsum(columns_times, ds, r).to(kappa.dtype)
        grad_nu[..., cols, :] = torch.einsum(columns_times, p, do).to(nu.dtype)

    return grad_q.to(query.dtype), grad_k, grad_v, grad_kappa, grad_nu, grad_r.to(query.dtype)
