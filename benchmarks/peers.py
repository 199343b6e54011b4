"""What an engineer without this package would write, from PyTorch's own operations.

Every peer takes the same tensors and computes the same output, so that the gate can compare them. They are measured
with one query for both blocks, because SDPA and FlexAttention take one; a separate knowledge query, as KBLaM trains
it, costs this package and the two-call merge nothing, and would double the width of their heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Operands:
    """query (B, Hq, N, D), key and value (B, Hkv, T, D), knowledge (Hq, M, D), a bias for all knowledge scores."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_key: Tensor
    knowledge_value: Tensor
    bias: float

    @property
    def scale(self) -> float:
        """1 / sqrt(D)."""
        return float(self.query.shape[-1] ** -0.5)


Peer = Callable[[Operands], Callable[[], Tensor]]
KeysAndValues = tuple[Tensor, Tensor]


def _grouped(tensor: Tensor, heads: int) -> Tensor:
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def _concatenated(o: Operands) -> KeysAndValues:
    """Knowledge and prompt as one list of (B, Hq, M + T, D): for each batch row and query head its own copy."""
    B, H = o.query.shape[:2]
    keys = torch.cat([o.knowledge_key.expand(B, -1, -1, -1), _grouped(o.key, H)], dim=2)
    values = torch.cat([o.knowledge_value.expand(B, -1, -1, -1), _grouped(o.value, H)], dim=2)
    return keys, values


def _column_mask(o: Operands) -> Tensor:
    """(N, M + T): the bias on knowledge, 0 on visible prompt columns, -inf on the others; in the dtype of the query."""
    N, T, M = o.query.shape[2], o.key.shape[2], o.knowledge_key.shape[1]
    mask = torch.zeros(N, M + T, device=o.query.device)
    mask[:, :M] = o.bias
    hidden = torch.ones(N, T, dtype=torch.bool, device=o.query.device).triu(T - N + 1)
    mask[:, M:].masked_fill_(hidden, float("-inf"))
    return mask.to(o.query.dtype)


def _eager(o: Operands, cached: Callable[[], KeysAndValues]) -> Callable[[], Tensor]:
    mask = _column_mask(o)

    def call() -> Tensor:
        keys, values = cached()
        scores = o.query @ keys.transpose(-1, -2) * o.scale + mask
        return scores.softmax(-1, dtype=torch.float32).to(o.query.dtype) @ values

    return call


def _sdpa(o: Operands, cached: Callable[[], KeysAndValues]) -> Callable[[], Tensor]:
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


def _flex(o: Operands, cached: Callable[[], KeysAndValues]) -> Callable[[], Tensor]:
    """Compiled FlexAttention: block mask, and the bias as a score_mod."""
    from torch.nn.attention.flex_attention import create_block_mask

    N, T, M = o.query.shape[2], o.key.shape[2], o.knowledge_key.shape[1]

    def visible(b: Tensor, h: Tensor, n: Tensor, column: Tensor) -> Tensor:
        return column - M <= T - N + n

    def biased(score: Tensor, b: Tensor, h: Tensor, n: Tensor, column: Tensor) -> Tensor:
        return torch.where(column < M, score + o.bias, score)

    blocks = create_block_mask(visible, None, None, N, M + T, device=str(o.query.device))
    flex = _compiled_flex()

    def call() -> Tensor:
        keys, values = cached()
        return flex(o.query, keys, values, score_mod=biased, block_mask=blocks, scale=o.scale)

    return call


Attention = Callable[[Operands, Callable[[], KeysAndValues]], Callable[[], Tensor]]


def _concat(attention: Attention) -> Peer:
    """Upstream's way: knowledge and prompt are concatenated in every call."""
    return lambda o: attention(o, lambda: _concatenated(o))


def _static_cache(attention: Attention) -> Peer:
    """As a static cache that already holds the knowledge: concatenated beforehand, for each row, and not timed."""

    def build(o: Operands) -> Callable[[], Tensor]:
        held = _concatenated(o)
        return attention(o, lambda: held)

    return build


def _flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """PyTorch's own FlashAttention-2 with its lse."""
    if query.is_cuda:
        result = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
        return result[0], result[1]
    heads = query.shape[1]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, _grouped(key, heads), _grouped(value, heads), 0.0, causal, scale=scale
    )
    return out, lse


def _merge(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> Tensor:
    share = torch.sigmoid(first_lse - second_lse)[..., None]
    return (first.float() * share + second.float() * (1 - share)).to(first.dtype)


@functools.cache
def _compiled_merge() -> Callable[..., Tensor]:
    return torch.compile(_merge)


def two_flash_calls(o: Operands) -> Callable[[], Tensor]:
    """FlashAttention over the knowledge, the batch folded into one sequence; over the prompt; one fused merge.

    Adding the bias to the knowledge's lse is adding it to every score.
    """
    B, H, N, D = o.query.shape
    if 1 < N < o.key.shape[2]:
        raise ValueError(f"the flash op aligns its causal mask to the first column; N={N} must be 1 or T")
    merge = _compiled_merge() if o.query.is_cuda else _merge

    def call() -> Tensor:
        folded = o.query.transpose(0, 1).reshape(1, H, B * N, D)
        known, known_lse = _flash(folded, o.knowledge_key[None], o.knowledge_value[None], False, o.scale)
        known = known.view(H, B, N, D).transpose(0, 1)
        known_lse = known_lse.view(H, B, N).transpose(0, 1) + o.bias
        prompt, prompt_lse = _flash(o.query, o.key, o.value, N > 1, o.scale)
        return merge(known, known_lse, prompt, prompt_lse)

    return call


_ATTENTION: dict[str, Attention] = {"sdpa": _sdpa, "flex": _flex, "eager": _eager}
# FlexAttention needs a compiler: a GPU, or a C++ one on a CPU, where a tiny run should not wait for it.
PEERS: dict[str, Peer] = {
    "two flash calls + merge": two_flash_calls,
    **{f"{name} concat": _concat(attention) for name, attention in _ATTENTION.items()},
    **{f"{name} static cache": _static_cache(attention) for name, attention in _ATTENTION.items()},
}
NEEDS_CUDA = frozenset({"flex concat", "flex static cache", "compiled mass"})


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
