"""Inputs of a shape, and what results on them are judged by.

One random knowledge base for all: latents, and the dense keys and values that they stand for. Rounding those to 16 bits
makes the two a little different functions, so each layout has its own float64 result.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmarks.operands import Operands
from benchmarks.shapes import Shape
from kblam_kernels import DenseKnowledge, LatentKnowledge, LatentProjection, evidence, rectangular_attention
from kblam_kernels.latent import quantise
from tests import tolerances

Knowledge = DenseKnowledge | LatentKnowledge
Bundle = TypeVar("Bundle", "Problem", LatentKnowledge, LatentProjection)
# log C - log M for C = 100 and M = 10,000, as far as bfloat16 has it: peers carry it in a bfloat16 mask.
BIAS = -4.625


@dataclass(frozen=True)
class Judge:
    """The float64 result, and how far plain PyTorch of the measured dtype is from it."""

    exact: Tensor
    allowed: float


@dataclass(frozen=True)
class Problem:
    """Tensors of a shape; the query serves both blocks, because SDPA and FlexAttention take one."""

    query: Tensor
    key: Tensor
    value: Tensor
    latents: LatentKnowledge

    @functools.cached_property
    def dense(self) -> DenseKnowledge:
        """What the latents stand for."""
        return self.latents.to_dense()

    @functools.cached_property
    def bias(self) -> Tensor:
        """A tensor, as an adapter holds it: a Python number would be copied to the device in every call."""
        return torch.tensor(BIAS, device=self.query.device)

    @functools.cached_property
    def row_weight(self) -> Tensor:
        """One over the rows of a batch row: evidence is then a mean."""
        return torch.tensor(1 / (self.query.shape[1] * self.query.shape[2]), device=self.query.device)

    @property
    def no_keys(self) -> DenseKnowledge:
        """Dense knowledge of no token."""
        return DenseKnowledge.empty(
            self.query.shape[1], self.query.shape[3], dtype=self.query.dtype, device=self.query.device
        )

    @property
    def operands(self) -> Operands:
        """What peers take."""
        return Operands(self.query, self.key, self.value, self.dense.key, self.dense.value, BIAS)

    @functools.cached_property
    def _levels(self) -> dict[bool, Tensor]:
        return {}

    def levels(self, latent: bool) -> Tensor:
        """float32 lse of the specification, on latents or on dense knowledge: one for whoever computes evidence."""
        if latent not in self._levels:
            knowledge = self.latents if latent else self.dense
            self._levels[latent] = attention(self, knowledge, self.query.dtype)[1].float()
        return self._levels[latent]

    def clone(self) -> Problem:
        """The same numbers in other memory."""
        return _each(Tensor.clone, self)

    def quantised(self, dtype: torch.dtype, tokens: int | None = None) -> LatentKnowledge:
        """The latents, all or the first few, in one byte a number, with the norm of the keys before they were."""
        latents = self.latents
        key, key_scale = quantise(latents.key[:tokens], dtype)
        value, value_scale = quantise(latents.value[:tokens], dtype)
        return LatentKnowledge(key, value, latents.norm[:tokens], latents.projection, key_scale, value_scale)


def problem_of(shape: Shape, device: str, dtype: torch.dtype) -> Problem:
    """Random inputs, the same for every implementation."""
    draw = torch.Generator(device).manual_seed(0)
    model, P = shape.model, shape.model.latent_width

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=draw, device=device).mul_(scale).to(dtype)

    heads = (model.query_heads, model.head_dim)
    projection = LatentProjection(
        normal(*heads, P, scale=P**-0.5), normal(*heads), normal(*heads, P, scale=P**-0.5), normal(*heads)
    )
    norm = torch.rand(shape.M, generator=draw, device=device) * 0.4 + 0.5
    prompt = (shape.B, model.key_heads, shape.T, model.head_dim)
    return Problem(
        normal(shape.B, model.query_heads, shape.N, model.head_dim),
        normal(*prompt),
        normal(*prompt),
        LatentKnowledge(normal(shape.M, P), normal(shape.M, P), norm, projection),
    )


def attention_judge(x: Problem, knowledge: Knowledge) -> Judge:
    """Of the specification, in float64 and in the measured dtype."""
    exact, plain = (attention(x, knowledge, dtype)[0] for dtype in (torch.float64, x.query.dtype))
    return Judge(exact, tolerances.relative_error(plain, exact))


def evidence_judge(x: Problem, knowledge: Knowledge) -> Judge:
    """Of the specification, in float64 and in the measured dtype, from one lse."""
    lse = x.levels(isinstance(knowledge, LatentKnowledge))

    def masses(dtype: torch.dtype) -> Tensor:
        # Masses of heads add up.
        found = torch.zeros(len(lse), knowledge.num_tokens, dtype=torch.float64, device=lse.device)
        for heads, _, part in _groups(x, knowledge, dtype):
            level = lse[:, heads].double() if dtype == torch.float64 else lse[:, heads]
            query = x.query[:, heads].to(dtype)
            found += evidence(query, part, level, knowledge_bias=BIAS, row_weight=x.row_weight, backend="reference")
        return found

    exact = masses(torch.float64)
    return Judge(exact, tolerances.relative_error(masses(x.query.dtype), exact))


def attention(x: Problem, knowledge: Knowledge, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(output, lse) of the specification computed in `dtype`, a key head at a time: a million keys and values of all
    heads in float64 would not fit."""
    parts = [
        rectangular_attention(
            x.query[:, heads].to(dtype),
            x.key[:, group].to(dtype),
            x.value[:, group].to(dtype),
            part,
            knowledge_bias=BIAS,
            return_lse=True,
            backend="reference",
        )
        for heads, group, part in _groups(x, knowledge, dtype)
    ]
    outputs, levels = zip(*parts, strict=True)
    return torch.cat(outputs, 1), torch.cat(levels, 1)


def _groups(x: Problem, knowledge: Knowledge, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Knowledge]]:
    """(query heads, key heads, their knowledge computed with in `dtype`)."""
    Hq, Hkv = x.query.shape[1], x.key.shape[1]
    if isinstance(knowledge, LatentKnowledge):
        yield slice(Hq), slice(Hkv), _in_float64(knowledge) if dtype == torch.float64 else knowledge
        return
    for head in range(Hkv):
        heads = slice(head * Hq // Hkv, (head + 1) * Hq // Hkv)
        yield (
            heads,
            slice(head, head + 1),
            DenseKnowledge(*(t[heads].to(dtype) for t in (knowledge.key, knowledge.value))),
        )


def _in_float64(latents: LatentKnowledge) -> LatentKnowledge:
    """The same numbers, computed with in float64; 16-bit latents are converted chunk by chunk, later."""
    projection = _each(Tensor.double, latents.projection)
    key, value = latents.key, latents.value
    if key.dtype == torch.float32:
        key, value = key.double(), value.double()
    return dataclasses.replace(latents, key=key, value=value, norm=latents.norm.double(), projection=projection)


def _each(change: Callable[[Tensor], Tensor], bundle: Bundle) -> Bundle:
    """Every tensor of a bundle, and of bundles in it, changed."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(bundle):
        value = getattr(bundle, field.name)
        if value is not None:
            changed[field.name] = change(value) if isinstance(value, Tensor) else _each(change, value)
    return dataclasses.replace(bundle, **changed)
