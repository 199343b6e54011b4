"""The mask that reaches the attention function: one flag per key column, never a (N x T) matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kblam.errors import KnowledgeError
from kblam.models.switch import base_mask, has_knowledge


def mask_of_call(*, config: Any = None, **arguments: Any) -> Any:
    """Registered in transformers' mask registry: that of attention to knowledge, or without any the model's own."""
    if not has_knowledge(config):
        return base_mask(config, **arguments)
    mask = knowledge_mask(**arguments)
    if mask is not None and not torch.compiler.is_compiling():
        # For the proof at attach: the flags do not say it, and a model may tell its attention or not.
        mask.asked_for = arguments.get("mask_function"), arguments.get("local_size")  # type: ignore[attr-defined]
    return mask


def knowledge_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Any = None,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    allow_is_causal_skip: bool = True,
    **_: Any,
) -> Tensor | None:
    """Which of the key columns are not padding.

    The kernels apply causality and windows themselves. A dynamic cache passes exactly the seen columns. A static
    one passes its whole length: for one new token the columns not yet written are masked, for more
    (prefill) the mask is cut to the written ones, and `attention.py` cuts keys and values to its length.

    Returns:
        bool (B, kv_length or fewer), or None when every column counts.

    Raises:
        KnowledgeError: if the model asks for a pattern that is not causal: packed sequences, image blocks.
    """
    # transformers clears this flag for such patterns, and for one token with a static cache. A compiler clears it
    # whenever it cannot tell, so it is trusted only outside one.
    if not allow_is_causal_skip and q_length > 1 and not torch.compiler.is_compiling():
        raise KnowledgeError(
            "knowledge layers attend causally to one sequence per row; these position_ids pack several sequences into "
            "a row, or the model asks for a mask of its own. Give each sequence its own row and an attention_mask"
        )
    if attention_mask is not None:
        attention_mask = _of_columns(attention_mask.to(device=device, dtype=torch.bool), kv_offset, kv_length)
    written = q_offset + q_length - kv_offset
    if isinstance(written, Tensor) or written < kv_length:
        if q_length == 1:
            return _static_decode_mask(batch_size, kv_length, written, attention_mask, device)
        length = int(written)
        if attention_mask is None:
            return torch.ones(batch_size, length, dtype=torch.bool, device=device)
        return attention_mask[:, :length]
    if attention_mask is None or _all_true(attention_mask, q_length):
        return None
    return attention_mask


_FIX = "pass attention_mask (B, T), 1 for tokens and 0 for padding, and give each sequence a row of its own"


def is_flags(mask: Any) -> bool:
    """Whether a caller's mask is what transformers' mask registry takes or has made: flags (B, T), or None.

    `generate` has masks of a static cache made beforehand, one for each kind of layer.
    """
    each = mask.values() if isinstance(mask, dict) else [mask]
    return all(one is None or (isinstance(one, Tensor) and one.dim() == 2) for one in each)


def flags_given(mask: Any, new_tokens: int, columns: int, window: int | None) -> Tensor:
    """The flags (B, T) that a caller's mask of another form comes to.

    Args:
        mask: what the decoder was given.
        new_tokens: N of this pass.
        columns: how many tokens have been seen after it.
        window: as `flags_of`.

    Raises:
        KnowledgeError: it says more than flags do, or has other rows and columns than this pass.
    """
    if torch.compiler.is_compiling():
        raise KnowledgeError(f"a prepared mask cannot be read while a model is compiled; {_FIX}")
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        what = f"of {mask.dim()} dimensions" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise KnowledgeError(f"this attention_mask is {what}, which knowledge layers do not read; {_FIX}")
    rows, width = mask.shape[2:]
    if rows != new_tokens or width < columns:
        raise KnowledgeError(
            f"this attention_mask has {rows} rows and {width} columns, where {new_tokens} new tokens see up to "
            f"{columns}; {_FIX}"
        )
    return flags_of(mask, window)


def flags_of(prepared: Tensor, window: int | None) -> Tensor:
    """Which key columns a prepared mask shows, where it says no more than a mask of flags does.

    Args:
        prepared: (B, 1, N, T), bool with True where a query sees a column, or floating with 0 there and -inf, or the
            least number of its dtype, elsewhere.
        window: the shortest sliding window of the model's layers, which a prepared mask replaces and flags do not.

    Returns:
        bool (B, T).

    Raises:
        KnowledgeError: it hides something else than padding and what comes later.
    """
    _, heads, N, T = prepared.shape
    if heads != 1:
        raise KnowledgeError(
            f"this attention_mask has a part for each of {heads} heads, which share theirs here; {_FIX}"
        )
    visible = prepared[:, 0]
    if visible.is_floating_point():
        hidden = visible <= torch.finfo(visible.dtype).min / 2
        if not (hidden | (visible == 0)).all():
            raise KnowledgeError(f"this attention_mask weighs columns, and attention here sees them or not; {_FIX}")
        visible = ~hidden
    elif visible.dtype != torch.bool:
        raise KnowledgeError(
            f"an attention_mask of 4 dimensions is bool, or floating with 0 and -inf; got {visible.dtype}; {_FIX}"
        )
    if window is not None and window < T:
        raise KnowledgeError(
            f"this model has layers with a window of {window} tokens, which a mask of 4 dimensions replaces; {_FIX}"
        )
    flags, places = visible[:, -1], torch.arange(T, device=visible.device)
    queries = places[max(T - N, 0) :]
    expected = flags[:, None] & (places <= queries[:, None])
    # Some libraries let a query that would see nothing see everything. It is padding, and nobody reads its output.
    unmasked = visible.all(-1) & ~expected.any(-1)
    if N > T or not ((visible == expected).all(-1) | unmasked).all():
        raise KnowledgeError(
            "this attention_mask hides more than padding and what comes later (packed sequences, a window, columns "
            f"that are seen both ways), and knowledge layers read one flag for each column; {_FIX}"
        )
    return flags


def _static_decode_mask(
    batch_size: int, kv_length: int, written: int | Tensor, attention_mask: Tensor | None, device: torch.device | str
) -> Tensor:
    valid = (torch.arange(kv_length, device=device) < written).expand(batch_size, kv_length)
    return valid if attention_mask is None else valid & attention_mask


def _of_columns(flags: Tensor, start: int, length: int) -> Tensor:
    """The flags of columns [start, start + length), where flag t is that of the sequence's token t.

    As transformers reads them: a mask that ends earlier hides the rest, one that goes on says nothing about later
    tokens. `generate` gives the flags of the tokens so far, fewer than a static cache has columns.
    """
    flags = flags[:, start:]
    missing = length - flags.shape[1]
    if torch.compiler.is_compiling() or missing:  # in this order: a compiler would ask again when a mask has grown
        flags = torch.nn.functional.pad(flags, (0, missing))
    return flags


def _all_true(mask: Tensor, q_length: int) -> bool:
    """Whether the mask hides nothing. Not checked where reading it would stall decode or break a graph."""
    if torch.compiler.is_compiling() or (mask.device.type != "cpu" and q_length == 1):
        return False
    return bool(mask.all())
