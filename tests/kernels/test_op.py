"""The `torch.library` ops: what PyTorch asks of an op, one graph under `torch.compile`, no unwritten memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels.rectangular.op import rectangular_backward, rectangular_forward
from tests.kernels.problems import TENSORS, Problem, make

MASK = torch.tensor([[False] * 9, [False] * 3 + [True] * 6])
RANGES = torch.tensor([[0, 7], [2, 5]], dtype=torch.int32)
ROW_BIAS = torch.randn(2, 7, generator=torch.Generator().manual_seed(5))

PROBLEMS = [
    pytest.param(make(dtype=torch.float32), id="plain"),
    pytest.param(make(dtype=torch.float32, M=0), id="M0"),
    pytest.param(make(dtype=torch.float32, shared=False, knowledge_bias=ROW_BIAS), id="per-row"),
    pytest.param(make(dtype=torch.bfloat16, prompt_mask=MASK, window=4), id="bf16-mask-window"),
    pytest.param(make(N=1, knowledge_range=RANGES, knowledge_bias=0.5), id="decode-range"),
]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def forward_arguments(p: Problem) -> tuple[Any, ...]:
    B, M = p.query.shape[0], p.knowledge_key.shape[-2]
    plain = isinstance(p.knowledge_bias, float) and not p.knowledge_bias
    bias = None if plain else torch.as_tensor(p.knowledge_bias).expand(B, M)
    tensors = (getattr(p, name) for name in TENSORS)
    return (*tensors, bias, p.prompt_mask, p.knowledge_range, 0.25, p.window, "reference")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_opcheck_of_the_forward_op(problem: Problem) -> None:
    torch.library.opcheck(rectangular_forward, forward_arguments(problem.leaves()))


@pytest.mark.parametrize("with_lse_gradient", [True, False])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_opcheck_of_the_backward_op(problem: Problem, with_lse_gradient: bool) -> None:
    arguments = forward_arguments(problem)
    output, lse = rectangular_forward(*arguments)
    lse_gradient = torch.ones_like(lse) if with_lse_gradient else None
    torch.library.opcheck(rectangular_backward, (torch.ones_like(output), lse_gradient, output, lse, *arguments[:-1]))


def call(problem: Problem) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return problem.but(**dict(zip(TENSORS, tensors, strict=True))).run(backend="reference")

    return run


def tensors_of(problem: Problem) -> list[Tensor]:
    return [getattr(problem, name) for name in TENSORS]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_compiles_to_one_graph_with_the_same_gradients(problem: Problem) -> None:
    results = []
    for run in (call(problem), torch.compile(call(problem), fullgraph=True, backend="aot_eager")):
        leaves = tensors_of(problem.leaves())
        output, lse = run(*leaves)
        loss = output.square().sum() + lse.masked_fill(lse.isinf(), 0).sum()
        results.append([output, lse, *torch.autograd.grad(loss, leaves)])
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


def test_one_graph_serves_every_length() -> None:
    compiled = torch.compile(call(make(dtype=torch.float32)), fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(*tensors_of(make(B=3, dtype=torch.float32)))  # no two sizes alike: the compiler would tie them
    with torch._dynamo.config.patch(error_on_recompile=True):
        for B, N, T, M in ((2, 4, 8, 9), (3, 5, 5, 100), (4, 2, 30, 11)):
            problem = make(B=B, N=N, T=T, M=M, dtype=torch.float32)
            for actual, expected in zip(compiled(*tensors_of(problem)), problem.run(), strict=True):
                assert torch.equal(actual, expected)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_model_gets_its_layout_without_a_copy(problem: Problem) -> None:
    output = rectangular_forward(*forward_arguments(problem))[0]
    assert output.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_nothing_is_left_unwritten(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [*problem.run(), *problem.gradients()]
    for name in ("empty", "empty_like"):
        real = getattr(torch, name)

        def poisoned(*args: Any, real: Callable[..., Tensor] = real, **kwargs: Any) -> Tensor:
            tensor = real(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        monkeypatch.setattr(torch, name, poisoned)
    for actual, clean in zip([*problem.run(), *problem.gradients()], expected, strict=True):
        assert torch.equal(actual, clean)
