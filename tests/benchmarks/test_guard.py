"""A guard against slow kernels: the least times of turns, as ratios within one process. Thresholds are far below what
is measured, so that a busy machine does not fail them; what a user decides by is in docs/performance.md."""

from __future__ import annotations

import pytest
import torch

from kblam.bench import peers, timing
from kblam.bench.problems import BIAS, Problem, problem_of
from kblam.bench.shapes import MODELS, of
from kblam_kernels import DenseKnowledge, LatentKnowledge, rectangular_attention
from kblam_kernels.common import native

TURNS = 9
TRIPLES = 4000


@pytest.fixture(scope="module")
def problem() -> Problem:
    if (reason := native.unavailable()) is not None:
        pytest.skip(reason)
    return problem_of(of(MODELS["llama-3-8b"], "decode", TRIPLES), "cpu", torch.bfloat16)


def ours(x: Problem, knowledge: DenseKnowledge | LatentKnowledge, backend: str) -> timing.Call:
    return lambda: rectangular_attention(x.query, x.key, x.value, knowledge, knowledge_bias=BIAS, backend=backend)


def times_as_fast(fast: timing.Call, slow: timing.Call) -> float:
    with torch.no_grad():
        turns = timing.turns({"fast": fast, "slow": slow}, TURNS)
    return min(turn["slow"] for turn in turns) / min(turn["fast"] for turn in turns)


def test_latents_by_our_kernel_are_faster_than_in_plain_pytorch(problem: Problem) -> None:
    assert times_as_fast(ours(problem, problem.latents, "cpu"), ours(problem, problem.latents, "reference")) > 1.5


def test_latents_are_faster_than_sdpa_on_a_static_cache(problem: Problem) -> None:
    sdpa = peers.PEERS["sdpa static cache"](problem.operands)
    assert times_as_fast(ours(problem, problem.latents, "cpu"), sdpa) > 1.2


def test_dense_knowledge_is_not_much_slower_than_sdpa(problem: Problem) -> None:
    sdpa = peers.PEERS["sdpa static cache"](problem.operands)
    assert times_as_fast(ours(problem, problem.dense, "cpu"), sdpa) > 0.5
