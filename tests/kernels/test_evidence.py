"""Attention mass per triple: exact, against what the attention itself did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, UnsupportedInputError, evidence, knowledge_lse, top_evidence
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.rectangular import reference
from tests.kernels.problems import Problem, make

INF = float("inf")
TOKEN_BIAS = torch.tensor([0.3, -INF, 1.5, 0.0, -2.0, 0.7, 0.1])
PROBLEMS = [
    pytest.param(make(), id="plain"),
    pytest.param(make(shared=False, scale=0.6), id="per-row-scale"),
    pytest.param(make(knowledge_bias=TOKEN_BIAS), id="token-bias"),
    pytest.param(make(knowledge_range=torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)), id="range"),
    pytest.param(make(N=9, prompt_mask=torch.tensor([[False] * 4 + [True] * 5, [True] * 9])), id="left-padded"),
    pytest.param(make(M=0), id="M0"),
]


def mass(p: Problem, lse: Tensor, **options: Tensor | None) -> Tensor:
    knowledge = DenseKnowledge(p.knowledge_key, p.knowledge_value)
    return evidence(
        p.knowledge_query,
        knowledge,
        lse,
        scale=p.scale,
        knowledge_bias=p.knowledge_bias,
        knowledge_range=p.knowledge_range,
        **options,  # type: ignore[arg-type]
    )


def knowledge_level(p: Problem) -> Tensor:
    return knowledge_lse(
        p.knowledge_query,
        DenseKnowledge(p.knowledge_key, p.knowledge_value),
        scale=p.scale,
        knowledge_bias=p.knowledge_bias,
        knowledge_range=p.knowledge_range,
    )


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def weights_of(p: Problem) -> Tensor:
    """p[b, h, n, m], read off the attention: with unit vectors as values it returns its own weights."""
    M, D = p.knowledge_key.shape[-2], p.query.shape[-1]
    units = torch.eye(M, D, dtype=torch.float64).expand(p.knowledge_key.shape)
    return p.but(knowledge_value=units, value=torch.zeros_like(p.value)).run()[0][..., :M]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_mass_is_the_sum_of_the_attention_weights(problem: Problem) -> None:
    close(mass(problem, problem.run()[1]), weights_of(problem).sum((1, 2)))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_shares_of_knowledge_and_prompt_sum_to_one(problem: Problem) -> None:
    _, lse = problem.run()
    nothing = problem.but(
        knowledge_key=problem.knowledge_key[..., :0, :],
        knowledge_value=problem.knowledge_value[..., :0, :],
        knowledge_bias=0.0,
        knowledge_range=None,
    )
    seeing = lse > -INF
    prompt_share = (nothing.run()[1] - lse).exp().where(seeing, torch.zeros(()).double())
    total = mass(problem, lse).sum(-1) + prompt_share.sum((1, 2))
    close(total, seeing.sum((1, 2)).double())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_knowledge_lse_is_the_share_that_went_to_knowledge(problem: Problem) -> None:
    _, lse = problem.run()
    share = (knowledge_level(problem) - lse).exp().where(lse > -INF, torch.zeros(()).double())
    close(share.sum((1, 2)), mass(problem, lse).sum(-1))


def test_mass_is_the_derivative_of_lse_by_the_bias() -> None:
    p, step = make(dtype=torch.float64), 1e-2
    measured = mass(p, p.run()[1])
    for m in range(7):
        bump = torch.zeros(7)
        bump[m] = step
        up, down = (p.but(knowledge_bias=sign * bump).run()[1].sum((1, 2)) for sign in (1, -1))
        close(measured[:, m], (up - down) / (2 * step), 1e-4)


def test_row_weight_chooses_heads_and_queries() -> None:
    p = make()
    _, lse = p.run()
    weights = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)).double()
    close(mass(p, lse, row_weight=weights), (weights_of(p) * weights[..., None]).sum((1, 2)))
    close(mass(p, lse, row_weight=torch.tensor([0.0, 1, 0, 0])[:, None]), weights_of(p)[:, 1].sum(1))
    close(mass(p, lse, row_weight=torch.tensor(1 / 20, dtype=torch.float64)), weights_of(p).mean((1, 2)))


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_chunks_change_nothing(problem: Problem, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, lse = problem.run()
    expected = mass(problem, lse), knowledge_level(problem)
    monkeypatch.setattr(reference, "CHUNK", chunk)
    close(mass(problem, lse), expected[0])
    close(knowledge_level(problem), expected[1])


def test_no_knowledge_has_no_mass() -> None:
    p = make(M=0)
    assert mass(p, p.run()[1]).shape == (2, 0)
    assert (knowledge_level(p) == -INF).all()


def test_a_hidden_triple_has_no_mass_and_hidden_knowledge_no_level() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    assert (mass(p, p.run()[1])[:, 1] == 0).all()
    assert (knowledge_level(p.but(knowledge_bias=-INF)) == -INF).all()


def test_both_are_differentiable() -> None:
    p = make(B=1, N=2, M=4, knowledge_bias=TOKEN_BIAS[3:]).leaves()
    knowledge = DenseKnowledge(p.knowledge_key, p.knowledge_value)

    def level(query: Tensor, key: Tensor) -> Tensor:
        return knowledge_lse(query, DenseKnowledge(key, knowledge.value), knowledge_bias=TOKEN_BIAS[3:])

    def shares(query: Tensor, key: Tensor, lse: Tensor) -> Tensor:
        return evidence(query, DenseKnowledge(key, knowledge.value), lse, knowledge_bias=TOKEN_BIAS[3:])

    assert torch.autograd.gradcheck(level, [p.knowledge_query, p.knowledge_key])
    lse = p.run()[1].detach().requires_grad_()
    assert torch.autograd.gradcheck(shares, [p.knowledge_query, p.knowledge_key, lse])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_gives_float32_masses(dtype: torch.dtype) -> None:
    p = make(M=300, D=64).to(dtype)
    exact = p.to(torch.float64)
    shares = mass(p, p.run()[1])
    assert shares.dtype == torch.float32
    close(shares.double(), mass(exact, exact.run()[1]), 1e-5)


def test_the_best_come_first_and_hidden_triples_last() -> None:
    p = make(knowledge_bias=TOKEN_BIAS)
    _, lse = p.run()
    knowledge = DenseKnowledge(p.knowledge_key, p.knowledge_value)
    best, index = top_evidence(p.knowledge_query, knowledge, lse, 3, knowledge_bias=TOKEN_BIAS)
    expected = mass(p, lse).sort(descending=True)
    assert torch.equal(best, expected.values[:, :3])
    assert torch.equal(index, expected.indices[:, :3])
    best, index = top_evidence(p.knowledge_query, knowledge, lse, 100, knowledge_bias=TOKEN_BIAS)
    assert (index[:, -1] == 1).all()
    assert (best[:, -1] == 0).all()
    with pytest.raises(UnsupportedInputError, match="k must be at least 1; got 0"):
        top_evidence(p.knowledge_query, knowledge, lse, 0)


def test_a_gradient_of_row_weight_is_refused() -> None:
    p = make()
    with pytest.raises(UnsupportedInputError, match=r"row_weight\.detach"):
        mass(p, p.run()[1], row_weight=torch.ones(1, requires_grad=True))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "per-row"])
def test_the_op_is_a_good_citizen(shared: bool) -> None:
    p = make(shared=shared, dtype=torch.float32, knowledge_range=torch.tensor([[0, 7], [2, 5]])).leaves()
    _, lse = p.run()
    weight = torch.ones(lse.shape)
    tensors = (p.knowledge_query, p.knowledge_key, None, None, None, lse.detach().requires_grad_(), TOKEN_BIAS[None])
    torch.library.opcheck(evidence_mass, (*tensors, p.knowledge_range, weight, 0.25, "reference"))
