"""Checks of user input, with their messages in one place. They look at shapes, dtypes and devices, never at values."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.errors import expect, number, refuse, tensors

# What attention is computed of. Results in a narrower one would be overflow and rounding more than attention.
COMPUTED = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# What a weight may be: flags say which rows count.
WEIGHTS = (
    *COMPUTED,
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def check_prompt(query: Tensor, key: Tensor, value: Tensor, *, is_alone: bool = False) -> None:
    """Ranks and shapes of the prompt block; it has no column where knowledge is alone."""
    tensors(query=query, key=key, value=value)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.dim() != 4:
            refuse(f"{name} must be of rank 4 (batch, heads, tokens, head_dim); got {tuple(tensor.shape)}")
    B, Hq, N, D = query.shape
    if D == 0:
        refuse(f"head_dim must be at least 1; got query {tuple(query.shape)}")
    if key.shape != value.shape or key.shape[0] != B or key.shape[3] != D:
        refuse(
            f"key and value must both be (B={B}, Hkv, T, D={D}) to fit query {tuple(query.shape)}; "
            f"got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    if key.shape[1] == 0 or Hq % key.shape[1]:
        refuse(f"query heads must be a multiple of key heads; got {Hq} and {key.shape[1]}")
    if not is_alone:
        check_new_tokens(N, key)


def check_computed(name: str, rows: Tensor, shape: str = "") -> None:
    """Queries are of a dtype that attention is computed of."""
    if rows.dtype not in COMPUTED:
        refuse(
            f"{name} must be a floating-point tensor{shape}: float32, float16, bfloat16 or float64; got {rows.dtype} "
            f"{tuple(rows.shape)}"
        )


def check_new_tokens(N: int, key: Tensor) -> None:
    """A prompt has the N new tokens."""
    if key.shape[2] < N:
        refuse(f"key must hold the N={N} new tokens after the cached ones; it has only {key.shape[2]}")


def check_alike(named: dict[str, Tensor], query: Tensor) -> None:
    """One dtype and one device for all."""
    for name, tensor in named.items():
        if tensor.dtype != query.dtype or tensor.device != query.device:
            refuse(
                f"{name} is {tensor.dtype} on {tensor.device}, query is {query.dtype} on {query.device}; "
                f"convert it with .to(query)"
            )


def bias_rows(bias: float | Tensor, B: int, M: int, query: Tensor) -> Tensor | None:
    """`knowledge_bias` as a float32 view (B, M), or (1, M) where the batch shares one; None when it adds nothing."""
    if not isinstance(bias, Tensor):
        if type(bias) in (int, float) and bias == 0:
            return None
        bias = number("knowledge_bias", bias, or_minus_infinity=True)
        if bias == 0:
            return None
        bias = torch.full((), bias, dtype=torch.float32, device=query.device)
    tensors(knowledge_bias=bias)
    if bias.dtype != torch.float32 or bias.device != query.device:
        refuse(f"knowledge_bias must be float32 on {query.device}; got {bias.dtype} on {bias.device}")
    # Of its own rank: to compare (B, M) with (M,) asks whether B is M, of which an exported program would be made.
    if bias.dim() > 2 or tuple(bias.shape) != ((), (M,), (B, M))[bias.dim()]:
        refuse(f"knowledge_bias must be a number, (M={M},) or (B={B}, M={M}); got {tuple(bias.shape)}")
    if bias.dim() < 2:
        return bias.expand(1, M)
    # Of a view that learns itself each row has a gradient of its own; through one made in a graph it is summed anyway.
    return bias if bias.requires_grad and bias.is_leaf else one_row_if_shared(bias)


def one_row_if_shared(rows: Tensor | None) -> Tensor | None:
    """(B, K) -> (1, K) where all rows are one view: a kernel then reads the knowledge once for the whole batch."""
    return rows[:1] if rows is not None and rows.stride(0) == 0 else rows


def check_masks(prompt_mask: Tensor | None, knowledge_range: Tensor | None, query: Tensor, T: int) -> None:
    """Shapes, dtypes and devices of the optional masks."""
    B = query.shape[0]
    if prompt_mask is not None:
        expect("prompt_mask", prompt_mask, "B, T", (B, T), query.device, torch.bool)
    if knowledge_range is not None:
        check_range(knowledge_range, "B", B, query.device)


def check_range(knowledge_range: Tensor, letter: str, rows: int, device: torch.device) -> None:
    """The [start, end) of each row."""
    why = ", [start, end) for each"
    expect("knowledge_range", knowledge_range, f"{letter}, 2", (rows, 2), device, torch.int32, torch.int64, why=why)


def row_weight_of(knowledge_query: Tensor, row_weight: Tensor | None) -> Tensor:
    """`row_weight` as a view (B, Hq, N); ones for None."""
    rows = knowledge_query.shape[:3]
    if row_weight is None:
        return torch.ones(rows, dtype=torch.float32, device=knowledge_query.device)
    tensors(row_weight=row_weight)
    if row_weight.device != knowledge_query.device or row_weight.dtype not in WEIGHTS:
        refuse(
            f"row_weight must be of floating-point numbers, whole ones or flags, on {knowledge_query.device}; "
            f"got {row_weight.dtype} on {row_weight.device}"
        )
    try:
        return row_weight.expand(rows)
    except RuntimeError:
        refuse(f"row_weight must broadcast to (B, Hq, N) = {tuple(rows)}; got {tuple(row_weight.shape)}")
