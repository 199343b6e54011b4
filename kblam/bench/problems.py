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

from kblam.bench.operands import Operands
from kblam.bench.shapes import Shape
from kblam.bench.tolerances import relative_error
from kblam_kernels import DenseKnowledge, LatentKnowledge, LatentProjection, evidence, rectangular_attention
from kblam_kernels.latent import quantise

Knowledge = DenseKnowledge | LatentKnowledge
Bundle = TypeVar("Bundle", "Problem", LatentKnowledge, LatentProjection)
# log C - log M for C = 100 and M = 10,000, as far as bfloat16 has it: peers carry it in a bfloat16 mask.
BIAS = -4.625
# On a CPU dense keys and values of all heads are not made past this: fewer heads are timed, and stand for the others.
MAX_DENSE_BYTES = 3 * 2**30


@dataclass(frozen=True)
class Judge:
    """The float64 result, and how far plain PyTorch of the measured dtype is from it."""

    exact: Tensor
    allowed: float


@dataclass(frozen=True)
class Problem:
    """Tensors of a shape; the query serves both blocks, because SDPA and FlexAttention take one.

    Args:
        query, key, value, latents: of all heads.
        key_heads: the first ones, whose query heads dense knowledge is made for; None is all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    latents: LatentKnowledge
    key_heads: int | None = None

    @functools.cached_property
    def part(self) -> Problem:
        """The heads that have dense knowledge."""
        Hkv = self.key.shape[1]
        if self.key_heads is None or self.key_heads == Hkv:
            return self
        heads = slice(self.key_heads * self.query.shape[1] // Hkv)
        of_keys = slice(self.key_heads)
        latents = dataclasses.replace(self.latents, projection=_each(lambda t: t[heads], self.latents.projection))
        return Problem(self.query[:, heads], self.key[:, of_keys], self.value[:, of_keys], latents)

    @functools.cached_property
    def dense(self) -> DenseKnowledge:
        """What the latents stand for, for the heads of `part`."""
        return self.part.latents.to_dense()

    @functools.cached_property
    def bias(self) -> Tensor:
        """A tensor, as an adapter holds it: a Python number would be copied to the device in every call."""
        return torch.tensor(BIAS, dtype=torch.float32, device=self.query.device)

    @functools.cached_property
    def row_weight(self) -> Tensor:
        """One over the rows of a batch row: evidence is then a mean."""
        return torch.tensor(
            1 / (self.query.shape[1] * self.query.shape[2]), dtype=torch.float32, device=self.query.device
        )

    @property
    def no_keys(self) -> DenseKnowledge:
        """Dense knowledge of no token."""
        return DenseKnowledge.empty(
            self.query.shape[1], self.query.shape[3], dtype=self.query.dtype, device=self.query.device
        )

    @functools.cached_property
    def operands(self) -> Operands:
        """What peers take."""
        part = self.part
        return Operands(part.query, part.key, part.value, self.dense.key, self.dense.value, BIAS)

    @functools.cached_property
    def latent_levels(self) -> Tensor:
        """float32 lse of the specification on latents: one for whoever computes evidence."""
        return attention(self, self.latents, self.query.dtype)[1].float()

    @functools.cached_property
    def dense_levels(self) -> Tensor:
        """The same on dense knowledge."""
        return attention(self, self.dense, self.query.dtype)[1].float()

    def clone(self) -> Problem:
        """The same numbers in other memory."""
        return _each(Tensor.clone, self)

    def stored(self, dtype: torch.dtype) -> LatentKnowledge:
        """All latents in one byte a number; made once."""
        if dtype not in self._stored:
            self._stored[dtype] = self.quantised(dtype)
        return self._stored[dtype]

    @functools.cached_property
    def _stored(self) -> dict[torch.dtype, LatentKnowledge]:
        return {}

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
        return torch.randn(*size, generator=draw, dtype=torch.float32, device=device).mul_(scale).to(dtype)

    heads = (model.query_heads, model.head_dim)
    projection = LatentProjection(
        normal(*heads, P, scale=P**-0.5), normal(*heads), normal(*heads, P, scale=P**-0.5), normal(*heads)
    )
    norm = torch.rand(shape.M, generator=draw, dtype=torch.float32, device=device) * 0.4 + 0.5
    prompt = (shape.B, model.key_heads, shape.T, model.head_dim)
    return Problem(
        normal(shape.B, model.query_heads, shape.N, model.head_dim),
        normal(*prompt),
        normal(*prompt),
        LatentKnowledge(normal(shape.M, P), normal(shape.M, P), norm, projection),
        None if torch.device(device).type == "cuda" else dense_key_heads(shape, dtype.itemsize),
    )


def dense_key_heads(shape: Shape, element_size: int) -> int:
    """How many key heads, with their query heads, have dense knowledge within MAX_DENSE_BYTES: a divisor of all."""
    heads = shape.model.key_heads
    of_one = shape.dense_bytes(shape.model.query_heads // heads, element_size)
    fitting = [count for count in range(1, heads + 1) if heads % count == 0 and count * of_one <= MAX_DENSE_BYTES]
    return max(fitting, default=1)


def attention_judge(x: Problem, knowledge: Knowledge) -> Judge:
    """Of the specification, in float64 and in the measured dtype."""
    exact, plain = (attention(x, knowledge, dtype)[0] for dtype in (torch.float64, x.query.dtype))
    return Judge(exact, relative_error(plain, exact))


def evidence_judge(x: Problem, knowledge: Knowledge) -> Judge:
    """Of the specification, in float64 and in the measured dtype, from one lse."""
    latent = isinstance(knowledge, LatentKnowledge)
    lse = x.latent_levels if latent else x.dense_levels
    x = x if latent else x.part

    def masses(dtype: torch.dtype) -> Tensor:
        # Masses of heads add up.
        found = torch.zeros(len(lse), knowledge.num_tokens, dtype=torch.float64, device=lse.device)
        for heads, _, part in _groups(x, knowledge, dtype):
            level = lse[:, heads].double() if dtype == torch.float64 else lse[:, heads]
            query = x.query[:, heads].to(dtype)
            found += evidence(query, part, level, knowledge_bias=BIAS, row_weight=x.row_weight, backend="reference")
        return found

    exact = masses(torch.float64)
    return Judge(exact, relative_error(masses(x.query.dtype), exact))


def attention(x: Problem, knowledge: Knowledge, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(output, lse) of the specification computed in `dtype`, on dense knowledge of the heads of `part` and a head at a
    time: a million keys and values of all heads in float64 would not fit."""
    if isinstance(knowledge, DenseKnowledge):
        x = x.part
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
    for head in range(Hq):
        one, group = slice(head, head + 1), head * Hkv // Hq
        yield (
            one,
            slice(group, group + 1),
            DenseKnowledge(*(t[one].to(dtype) for t in (knowledge.key, knowledge.value))),
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
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif value is not None and not isinstance(value, int):
            changed[field.name] = _each(change, value)
    return dataclasses.replace(bundle, **changed)
