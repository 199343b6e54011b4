"""Columns of both blocks in the reference backends: chunks, visibility, products, scores."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kblam_kernels.common.call import AttentionCall
from kblam_kernels.common.softmax import OnlineSoftmax, accumulation_dtype

CHUNK = 4096


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


def without_hidden(columns: Tensor, prompt_mask: Tensor | None, cols: slice) -> Tensor:
    """Keys or values (B, Hkv, len(cols), D) of the prompt, 0 where the mask hides them.

    They may be NaN there, and a weight of 0 would not hide that.
    """
    return columns if prompt_mask is None else columns.masked_fill(~prompt_mask[:, None, cols, None], 0)


def inside_range(knowledge_range: Tensor | None, cols: slice, device: torch.device) -> Tensor | None:
    """Which of the knowledge tokens `cols` each row sees: bool (B or 1, 1, 1, len(cols)); None if all rows see all."""
    if knowledge_range is None:
        return None
    column = torch.arange(cols.start, cols.stop, device=device)
    start, end = knowledge_range[:, 0, None], knowledge_range[:, 1, None]
    return ((column >= start) & (column < end))[:, None, None, :]


def biased(scores: Tensor, bias: Tensor | None, inside: Tensor | None, cols: slice) -> Tensor:
    """Knowledge scores (B, Hq, N, len(cols)) with their bias; -inf outside a row's range, whatever is there."""
    if bias is not None:
        scores = scores + bias[:, None, None, cols].to(scores.dtype)
    return scores if inside is None else scores.masked_fill(~inside, float("-inf"))


def without_unseen(columns: Tensor, inside: Tensor | None) -> Tensor:
    """Keys or values (..., len(cols), K) of knowledge, 0 where no row that reads them sees them; see `inside_range`."""
    if inside is None:
        return columns
    seen = inside.transpose(-1, -2)  # (B or 1, 1, len(cols), 1)
    return columns.masked_fill(~(seen if columns.dim() == 4 else seen.any(0)[0]), 0)


def score_chunks(
    rows: Tensor,
    constant: Tensor | None,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    scale: float,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (columns, knowledge scores (B, Hq, N, len(columns))), -inf outside a row's range, with the scores

    scale * norm * (key_scale * rows . key + constant) + bias

    The arguments are those of `EvidenceCall`.
    """
    dtype, device = accumulation_dtype(rows), rows.device
    a = rows.to(dtype) if norm is not None else rows.to(dtype) * scale
    for cols in chunks(key.shape[-2]):
        columns = key[..., cols, :].to(dtype).transpose(-1, -2)
        scores = a @ columns if key.dim() == 2 else times_knowledge(a, columns)
        if key_scale is not None:
            scores = scores * key_scale[cols]
        if constant is not None:
            scores = scores + constant[..., None]
        if norm is not None:
            scores = scores * (norm[cols] * scale)
        yield cols, biased(scores, bias, inside_range(knowledge_range, cols, device), cols)


def take_prompt(softmax: OnlineSoftmax, call: AttentionCall) -> Tensor:
    """Adds the prompt to a softmax; returns which rows see a column of it, bool (B, 1, N).

    A padding row sees none, and then sees no knowledge either, unless there is no prompt at all.
    """
    N, T, dtype, device = call.query.shape[2], call.key.shape[2], softmax.total.dtype, call.query.device
    sees_prompt = torch.zeros(call.query.shape[0], N, dtype=torch.bool, device=device)
    q = call.query.to(dtype) * call.scale
    for cols in chunks(T):
        visible = prompt_visibility(N, T, cols, call.prompt_mask, call.window, device)
        sees_prompt = sees_prompt | visible.any(-1)
        scores = times_grouped(q, call.key[:, :, cols].to(dtype).transpose(-1, -2))
        weights = softmax.rescale(scores.masked_fill(~visible[:, None], float("-inf")))
        value = without_hidden(call.value[:, :, cols].to(dtype), call.prompt_mask, cols)
        softmax.output = softmax.output + times_grouped(weights, value)
    return sees_prompt[:, None, :]
