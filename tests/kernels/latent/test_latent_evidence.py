"""Evidence of latents is that of the dense keys they stand for, in every storage dtype."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import UnsupportedInputError, evidence, knowledge_lse, top_evidence
from kblam_kernels.latent import quantise
from tests.kernels.latent.latent_problems import INF, LatentProblem, make

TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])
PROBLEMS: list[Any] = [
    pytest.param(make(), id="plain"),
    pytest.param(make(scale=0.6), id="scale"),
    pytest.param(make(knowledge_bias=TOKEN_BIAS), id="token-bias"),
    pytest.param(make(knowledge_range=torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)), id="range"),
    pytest.param(make(N=9, prompt_mask=torch.tensor([[False] * 4 + [True] * 5, [True] * 9])), id="left-padded"),
    pytest.param(make(M=0), id="M0"),
]


def options_of(p: LatentProblem) -> dict[str, Any]:
    return {"scale": p.scale, "knowledge_bias": p.knowledge_bias, "knowledge_range": p.knowledge_range}


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_mass_is_that_of_the_dense_keys(problem: LatentProblem) -> None:
    _, lse = problem.run()
    weight = torch.rand(problem.query.shape[:3], generator=torch.Generator().manual_seed(0)).double()
    ours, theirs = (
        evidence(problem.knowledge_query, knowledge, lse, row_weight=weight, **options_of(problem))
        for knowledge in (problem.knowledge, problem.knowledge.to_dense())
    )
    close(ours, theirs)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_knowledge_lse_is_the_share_that_went_to_knowledge(problem: LatentProblem) -> None:
    _, lse = problem.run()
    share = (knowledge_lse(problem.knowledge_query, problem.knowledge, **options_of(problem)) - lse).exp()
    share = share.where(lse > -INF, torch.zeros(()).double())
    mass = evidence(problem.knowledge_query, problem.knowledge, lse, **options_of(problem))
    close(share.sum((1, 2)), mass.sum(-1))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float16, torch.bfloat16], ids=str)
def test_stored_latents_are_taken_as_they_are(dtype: torch.dtype) -> None:
    problem = make(M=20, dtype=torch.float32)
    k = problem.knowledge
    scales: dict[str, Tensor] = {}
    if dtype in (torch.float16, torch.bfloat16):
        key = k.key.to(dtype)
    else:
        key, scales["key_scale"] = quantise(k.key, dtype)
        scales["value_scale"] = scales["key_scale"]
    problem = problem.but(knowledge=dataclasses.replace(k, key=key, value=key, **scales))
    _, lse = problem.run()
    ours, theirs = (
        evidence(problem.knowledge_query, knowledge, lse)
        for knowledge in (problem.knowledge, problem.knowledge.to_dense())
    )
    close(ours, theirs, 1e-4)
    assert not torch.allclose(ours, evidence(problem.knowledge_query, k, lse), rtol=1e-5, atol=0)


def test_the_best_come_first() -> None:
    problem = make(M=40)
    _, lse = problem.run()
    mass = evidence(problem.knowledge_query, problem.knowledge, lse)
    best, index = top_evidence(problem.knowledge_query, problem.knowledge, lse, 5)
    expected = mass.sort(descending=True)
    assert torch.equal(best, expected.values[:, :5])
    assert torch.equal(index, expected.indices[:, :5])


def test_a_gradient_through_latents_is_refused() -> None:
    problem = make()
    _, lse = problem.run()
    with pytest.raises(UnsupportedInputError, match=r"evidence of latents has no gradient.*torch\.no_grad"):
        evidence(problem.knowledge_query.requires_grad_(), problem.knowledge, lse)
    with torch.no_grad():
        evidence(problem.knowledge_query, problem.knowledge, lse)


def test_a_projection_of_other_heads_is_refused() -> None:
    problem = make()
    with pytest.raises(UnsupportedInputError, match="projection is for 4 heads of width 16"):
        evidence(problem.knowledge_query[:, :2], problem.knowledge, problem.run()[1][:, :2])
