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
from tests.kernels.problems import Problem, make, visible_columns
from tests.kernels.test_ops import problems

INF = float("inf")


def by_autograd(problem: Problem, seed: int = 0) -> tuple[Tensor, ...]:
    """`Problem.gradients` in float64, by autograd through scores, exponentials and sums written down one by one."""
    p = problem.to(torch.float64)
    if isinstance(p.knowledge_bias, Tensor):
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
