"""Attention to dense knowledge in plain PyTorch: the specification of the op. The maths is in this folder's README.

Accumulates in float32 (float64 for float64 inputs). Both loops go over column chunks, so memory grows with
N x CHUNK and never with N x M. KBLaM section 3, arXiv 2410.10450.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from kblam_kernels.common.call import Saved
from kblam_kernels.common.columns import (
    chunks_beside,
    inside_range,
    mix_knowledge,
    prompt_visibility,
    score_chunks,
    take_prompt,
    without_hidden,
    without_unseen,
)
from kblam_kernels.common.softmax import OnlineSoftmax, accumulation_dtype, in_model_layout
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.gradient import OF_KNOWLEDGE, OF_PROMPT, RowTerms, row_terms

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


def backward(call: DenseCall, saved: Saved) -> dict[str, Tensor]:
    """Gradients of `saved.wanted`. Probabilities are recomputed from the lse chunk by chunk: p = exp(s - lse).

    ds = p * (dp - delta); the gradient of the bias is the sum of ds.
    """
    dtype = accumulation_dtype(call.query)
    terms = row_terms(call, saved).each(lambda rows: rows.to(dtype))
    made: dict[str, Tensor] = {}
    if saved.wants(*OF_PROMPT):
        made |= _of_prompt(call, terms, saved)
    if saved.wants(*OF_KNOWLEDGE):
        made |= _of_knowledge(call, terms, saved)
    return {name: made[name].to(getattr(call, name).dtype) for name in saved.wanted}


def _of_prompt(call: DenseCall, terms: RowTerms, saved: Saved) -> dict[str, Tensor]:
    B, Hq, Hkv, N, T, _ = call.sizes

    def columns(cols: slice) -> Iterator[Tensor]:
        for tensor in (call.key[:, :, cols], call.value[:, :, cols]):
            yield without_hidden(tensor.to(terms.level.dtype), call.prompt_mask, cols).flatten(0, 1)

    def settle(scores: Tensor, cols: slice) -> None:
        visible = prompt_visibility(N, T, cols, call.prompt_mask, call.window, scores.device)
        scores.view(B, Hq, N, scores.shape[-1]).masked_fill_(~visible[:, None], float("-inf"))

    # The heads of a group lie side by side.
    rows = terms.each(lambda t: t.reshape(B * Hkv, Hq // Hkv * N, t.shape[-1]))
    made = zip(
        OF_PROMPT, _block(rows, rows.query, T, columns, settle, call.scale, saved.wants("key", "value")), strict=True
    )
    return {name: gradient.view(getattr(call, name).shape) for name, gradient in made if gradient is not None}


def _of_knowledge(call: DenseCall, terms: RowTerms, saved: Saved) -> dict[str, Tensor]:
    B, Hq, _, N, _, M = call.sizes
    kappa, device = call.knowledge_key, call.query.device
    is_shared = kappa.dim() == 3
    outer = (Hq, B) if is_shared else (B, Hq)
    grad_bias = torch.empty(B, M, dtype=terms.level.dtype, device=device) if saved.wants("bias") else None

    def turned(t: Tensor) -> Tensor:
        """(B, Hq, ...) as rows are ordered, or back: the batch lies inside a head that it shares the list of."""
        return t.transpose(0, 1) if is_shared else t

    def columns(cols: slice) -> Iterator[Tensor]:
        inside = inside_range(call.knowledge_range, cols, device)
        for tensor in (kappa[..., cols, :], call.knowledge_value[..., cols, :]):
            yield without_unseen(tensor.to(terms.level.dtype), inside).flatten(0, -3)

    def settle(scores: Tensor, cols: slice) -> None:
        of_each = turned(scores.view(*outer, N, scores.shape[-1]))
        if call.bias is not None:
            of_each.add_(call.bias[:, None, None, cols])
        if (inside := inside_range(call.knowledge_range, cols, device)) is not None:
            of_each.masked_fill_(~inside, float("-inf"))

    def see(grad_scores: Tensor, cols: slice) -> None:
        if grad_bias is not None:
            grad_bias[:, cols] = turned(grad_scores.view(*outer, N, grad_scores.shape[-1])).sum((1, 2))

    lists = (Hq, B * N) if is_shared else (B * Hq, N)  # of keys and values, and the rows that read one
    rows = terms.each(lambda t: turned(t).reshape(*lists, t.shape[-1]))
    wants_columns = saved.wants("knowledge_key", "knowledge_value")
    found = _block(rows, rows.knowledge_query, M, columns, settle, call.scale, wants_columns, see)
    made = {"knowledge_query": turned(found[0].view(*outer, N, found[0].shape[-1]))}
    if found[1] is not None and found[2] is not None:
        made |= {"knowledge_key": found[1].view(kappa.shape), "knowledge_value": found[2].view(kappa.shape)}
    if grad_bias is not None and call.bias is not None:
        made["bias"] = grad_bias.sum_to_size(call.bias.shape)
    return made


def _block(
    rows: RowTerms,
    query: Tensor,
    length: int,
    columns: Callable[[slice], Iterable[Tensor]],
    settle: Callable[[Tensor, slice], None],
    scale: float,
    wants_columns: bool,
    see: Callable[[Tensor, slice], None] = lambda grad_scores, cols: None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of the rows' query (X, R, D), and if wanted of one block's keys and values (X, length, D).

    Args:
        rows, query: (X, R, ...): rows that read one list of columns lie side by side.
        columns: keys and values (X, L, D) of a slice.
        settle: adds the bias to scores (X, R, L) of a slice and hides what a row does not see, in place.
        see: is shown the gradients of the scores.
    """
    X, R, D = query.shape
    grad_query = torch.zeros_like(query)
    grad_key, grad_value = (query.new_empty(X, length if wants_columns else 0, D) for _ in range(2))
    for cols in chunks_beside(X * R, length):
        k, v = columns(cols)
        p = torch.baddbmm(-rows.level, query, k.mT, alpha=scale)
        settle(p, cols)
        p.exp_()
        ds = torch.baddbmm(-rows.delta, rows.grad_output, v.mT).mul_(p)
        see(ds, cols)
        grad_query.baddbmm_(ds, k, alpha=scale)
        if wants_columns:
            grad_key[:, cols] = torch.bmm(ds.mT, query).mul_(scale)
            grad_value[:, cols] = torch.bmm(p.mT, rows.grad_output)
    return (grad_query, grad_key, grad_value) if wants_columns else (grad_query, None, None)
