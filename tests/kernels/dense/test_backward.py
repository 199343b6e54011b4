"""Gradients of attention to dense knowledge: every backward against autograd through PyTorch's own softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import UnsupportedInputError
from kblam_kernels.common import columns
from kblam_kernels.common.call import Saved
from kblam_kernels.common.launch import recording
from kblam_kernels.dense.op import dense_attention
from tests import tolerances
from tests.kernels.dense.test_reference import LargestTensor
from tests.kernels.problems import Problem, make, make_latent, visible_columns
from tests.kernels.test_ops import problems

INF = float("inf")
TOKEN_BIAS = torch.randn(35, generator=torch.Generator().manual_seed(2)).masked_fill(torch.arange(35) % 5 == 1, -INF)


def by_autograd(problem: Problem, seed: int = 0) -> tuple[Tensor, ...]:
    """`Problem.gradients` in float64, by autograd through scores, exponentials and sums written down one by one."""
    p = problem.to(torch.float64)
    if isinstance(p.knowledge_bias, Tensor):  # so that its gradient is not rounded
        p = p.but(knowledge_bias=p.knowledge_bias.double())
    p = p.leaves()
    (B, H, N, D), M = p.query.shape, p.knowledge.num_tokens
    scale = D**-0.5 if p.scale is None else p.scale
    group = H // p.key.shape[1]
    key, value = (t.repeat_interleave(group, 1) for t in (p.key, p.value))
    knowledge = p.knowledge.to_dense() if p.is_latent else p.knowledge
    seen = visible_columns(p)[:, None] if p.key.shape[2] else torch.zeros(B, 1, N, 0, dtype=torch.bool)
    token = torch.arange(M)
    inside = torch.ones(B, 1, 1, M, dtype=torch.bool)
    if p.knowledge_range is not None:
        start, end = p.knowledge_range[:, 0, None], p.knowledge_range[:, 1, None]
        inside = ((token >= start) & (token < end))[:, None, None]
    bias = torch.as_tensor(p.knowledge_bias, dtype=torch.float64).expand(B, M)[:, None, None]
    inside = inside & (bias > -INF)
    inside = inside & (seen.any(-1, keepdim=True) | torch.tensor(p.is_alone))
    visible = torch.cat([seen.expand(B, H, N, -1), inside.expand(B, H, N, M)], -1)
    scores = torch.cat([p.query @ key.mT * scale, p.knowledge_query @ knowledge.key.mT * scale + bias], -1)
    scores = torch.where(visible, scores, -1e300)
    level = scores.detach().amax(-1, keepdim=True)
    weights = torch.exp(scores - level) * visible
    total = weights.sum(-1, keepdim=True)
    blind = total == 0
    values = torch.cat([value, knowledge.value.expand(B, H, M, D)], 2)
    output = weights @ values / total.masked_fill(blind, 1.0)
    lse = torch.where(blind, -INF, level + total.masked_fill(blind, 1.0).log())[..., 0]
    return torch.autograd.grad(p.loss(output, lse, seed), [getattr(p, name) for name in p.differentiable])


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("layout", ["dense", "dense of each row", "latent"])
@pytest.mark.parametrize("hides", [False, True], ids=["plain", "hides"])
@pytest.mark.parametrize(("B", "N"), [(0, 3), (2, 0), (0, 0)])
def test_nothing_to_attend_has_gradients_of_zero(
    B: int, N: int, hides: bool, layout: str, backend: str, request: pytest.FixtureRequest
) -> None:
    """No batch or no new tokens: of the shapes of what they are gradients of."""
    if backend == "cpu":
        request.getfixturevalue("library")
    shape = {"B": 2, "N": 3, "dtype": torch.float32}
    p = make_latent(**shape) if layout == "latent" else make(**shape, shared=layout == "dense")
    p = p.rows(slice(0, B))
    p = p.but(query=p.query[:, :, :N], knowledge_query=p.knowledge_query[:, :, :N])
    T, M = p.key.shape[2], p.knowledge.num_tokens
    for bias in (0.0, torch.zeros(M), torch.zeros(B, M)):
        p = p.but(knowledge_bias=bias)
        if hides:
            ranges = torch.tensor([[0, M // 2]] * B, dtype=torch.int32).view(B, 2)
            p = p.but(prompt_mask=torch.arange(T).expand(B, T) > 0, knowledge_range=ranges)
        leaves = p.leaves()
        output, lse = leaves.run(backend)
        (output.sum() + lse.sum()).backward()
        for name in p.differentiable:
            gradient = getattr(leaves, name).grad
            assert gradient is not None, name
            assert gradient.shape == getattr(leaves, name).shape
            assert not gradient.any()


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], names: tuple[str, ...]) -> None:
    for name, ours, exact in zip(names, found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-7, msg=f"gradient of {name}")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_call_has_the_gradients_of_autograd(data: st.DataObject) -> None:
    problem = data.draw(problems("dense", few=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "CHUNK", data.draw(st.sampled_from([2, 4096])))
        close(problem.gradients(), by_autograd(problem), problem.differentiable)


# One case of each branch of the kernels, at shapes that span two of their tiles in the interpreter.
TRITON: dict[str, Problem] = {
    "gqa-left-padded": make(B=2, H=2, G=1, N=35, T=35, M=3, prompt_mask=torch.arange(35) >= torch.tensor([[0], [34]])),
    "window-cache": make(B=1, H=1, G=1, N=34, T=70, M=1, window=20),
    "bias-range": make(
        B=2, H=1, G=1, N=2, T=3, M=35, knowledge_bias=TOKEN_BIAS, knowledge_range=torch.tensor([[0, 33], [33, 99]])
    ),
    "row-bias-own-knowledge": make(B=2, H=1, G=1, N=2, T=2, M=5, shared=False, knowledge_bias=torch.randn(2, 5)),
    "two-parts-of-a-head": make(B=1, H=1, G=1, N=3, T=3, M=4, D=40, scale=-0.3),
    "M0": make(B=1, H=1, G=1, N=2, T=3, M=0, knowledge_bias=torch.tensor(0.5)),
    "alone": make(B=2, H=1, G=1, N=2, T=0, M=5, is_alone=True, knowledge_range=torch.tensor([[0, 3], [2, 2]])),
}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("name", TRITON)
def test_triton_is_near_float64(name: str) -> None:
    problem = TRITON[name].to(torch.float32)
    expected, plain = by_autograd(problem), problem.gradients()
    found = problem.gradients(backend="triton")
    for each, ours, exact, theirs in zip(problem.differentiable, found, expected, plain, strict=True):
        assert ours.dtype == torch.float32, each
        tolerances.check_output(ours, exact, theirs)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("window", [2**31 - 1, 2**31, 2**63 - 1])
def test_a_window_without_end_is_none(window: int) -> None:
    """Added to a column it must not pass the largest integer."""
    problem = make(B=1, H=1, G=1, N=35, T=35, M=3, dtype=torch.float32)
    for ours, theirs in zip(
        problem.but(window=window).gradients(backend="triton"), problem.gradients(backend="triton"), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_bias_that_is_a_view_of_one_row_has_a_gradient_for_each_row() -> None:
    problem = make(B=3, M=7)
    draw = torch.randn(7, dtype=torch.float64)
    apart = draw.float().expand(3, 7).clone().requires_grad_()
    as_view = draw.float().expand(3, 7).requires_grad_()
    made = [
        torch.autograd.grad(problem.loss(*problem.but(knowledge_bias=bias).run()), bias)[0] for bias in (apart, as_view)
    ]
    torch.testing.assert_close(made[1], made[0])
    assert made[0][1].abs().max() > 0
    by_function = torch.func.grad(lambda bias: problem.loss(*problem.but(knowledge_bias=bias).run()))(as_view.detach())
    torch.testing.assert_close(by_function, made[0])


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_triton_takes_16_bits(dtype: torch.dtype) -> None:
    problem = TRITON["bias-range"].to(dtype)
    expected, plain = by_autograd(problem), problem.gradients()
    for ours, exact, theirs in zip(problem.gradients(backend="triton"), expected, plain, strict=True):
        assert ours.dtype == theirs.dtype
        assert tolerances.relative_error(ours, exact) < 4 * tolerances.relative_error(theirs, exact) + 8 * 2.0**-8


@pytest.mark.usefixtures("interpreted")
def test_what_triton_does_not_see_may_be_nan() -> None:
    mask = torch.tensor([[False, False, True], [True, True, True]])
    ranges = torch.tensor([[0, 2], [1, 3]])
    problem = make(B=2, H=1, G=1, N=3, T=3, M=4, prompt_mask=mask, knowledge_range=ranges, dtype=torch.float32)
    expected = problem.gradients(backend="triton")
    hidden, blind = ~mask[:, None, :, None], torch.tensor([[True, True, False], [False] * 3])[:, None, :, None]
    unseen = torch.tensor([False, False, False, True])[:, None]
    where = dict.fromkeys(("key", "value"), hidden) | dict.fromkeys(("query", "knowledge_query"), blind)
    where |= dict.fromkeys(("knowledge_key", "knowledge_value"), unseen)
    poisoned = {name: getattr(problem, name).masked_fill(there, float("nan")) for name, there in where.items()}
    for ours, theirs in zip(problem.but(**poisoned).gradients(backend="triton"), expected, strict=True):
        assert torch.equal(ours, theirs)


def launches_for(*wanted: str) -> list[tuple[str, bool]]:
    """Kernels that a backward launches for some gradients, and whether each is about knowledge."""
    call = make(knowledge_bias=torch.zeros(7), dtype=torch.bfloat16).call()[1]
    results = call.empty()
    with recording("sm_80") as made:
        dense_attention.named("triton").backward(call, Saved(results, results, wanted, "triton"))
    return [(launch.kernel.__name__, launch.arguments["IS_KNOWLEDGE"]) for launch in made.launches]


def test_triton_launches_what_is_needed() -> None:
    rows, columns = "dense_backward_rows_kernel", "dense_backward_columns_kernel"
    assert launches_for("knowledge_query") == [(rows, True)]
    assert launches_for("value", "bias") == [(columns, False), (columns, True)]
    assert len(launches_for("query", "key", "knowledge_query", "knowledge_key", "bias")) == 4


def test_triton_keeps_no_matrix_of_queries_and_triples() -> None:
    N = M = 512
    call = make(B=1, H=1, G=1, N=N, T=N, M=M, D=4, knowledge_bias=torch.zeros(M), dtype=torch.bfloat16).call()[1]
    results = call.empty()
    with recording("sm_80"), LargestTensor() as largest:
        dense_attention.named("triton").backward(call, Saved(results, results, call.DIFFERENTIABLE, "triton"))
    assert largest.elements <= N * 4


def test_a_second_derivative_is_refused_by_name() -> None:
    leaves = make(knowledge_bias=torch.zeros(7)).leaves()
    output, lse = leaves.run()
    (first,) = torch.autograd.grad(output.sum() + lse.sum(), leaves.query, create_graph=True)
    with pytest.raises(UnsupportedInputError, match="dense_attention has no second derivative"):
        first.sum().backward()


@pytest.mark.parametrize("name", ["query", "value", "knowledge_query", "knowledge_value", "knowledge_bias"])
@pytest.mark.parametrize("of", ["output", "lse"])
def test_one_gradient_alone_is_the_same(name: str, of: str) -> None:
    problem = make(knowledge_bias=torch.randn(2, 7), prompt_mask=torch.tensor([[False] * 7 + [True] * 2, [True] * 9]))

    def loss(p: Problem) -> Tensor:
        output, lse = p.run()
        return output.square().sum() if of == "output" else lse[lse.isfinite()].square().sum()

    whole = problem.leaves()
    expected: Any = torch.autograd.grad(loss(whole), getattr(whole, name), allow_unused=True)[0]
    alone = problem.but(**{name: getattr(problem, name).clone().requires_grad_()})
    found = torch.autograd.grad(loss(alone), getattr(alone, name))[0]
    assert torch.equal(found, expected)
