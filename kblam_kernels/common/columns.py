"""Columns of both blocks in the reference backends: chunks, visibility, products, scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.call import AttentionCall, is_transformed
from kblam_kernels.common.softmax import OnlineSoftmax, accumulation_dtype

CHUNK = 4096
# Of a backward: scores that exist at a time, so that they stay in a cache, but at least so many columns of them.
SCORES, LEAST = 2**19, 16


def chunks(length: int, size: int = 0) -> Iterator[slice]:
    """Slices of at most `size`, or of CHUNK, that cover `range(length)`."""
    size = size or CHUNK
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def chunks_beside(rows: int, length: int) -> Iterator[slice]:
    """`chunks` whose scores with so many rows are at most SCORES."""
    return chunks(length, min(CHUNK, max(SCORES // max(rows, 1), LEAST)))


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


def of_tokens(
    tokens: slice, bias: Tensor | None, knowledge_range: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Bias (B or 1, M) and range (B or 1, 2) of a list for some of its tokens, a list of their own."""
    if knowledge_range is not None:
        # An int64 end may be too large to subtract from.
        knowledge_range = knowledge_range.clamp(0, tokens.stop) - tokens.start
    return None if bias is None else bias[:, tokens], knowledge_range


def biased(scores: Tensor, bias: Tensor | None, inside: Tensor | None, cols: slice) -> Tensor:
    """Knowledge scores (B, Hq, N, len(cols)) with their bias; -inf outside a row's range, whatever is there."""
    if bias is not None:
        scores = scores + bias[:, None, None, cols].to(scores.dtype)
    return scores if inside is None else scores.masked_fill(~inside, float("-inf"))


def mix_prompt(weights: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """weights (B, Hq, N, L) @ value (B, Hkv, L, D), of which each row takes what it sees: bool (B or 1, 1, N, L).

    Weight 0 hides neither NaN nor infinity, so they are summed apart, by what each row sees. Where looking costs
    nothing, only if there are any.
    """
    if may_be_read(value):
        mixed = times_grouped(weights, value)
        if mixed.isfinite().all():
            return mixed
    (B, Hq, N, _), Hkv, D = weights.shape, value.shape[1], value.shape[3]
    finite = value.isfinite()
    mixed = times_grouped(weights, value.masked_fill(~finite, 0))
    kinds = torch.cat([value.isnan(), value == float("inf"), value == float("-inf")], -1)
    nan, above, below = (visible.to(value.dtype) @ kinds.to(value.dtype) > 0).expand(B, Hkv, N, 3 * D).split(D, -1)
    spoilt = value.new_zeros(B, Hkv, N, D)
    spoilt = spoilt.masked_fill(above, float("inf")).masked_fill(below, float("-inf"))
    spoilt = spoilt.masked_fill(nan | (above & below), float("nan"))
    return mixed + spoilt.repeat_interleave(Hq // Hkv, 1)


def may_be_read(tensor: Tensor) -> bool:
    """Whether looking at numbers waits for nothing, has a derivative, and finds some: traces and fakes have none."""
    return (
        tensor.device.type == "cpu"
        and not is_transformed()
        and not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def mix_knowledge(weights: Tensor, values: Tensor, inside: Tensor | None) -> Tensor:
    """weights (B, H, N, L) @ values (H, L, K), (B, H, L, K) or latents (L, K), 0 to a batch row outside its range."""
    product = torch.matmul if values.dim() == 2 else times_knowledge
    if inside is None or len(inside) < 2 or values.dim() == 4:
        return product(weights, without_unseen(values, inside))
    rows = zip(weights.split(1), inside.split(1), strict=True)
    return torch.cat([product(row, without_unseen(values, seen)) for row, seen in rows])


def without_unseen(columns: Tensor, inside: Tensor | None) -> Tensor:
    """Keys or values (..., len(cols), K) of knowledge, 0 where no row that reads them sees them; see `inside_range`."""
    if inside is None:
        return columns
    seen = inside.transpose(-1, -2)  # (B or 1, 1, len(cols), 1)
    return columns.masked_fill(~(seen if columns.dim() == 4 else seen.any(0)[0]), 0)


def score_chunks(
    call: Any, rows: Tensor, key: Tensor, constant: Tensor | None, norm: Tensor | None, key_scale: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (columns, knowledge scores (B, Hq, N, len(columns))), -inf outside a row's range, with the scores

    scale * norm * (key_scale * rows . key + constant) + bias

    The arguments are those of `EvidenceCall`; scale, bias and range are the call's.
    """
    dtype, device = accumulation_dtype(rows), rows.device
    rows = rows.to(dtype)
    for cols in chunks(key.shape[-2]):
        columns = key[..., cols, :].to(dtype).transpose(-1, -2)
        scores = rows @ columns if key.dim() == 2 else times_knowledge(rows, columns)
        if key_scale is not None:
            scores = scores * key_scale[cols]
        if constant is not None:
            scores = scores + constant[..., None]
        # Products are scaled, not queries, as in every kernel: then all of them overflow where one does.
        scores = scores * (call.scale if norm is None else norm[cols] * call.scale)
        yield cols, biased(scores, call.bias, inside_range(call.knowledge_range, cols, device), cols)


def take_prompt(softmax: OnlineSoftmax, call: AttentionCall) -> Tensor:
    """Adds the prompt to a softmax; returns which rows see a column of it, bool (B, Hq, N).

    A padding row sees none, and then sees no knowledge either, unless there is no prompt at all. Nor does one that
    scores -inf all that it sees.
    """
    N, T, dtype, device = call.query.shape[2], call.key.shape[2], softmax.total.dtype, call.query.device
    q = call.query.to(dtype)
    for cols in chunks(T):
        visible = prompt_visibility(N, T, cols, call.prompt_mask, call.window, device)
        scores = times_grouped(q, call.key[:, :, cols].to(dtype).transpose(-1, -2)) * call.scale
        weights = softmax.rescale(scores.masked_fill(~visible[:, None], float("-inf")))
        value = without_hidden(call.value[:, :, cols].to(dtype), call.prompt_mask, cols)
        softmax.output = softmax.output + mix_prompt(weights, value, visible[:, None])
    return softmax.maximum != float("-inf")  # NaN is not: what it makes of a row must show
