"""What is measured, and its inputs: one batch row of a Llama-3-8B layer with MiniLM latents."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge, LatentProjection
from kblam_kernels.latent import quantise

# Dense keys and values of all heads are not made past this; the peers then get fewer heads, and their time is scaled.
MAX_DENSE_BYTES = 3 * 2**30
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """N new tokens after `cached` ones, and M knowledge tokens as dense keys and as latents of width P."""

    queries: int
    triples: int
    dtype: str = "bfloat16"
    heads: int = 32
    prompt_heads: int = 8
    head_dim: int = 128
    width: int = 384
    cached: int = 64

    @property
    def regime(self) -> str:
        """decode or prefill."""
        return "decode" if self.queries == 1 else "prefill"

    @property
    def heads_text(self) -> str:
        """How many heads of what width."""
        return f"{self.heads} heads x {self.head_dim}"

    @property
    def row_regime(self) -> str:
        """The regime of a row. Rows have no field for heads, so the regime names them where they are unusual."""
        usual = (self.heads, self.head_dim) == (Shape.heads, Shape.head_dim)
        return self.regime if usual else f"{self.regime}, {self.heads_text}"

    @property
    def element_size(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize

    @property
    def dense_heads(self) -> int:
        """Heads of which dense keys and values are made: all, unless they need more than MAX_DENSE_BYTES."""
        bytes_of_head = 2 * self.triples * self.head_dim * self.element_size
        heads = self.heads
        while heads > 1 and heads * bytes_of_head > MAX_DENSE_BYTES:
            heads //= 2
        return heads


# In the order in which they are run; the demo model's layer is small and float32 over latents of a float16 store.
QUICK = (Shape(1, 10_000), Shape(1, 10_000, "float32"), Shape(128, 10_000))
FULL = (
    *(Shape(1, M) for M in (1_000, 10_000, 100_000, 1_000_000)),
    *(Shape(1, M, "float32") for M in (10_000, 100_000)),
    Shape(1, 10_000, head_dim=64),
    *(Shape(N, 10_000) for N in (16, 128, 512, 2048)),
    Shape(128, 10_000, "float32"),
)


@dataclass(frozen=True)
class Inputs:
    """Tensors of a call. `keys` and `values` hold the knowledge of the first `dense_heads` heads and, after it, the
    prompt's: a peer that wants them in one tensor pays for no copy, and the knowledge is held once."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge_query: Tensor
    latents: LatentKnowledge
    keys: Tensor
    values: Tensor

    @functools.cached_property
    def int8_latents(self) -> LatentKnowledge:
        """The same latents in half the bytes; the norms are those of the exact keys."""
        (key, key_scale), (value, value_scale) = (
            quantise(t, torch.int8) for t in (self.latents.key, self.latents.value)
        )
        return LatentKnowledge(key, value, self.latents.norm, self.latents.projection, key_scale, value_scale)

    def dense(self, triples: int) -> DenseKnowledge:
        """The knowledge in `keys` and `values`."""
        return DenseKnowledge(self.keys[0, :, :triples], self.values[0, :, :triples])


def make(shape: Shape, *, seed: int = 0) -> Inputs:
    """Random inputs; the dense knowledge is what the latents stand for, so that every provider computes the same."""
    draw, dtype = torch.Generator().manual_seed(seed), DTYPES[shape.dtype]
    H, G, N, M, D, P = (getattr(shape, f) for f in ("heads", "prompt_heads", "queries", "triples", "head_dim", "width"))
    T = shape.cached + N

    def normal(*size: int, spread: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=draw, dtype=dtype) * spread

    projection = LatentProjection(
        normal(H, D, P, spread=P**-0.5), normal(H, D), normal(H, D, P, spread=P**-0.5), normal(H, D)
    )
    latents = LatentKnowledge(normal(M, P), normal(M, P), torch.full((M,), 0.7), projection)
    query, key, value = normal(1, H, N, D), normal(1, G, T, D), normal(1, G, T, D)
    knowledge_query = normal(1, H, N, D)
    keys, values = (torch.empty(1, shape.dense_heads, M + T, D, dtype=dtype) for _ in range(2))
    for head in range(shape.dense_heads):
        one = LatentProjection(*(getattr(projection, f.name)[head : head + 1] for f in dataclasses.fields(projection)))
        dense = dataclasses.replace(latents, projection=one).to_dense()
        keys[0, head, :M], values[0, head, :M] = dense.key[0], dense.value[0]
        keys[0, head, M:], values[0, head, M:] = key[0, head * G // H], value[0, head * G // H]
    return Inputs(query, key, value, knowledge_query, latents, keys, values)
