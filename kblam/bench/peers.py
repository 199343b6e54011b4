"""What an engineer without this package would write, from PyTorch's own operations.

Every peer takes the same tensors and computes the same output, so that the gate can compare them. They are measured
with one query for both blocks, because SDPA and FlexAttention take one; a separate knowledge query, as KBLaM trains
it, costs this package and the two-call merge nothing, and would double the width of their heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam.bench.operands import Columns, Operands, Peer
from kblam.bench.two_calls import TWO_CALLS, missing


def _column_mask(o: Operands) -> Tensor:
    """(N, M + T): the bias on knowledge, 0 on visible prompt columns, -inf on the others; in the dtype of the query."""
    N, T, M = o.query.shape[2], o.key.shape[2], o.knowledge_key.shape[1]
    mask = torch.zeros(N, M + T, dtype=torch.float32, device=o.query.device)
    mask[:, :M] = o.bias
    hidden = torch.ones(N, T, dtype=torch.bool, device=o.query.device).triu(T - N + 1)
    mask[:, M:].masked_fill_(hidden, float("-inf"))
    return mask.to(o.query.dtype)


def _eager(o: Operands, cached: Callable[[], Columns]) -> Callable[[], Tensor]:
    mask = _column_mask(o)

    def call() -> Tensor:
        keys, values = cached()
        scores = o.query @ keys.transpose(-1, -2) * o.scale + mask
        return scores.softmax(-1, dtype=torch.float32).to(o.query.dtype) @ values

    return call


def _sdpa(o: Operands, cached: Callable[[], Columns]) -> Callable[[], Tensor]:
    """An explicit mask, which rules SDPA's flash kernel out."""
    mask = _column_mask(o)

    def call() -> Tensor:
        keys, values = cached()
        return F.scaled_dot_product_attention(o.query, keys, values, attn_mask=mask, scale=o.scale)

    return call


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@functools.lru_cache(maxsize=1)
def _flex_columns(N: int, T: int, M: int, bias: float, device: str) -> tuple[Callable[..., Tensor], Any]:
    """score_mod and block mask of a shape: one for all copies of its inputs, or the compiler would start anew."""
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(b: Tensor, h: Tensor, n: Tensor, column: Tensor) -> Tensor:
        return column - M <= T - N + n

    def biased(score: Tensor, b: Tensor, h: Tensor, n: Tensor, column: Tensor) -> Tensor:
        return torch.where(column < M, score + bias, score)

    return biased, create_block_mask(visible, None, None, N, M + T, device=device)


def _flex(o: Operands, cached: Callable[[], Columns]) -> Callable[[], Tensor]:
    """Compiled FlexAttention: block mask, and the bias as a score_mod."""
    biased, blocks = _flex_columns(
        o.query.shape[2], o.key.shape[2], o.knowledge_key.shape[1], o.bias, str(o.query.device)
    )
    flex = _compiled_flex()

    def call() -> Tensor:
        keys, values = cached()
        return flex(o.query, keys, values, score_mod=biased, block_mask=blocks, scale=o.scale)

    return call


Attention = Callable[[Operands, Callable[[], Columns]], Callable[[], Tensor]]


def _concat(attention: Attention) -> Peer:
    """Upstream's way: knowledge and prompt are concatenated in every call."""
    return lambda o: attention(o, o.concatenated)


def _static_cache(attention: Attention) -> Peer:
    """As a static cache that already holds the knowledge: concatenated beforehand, for each row, and not timed."""

    def build(o: Operands) -> Callable[[], Tensor]:
        held = o.held()
        return attention(o, lambda: held)

    return build


_ATTENTION: dict[str, Attention] = {"sdpa": _sdpa, "flex": _flex, "eager": _eager}
PEERS: dict[str, Peer] = {
    **TWO_CALLS,
    **{f"{name} static cache": _static_cache(attention) for name, attention in _ATTENTION.items()},
    **{f"{name} concat": _concat(attention) for name, attention in _ATTENTION.items()},
}
NEEDS_CUDA = frozenset(name for name in TWO_CALLS if name != "two flash calls + merge")
# Compiled for each shape: on a CPU half a minute.
COMPILED = frozenset({*(name for name in PEERS if name.startswith("flex")), "compiled mass"})
# Upstream's way and a matrix of scores, which others beat everywhere: a short run leaves them out.
SLOW = frozenset({name for name in PEERS if name.endswith("concat") or name.startswith("eager")})


def reason_against(name: str, device: str, *, compiles: bool = True) -> str | None:
    """Why a peer does not run here, or None; without `compiles` those that need a compiler are left out."""
    if name in NEEDS_CUDA and torch.device(device).type != "cuda":
        return "needs a CUDA device"
    if name in COMPILED and not compiles:
        return "left out of this run: it is compiled for each shape"
    return missing(name)


def eager_mass(o: Operands, lse: Tensor) -> Callable[[], Tensor]:
    """Attention mass from a matrix of weights: (B, Hq, N, M) in memory."""
    return lambda: _mass(o.query, o.knowledge_key, lse, o.bias, o.scale)


def _mass(query: Tensor, key: Tensor, lse: Tensor, bias: float, scale: float) -> Tensor:
    scores = (query @ key.transpose(-1, -2)).float() * scale + bias
    return torch.exp(scores - lse[..., None]).mean((1, 2))


@functools.cache
def _compiled_mass() -> Callable[..., Tensor]:
    return torch.compile(_mass, dynamic=False)


def compiled_mass(o: Operands, lse: Tensor) -> Callable[[], Tensor]:
    """The same, compiled: one matrix product, then exponential and sum in one kernel."""
    mass = _compiled_mass()
    return lambda: mass(o.query, o.knowledge_key, lse, o.bias, o.scale)


EVIDENCE_PEERS: dict[str, Callable[[Operands, Tensor], Callable[[], Tensor]]] = {
    "eager mass": eager_mass,
    "compiled mass": compiled_mass,
}
