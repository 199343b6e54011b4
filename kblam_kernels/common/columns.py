"""Columns of both blocks in the reference backends: chunks, visibility, what is added to scores, products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

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


def knowledge_offset(
    bias: Tensor | None, knowledge_range: Tensor | None, cols: slice, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """What is added to the knowledge scores of `cols`: (B or 1, 1, 1, len(cols)); -inf outside a row's range.

    Bias and range as in `AttentionCall`; None adds nothing and hides nothing.
    """
    offset = None if bias is None else bias[:, None, None, cols].to(dtype)
    if knowledge_range is None:
        return offset
    column = torch.arange(cols.start, cols.stop, device=device)
    start, end = knowledge_range[:, 0, None], knowledge_range[:, 1, None]
    inside = ((column >= start) & (column < end))[:, None, None, :]
    zero = torch.zeros((), dtype=dtype, device=device)
    return torch.where(inside, zero if offset is None else offset, float("-inf"))
