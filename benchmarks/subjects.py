"""Who is measured on a shape: our dense and latent paths and the peers, each with what it is judged by.

One random knowledge base for all: latents, and the dense keys and values that they stand for. Rounding those to 16 bits
makes the two a little different functions, so each layout has its own float64 result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.shapes import Shape, Work
from kblam_kernels import (
    DenseKnowledge,
    LatentKnowledge,
    LatentProjection,
    dispatch,
    evidence,
    explain,
    rectangular_attention,
)
from kblam_kernels.evidence.backends import EVIDENCE_BACKENDS
from kblam_kernels.evidence.reference import mass
from kblam_kernels.latent import quantise
from kblam_kernels.rectangular import reference
from kblam_kernels.rectangular.interface import request_of
from tests import tolerances

Knowledge = DenseKnowledge | LatentKnowledge
Call = Callable[[], Tensor]
OURS = ("kblam dense", "kblam latent", "kblam latent int8", "kblam latent fp8", "kblam materialise")
# Which of them a phase has: keys and values are not made anew for one token, and evidence reads keys alone.
OURS_IN = {"prefill": OURS, "question": OURS, "decode": OURS[:4], "evidence": OURS[:2]}
QUANTISED = {OURS[2]: torch.int8, OURS[3]: torch.float8_e4m3fn}
# log C - log M for C = 100 and M = 10,000, as far as bfloat16 has it: peers carry it in a bfloat16 mask.
BIAS = -4.625


@dataclass(frozen=True)
class Judge:
    """The float64 result, and how far plain PyTorch of the measured dtype is from it."""

    exact: Tensor
    allowed: float


@dataclass(frozen=True)
class Subject:
    """One implementation on one shape.

    Args:
        name: of the implementation.
        is_ours: held to the tolerance of the tests; peers to a looser one.
        build: makes the call; what it allocates is not timed.
        judge: computed when first asked for.
        work: what the call must do at least.
        backend: which of our backends serves; None for peers.
    """

    name: str
    is_ours: bool
    build: Callable[[], Call]
    judge: Callable[[], Judge]
    work: Work
    backend: str | None = None


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

    @property
    def no_keys(self) -> DenseKnowledge:
        """Dense knowledge of no token."""
        return DenseKnowledge.empty(
            self.query.shape[1], self.query.shape[3], dtype=self.query.dtype, device=self.query.device
        )

    @functools.cached_property
    def operands(self) -> peers.Operands:
        """What peers take."""
        return peers.Operands(self.query, self.key, self.value, self.dense.key, self.dense.value, BIAS)

    def in_float64(self, latents: LatentKnowledge) -> LatentKnowledge:
        """The same numbers, computed with in float64; 16-bit latents are converted chunk by chunk, later."""
        p = latents.projection
        projection = LatentProjection(*(t.double() for t in (p.key_weight, p.key_bias, p.value_weight, p.value_bias)))
        key, value = latents.key, latents.value
        if key.dtype == torch.float32:
            key, value = key.double(), value.double()
        return LatentKnowledge(key, value, latents.norm.double(), projection, latents.key_scale, latents.value_scale)

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


def subjects(shape: Shape, device: str, dtype: torch.dtype) -> Iterator[Subject]:
    """Ours first. Nothing large is made before a subject is built or judged."""
    x = problem_of(shape, device, dtype)
    yield from _evidence_subjects(shape, x) if shape.phase == "evidence" else _attention_subjects(shape, x)


def _attention_subjects(shape: Shape, x: Problem) -> Iterator[Subject]:
    dense_judge = functools.cache(lambda: attention_judge(x, x.dense))
    bias = torch.tensor(BIAS, device=x.query.device)

    def call(knowledge: Knowledge) -> Call:
        # The bias is a tensor, as an adapter holds it: a Python number would be copied to the device in every call.
        return lambda: rectangular_attention(x.query, x.key, x.value, knowledge, knowledge_bias=bias)

    def backend(knowledge: Knowledge) -> str | None:
        return explain(x.query, x.key, x.value, knowledge).backend

    def quantised(name: str, dtype: torch.dtype) -> Subject:
        stored = functools.cache(lambda: x.quantised(dtype))
        serves = backend(x.quantised(dtype, tokens=0))
        return Subject(
            name, True, lambda: call(stored()), lambda: attention_judge(x, stored()), shape.quantised_work, serves
        )

    def materialised() -> Tensor:
        return call(x.latents.to_dense())()

    judge = functools.partial(attention_judge, x, x.latents)
    yield Subject(OURS[1], True, lambda: call(x.latents), judge, shape.latent_work, backend(x.latents))
    # A backend is chosen by dtypes and widths: no need to make all keys before it is their turn.
    for name, dtype in QUANTISED.items():
        yield quantised(name, dtype)
    yield Subject(OURS[0], True, lambda: call(x.dense), dense_judge, shape.dense_work, backend(x.no_keys))
    if OURS[4] in OURS_IN[shape.phase]:
        yield Subject(OURS[4], True, lambda: materialised, dense_judge, shape.materialise_work, backend(x.no_keys))
    for name, peer in peers.PEERS.items():
        yield Subject(name, False, functools.partial(lambda p: p(x.operands), peer), dense_judge, shape.dense_work)


def _evidence_subjects(shape: Shape, x: Problem) -> Iterator[Subject]:
    weight = torch.tensor(1 / (x.query.shape[1] * x.query.shape[2]), device=x.query.device)
    levels = functools.cache(lambda latent: lse_of(x, x.latents if latent else x.dense))
    dense_judge = functools.cache(lambda: evidence_judge(x, x.dense, levels(False), weight))

    def call(latent: bool) -> Call:
        knowledge, lse = (x.latents if latent else x.dense), levels(latent)
        return lambda: evidence(x.query, knowledge, lse, knowledge_bias=bias, row_weight=weight)

    bias = torch.tensor(BIAS, device=x.query.device)

    def backend(knowledge: Knowledge) -> str:
        return dispatch.choose(
            lambda by_name: request_of(by_name, knowledge, x.query), dispatch.AUTO, EVIDENCE_BACKENDS
        )

    yield Subject(
        OURS[1],
        True,
        lambda: call(True),
        lambda: evidence_judge(x, x.latents, levels(True), weight),
        shape.latent_evidence_work,
        backend(x.latents),
    )
    yield Subject(OURS[0], True, lambda: call(False), dense_judge, shape.dense_evidence_work, backend(x.no_keys))
    for name, peer in peers.EVIDENCE_PEERS.items():
        build = functools.partial(lambda p: p(x.operands, levels(False)), peer)
        yield Subject(name, False, build, dense_judge, shape.dense_evidence_work)


def attention_judge(x: Problem, knowledge: Knowledge) -> Judge:
    """Of the specification, in float64 and in the measured dtype."""
    exact, plain = (_attention(x, knowledge, dtype)[0] for dtype in (torch.float64, x.query.dtype))
    return Judge(exact, tolerances.relative_error(plain, exact))


def lse_of(x: Problem, knowledge: Knowledge) -> Tensor:
    """float32 lse of the specification: the same for whoever computes evidence."""
    return _attention(x, knowledge, x.query.dtype)[1].float()


def evidence_judge(x: Problem, knowledge: Knowledge, lse: Tensor, weight: Tensor) -> Judge:
    """Of the specification, in float64 and in the measured dtype, from one lse."""
    if isinstance(knowledge, DenseKnowledge):
        # Straight to the specification, which converts keys chunk by chunk.
        rows, bias = x.query.double(), torch.full((1, knowledge.num_tokens), BIAS, device=lse.device)
        scale, weights = float(rows.shape[-1] ** -0.5), weight.double().expand(rows.shape[:3])
        exact = mass(rows, knowledge.key, None, None, None, lse.double(), bias, None, weights, scale)
    else:
        exact = evidence(
            x.query.double(),
            x.in_float64(knowledge),
            lse.double(),
            knowledge_bias=BIAS,
            row_weight=weight,
            backend="reference",
        )
    plain = evidence(x.query, knowledge, lse, knowledge_bias=BIAS, row_weight=weight, backend="reference")
    return Judge(exact, tolerances.relative_error(plain, exact))


def _attention(x: Problem, knowledge: Knowledge, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    query, key, value = (t.to(dtype) for t in (x.query, x.key, x.value))
    if isinstance(knowledge, DenseKnowledge):
        # Straight to the specification, which converts keys and values chunk by chunk.
        bias = torch.full((1, knowledge.num_tokens), BIAS, device=query.device)
        scale = float(query.shape[-1] ** -0.5)
        return reference.forward(
            query, key, value, knowledge.key, knowledge.value, query, bias, None, None, scale, None
        )
    knowledge = x.in_float64(knowledge) if dtype == torch.float64 else knowledge
    return rectangular_attention(
        query, key, value, knowledge, knowledge_bias=BIAS, return_lse=True, backend="reference"
    )
