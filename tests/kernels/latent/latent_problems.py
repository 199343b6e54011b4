"""Random attention to latents, and the same attention to what they stand for: dense keys and values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam_kernels import LatentKnowledge, rectangular_attention
from kblam_kernels.knowledge import SCALED_DTYPES, dequantise
from kblam_kernels.latent import absorb, quantise

INF = float("inf")


@dataclass(frozen=True)
class LatentProblem:
    """One call of `rectangular_attention` on latents; fields as its arguments."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge: LatentKnowledge
    knowledge_query: Tensor
    knowledge_bias: float | Tensor = 0.0
    prompt_mask: Tensor | None = None
    window: int | None = None
    knowledge_range: Tensor | None = None
    scale: float | None = None
    skip_threshold: float = 0.0
    int8_products: bool = False

    def but(self, **changes: Any) -> LatentProblem:
        """This problem with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to(self, dtype: torch.dtype, storage: torch.dtype | None = None) -> LatentProblem:
        """Every tensor of the computation in another dtype; the latents in `storage` where one is given."""
        k, p = self.knowledge, self.knowledge.projection
        projection = dataclasses.replace(p, **{f.name: getattr(p, f.name).to(dtype) for f in dataclasses.fields(p)})
        norm = k.norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
        names = ("query", "key", "value", "knowledge_query")
        latents = (dequantise(k.key, k.key_scale, torch.float64), dequantise(k.value, k.value_scale, torch.float64))
        scales: tuple[Tensor | None, Tensor | None] = (None, None)
        if storage in SCALED_DTYPES:
            (key, key_scale), (value, value_scale) = (quantise(latent, storage) for latent in latents)
            scales = (key_scale, value_scale)
        else:
            key, value = (latent.to(storage or dtype) for latent in latents)
        return self.but(
            knowledge=LatentKnowledge(key, value, norm, projection, *scales),
            **{name: getattr(self, name).to(dtype) for name in names},
        )

    def on(self, device: str) -> LatentProblem:
        """Every tensor on another device."""

        def moved(owner: Any) -> dict[str, Any]:
            fields = {f.name: getattr(owner, f.name) for f in dataclasses.fields(owner)}
            return {name: value.to(device) for name, value in fields.items() if isinstance(value, Tensor)}

        k = self.knowledge
        projection = dataclasses.replace(k.projection, **moved(k.projection))
        return self.but(**moved(self), knowledge=LatentKnowledge(**moved(k), projection=projection))

    def rows(self, rows: slice) -> LatentProblem:
        """Some rows of the batch."""
        changes = {name: getattr(self, name)[rows] for name in ("query", "key", "value", "knowledge_query")}
        for name in ("prompt_mask", "knowledge_range"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)[rows]
        if isinstance(self.knowledge_bias, Tensor) and self.knowledge_bias.dim() == 2:
            changes["knowledge_bias"] = self.knowledge_bias[rows]
        return self.but(**changes)

    def run(self, backend: str = "reference", dense: bool = False) -> tuple[Tensor, Tensor]:
        """(output, lse), on the latents or on the dense knowledge that they stand for."""
        return rectangular_attention(
            self.query,
            self.key,
            self.value,
            self.knowledge.to_dense() if dense else self.knowledge,
            self.knowledge_query,
            scale=self.scale,
            knowledge_bias=self.knowledge_bias,
            prompt_mask=self.prompt_mask,
            window=self.window,
            knowledge_range=self.knowledge_range,
            skip_threshold=0.0 if dense else self.skip_threshold,
            int8_products=self.int8_products,
            return_lse=True,
            backend=backend,
        )

    def exact(self) -> tuple[Tensor, Tensor]:
        """(output, lse) of the dense specification in float64, on exactly these (rounded) latents and weights."""
        return self.to(torch.float64).run(dense=True)


def make(
    B: int = 2,
    H: int = 4,
    G: int = 2,
    N: int = 3,
    T: int = 9,
    M: int = 7,
    D: int = 16,
    P: int = 24,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **options: Any,
) -> LatentProblem:
    """B rows, H query heads, G key heads, N new of T prompt tokens, M latents of width P for heads of width D."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    outputs = 2 * H * D  # two slots, of which the second is used
    absorbed = absorb(
        normal(outputs, P) * P**-0.5,
        normal(outputs),
        normal(outputs, P) * P**-0.5,
        normal(outputs),
        num_slots=2,
        num_heads=H,
        head_dim=D,
    )
    key = normal(M, P)
    knowledge = LatentKnowledge(key, normal(M, P), absorbed.key_norm(key), absorbed.slots[1])
    problem = LatentProblem(
        normal(B, H, N, D), normal(B, G, T, D), normal(B, G, T, D), knowledge, normal(B, H, N, D), **options
    )
    return problem if dtype == torch.float64 else problem.to(dtype)
