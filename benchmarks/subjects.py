"""Who is measured on a shape: our dense and latent paths and the peers, each with what it is judged by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.composed import composed_latent
from benchmarks.problems import BIAS, Judge, Knowledge, Problem, attention_judge, evidence_judge
from benchmarks.shapes import Shape, Work
from kblam_kernels import evidence, explain, rectangular_attention

Call = Callable[[], Tensor]
LATENT, INT8, FP8, DENSE, MATERIALISE = (
    f"kblam {layout}" for layout in ("latent", "latent int8", "latent fp8", "dense", "materialise")
)
OURS = (LATENT, INT8, FP8, DENSE, MATERIALISE)
# Which of them a phase has: keys and values are not made anew for one token, and evidence reads keys alone.
OURS_IN = {"prefill": OURS, "question": OURS, "decode": (LATENT, INT8, FP8, DENSE), "evidence": (LATENT, DENSE)}
QUANTISED = {INT8: torch.int8, FP8: torch.float8_e4m3fn}
COMPOSED = "composed latent"


@dataclass(frozen=True)
class Subject:
    """One implementation on one shape.

    Args:
        name: of the implementation.
        is_ours: held to the tolerance of the tests; peers to a looser one.
        build: makes the call on a copy of the inputs; what it allocates is not timed.
        judge: computed when first asked for.
        work: what the call must do at least.
        backend: which of our backends serves; None for peers.
        unavailable: why it cannot run here, or None.
    """

    name: str
    is_ours: bool
    build: Callable[[Problem], Call]
    judge: Callable[[], Judge]
    work: Work
    backend: str | None = None
    unavailable: str | None = None


def names(phase: str, *, quick: bool = False) -> list[str]:
    """Of the implementations that a phase has, ours first."""
    ours = list(OURS_IN[phase])
    if phase == "evidence":
        return ours + list(peers.EVIDENCE_PEERS)
    return [*ours, COMPOSED, *(name for name in peers.PEERS if not (quick and name in peers.SLOW))]


def subjects(shape: Shape, x: Problem, *, quick: bool = False) -> Iterator[Subject]:
    """Those of `names`, in its order. Nothing large is made before a subject is built or judged."""
    made = _evidence_subjects(shape, x) if shape.phase == "evidence" else _attention_subjects(shape, x)
    return (subject for subject in made if subject.name in names(shape.phase, quick=quick))


def _attention_subjects(shape: Shape, x: Problem) -> Iterator[Subject]:
    device = str(x.query.device)
    latent_judge = functools.cache(lambda: attention_judge(x, x.latents))
    dense_judge = functools.cache(lambda: attention_judge(x, x.dense))

    def backend(knowledge: Knowledge) -> str | None:
        return explain(x.query, x.key, x.value, knowledge).backend

    def ours(name: str, knowledge: Callable[[Problem], Knowledge], judge: Callable[[], Judge], work: Work) -> Subject:
        # A backend is chosen by dtypes and widths: no need to make all keys before it is their turn.
        serves = backend(x.quantised(QUANTISED[name], tokens=0) if name in QUANTISED else like[name])
        return Subject(name, True, lambda p: _attend(p, knowledge(p)), judge, work, serves)

    like: dict[str, Knowledge] = {DENSE: x.no_keys, LATENT: x.latents}
    yield ours(LATENT, lambda p: p.latents, latent_judge, shape.latent_work)
    for name, dtype in QUANTISED.items():

        def stored(p: Problem, dtype: torch.dtype = dtype) -> Knowledge:
            return p.quantised(dtype)

        judge = functools.partial(lambda stored: attention_judge(x, stored(x)), stored)
        yield ours(name, stored, judge, shape.quantised_work)
    yield ours(DENSE, lambda p: p.dense, dense_judge, shape.dense_work)
    if MATERIALISE in OURS_IN[shape.phase]:
        yield Subject(MATERIALISE, True, _materialised, dense_judge, shape.materialise_work, backend(x.no_keys))
    yield Subject(
        COMPOSED,
        False,
        lambda p: composed_latent(p.query, p.key, p.value, p.latents, BIAS),
        latent_judge,
        shape.latent_work,
    )
    for name, peer in peers.PEERS.items():
        build = functools.partial(lambda peer, p: peer(p.operands), peer)
        yield Subject(name, False, build, dense_judge, shape.dense_work, unavailable=peers.reason_against(name, device))


def _backend_of(x: Problem) -> str:
    """By name on a GPU: a benchmark must not fall back unnoticed."""
    return "triton" if x.query.is_cuda else "auto"


def _attend(x: Problem, knowledge: Knowledge) -> Call:
    backend = _backend_of(x)
    return lambda: rectangular_attention(x.query, x.key, x.value, knowledge, knowledge_bias=x.bias, backend=backend)


def _materialised(x: Problem) -> Call:
    return lambda: _attend(x, x.latents.to_dense())()


def _evidence_subjects(shape: Shape, x: Problem) -> Iterator[Subject]:
    device = str(x.query.device)
    dense_judge = functools.cache(lambda: evidence_judge(x, x.dense))
    backend = _backend_of(x)

    def ours(latent: bool) -> Callable[[Problem], Call]:
        # The lse is an input: one for all copies.
        def build(p: Problem) -> Call:
            knowledge, lse = (p.latents if latent else p.dense), x.levels(latent)
            return lambda: evidence(
                p.query, knowledge, lse, knowledge_bias=p.bias, row_weight=p.row_weight, backend=backend
            )

        return build

    yield Subject(LATENT, True, ours(True), lambda: evidence_judge(x, x.latents), shape.latent_evidence_work, backend)
    yield Subject(DENSE, True, ours(False), dense_judge, shape.dense_evidence_work, backend)
    for name, peer in peers.EVIDENCE_PEERS.items():
        build = functools.partial(lambda peer, p: peer(p.operands, x.levels(False)), peer)
        yield Subject(
            name, False, build, dense_judge, shape.dense_evidence_work, unavailable=peers.reason_against(name, device)
        )
