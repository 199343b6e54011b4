"""What is measured: our kernels, and what an engineer would write without this package.

One call over concatenated columns cannot take two queries: those peers use the knowledge query for both blocks, and are
compared with the same. Concatenated keys and values are made outside: a peer pays for its attention only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam_kernels.attention import rectangular_attention
from kblam_kernels.bench.shapes import Inputs, Shape

Call = Callable[[], Tensor]


def ours(shape: Shape, x: Inputs) -> dict[str, Call]:
    """The whole public call, on latents (with the projections before and after) and on dense knowledge.

    "kblam latent int8" multiplies int8 latents as int8, which is less exact than the others.
    """
    heads = slice(0, shape.dense_heads)
    groups = slice(0, max(1, shape.dense_heads * shape.prompt_heads // shape.heads))
    dense, r, latents = x.dense(shape.triples), x.knowledge_query, x.int8_latents
    return {
        "kblam latent": lambda: rectangular_attention(r, x.key, x.value, x.latents, r, backend="cpu"),
        "kblam latent int8": lambda: rectangular_attention(
            r, x.key, x.value, latents, r, int8_products=True, backend="cpu"
        ),
        "kblam dense": lambda: rectangular_attention(
            r[:, heads], x.key[:, groups], x.value[:, groups], dense, r[:, heads], backend="cpu"
        ),
    }


def peers(shape: Shape, x: Inputs, *, flex: bool = True) -> dict[str, Call]:
    """PyTorch's own attention, on the first `dense_heads` heads."""
    N, M, T = shape.queries, shape.triples, shape.cached + shape.queries
    r, keys, values = x.knowledge_query[:, : shape.dense_heads], x.keys, x.values
    visible = torch.ones(N, M + T, dtype=torch.bool)
    visible[:, M:] = torch.ones(N, T, dtype=torch.bool).tril(T - N)
    mask = None if N == 1 else visible
    additive = torch.zeros(N, M + T, dtype=r.dtype).masked_fill(~visible, float("-inf"))
    causal = None if N == 1 else additive[:, M:].expand(1, shape.dense_heads, N, T)
    scale = shape.head_dim**-0.5
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def eager() -> Tensor:
        scores = r @ keys.mT * scale
        return torch.softmax(scores + additive, -1, dtype=torch.float32).to(scores.dtype) @ values

    def two_calls() -> Tensor:
        output, lse = flash(r, keys[:, :, :M], values[:, :, :M])
        prompt, prompt_lse = flash(r, keys[:, :, M:], values[:, :, M:], attn_mask=causal)
        share = torch.sigmoid(lse - prompt_lse)[..., None].to(output.dtype)
        return output * share + prompt * (1 - share)

    found: dict[str, Call] = {
        "sdpa": lambda: F.scaled_dot_product_attention(r, keys, values, mask),
        "eager": eager,
        "two calls and merge": two_calls,
    }
    if flex:
        found["compiled flex"] = _flex(shape, r, keys, values)
    return found


def _flex(shape: Shape, r: Tensor, keys: Tensor, values: Tensor) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask

    N, M, T = shape.queries, shape.triples, shape.cached + shape.queries

    def visible(b: Tensor, h: Tensor, n: Tensor, column: Tensor) -> Tensor:
        return column - M <= T - N + n

    # Each shape compiles anew: code compiled for many shapes is slower, and recompilations are limited.
    torch.compiler.reset()
    # One new token sees every column.
    blocks = None if N == 1 else create_block_mask(visible, None, None, N, M + T, device="cpu")
    return lambda: _compiled_flex()(r, keys, values, block_mask=blocks)


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
