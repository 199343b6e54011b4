"""Split decode of dense knowledge compiled, on a GPU: real sizes, batch invariance, a list that grows under a graph."""

from __future__ import annotations

import os

import pytest
import torch

from kblam_kernels.rectangular.chunks import MAX_DECODE_QUERIES
from tests.kernels import cases
from tests.kernels.cases import Case, on
from tests.kernels.held import hold
from tests.kernels.problems import Problem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 hides the compiler: use make gpu-check"
    ),
    pytest.mark.usefixtures("poisoned_memory"),
]

# To try the bodies without a GPU: "cpu", with TRITON_INTERPRET=1 and without the two skips above.
DEVICE = "cuda"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
LONG, T = 3001, 777


@DTYPES
@pytest.mark.parametrize("N", [1, 3, MAX_DECODE_QUERIES])
@pytest.mark.parametrize("D", [64, 80, 96, 128, 256])
def test_every_head_dim(D: int, N: int, dtype: torch.dtype) -> None:
    hold(Case(2, N, LONG, D, T=T, H=8, G=2), "triton", dtype, DEVICE)


@DTYPES
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name)
        for case in (
            Case(2, 1, LONG, 128, T=T, H=8, G=8, shared=False),
            Case(3, 2, LONG, 128, T=T, H=8, G=2, changes={"left": cases.LEFT, "window300": cases.window(300)}),
            Case(3, 1, LONG, 128, T=T, H=8, G=2, changes={"ranges": cases.ranges((0, LONG), (700, 701), (9, 9))}),
            Case(32, 1, LONG, 128, T=T, H=8, G=2, changes={"bias": cases.bias(lambda B, M: -4.0)}),
            Case(2, 1, 100_003, 64, T=T, H=2, G=1),
        )
    ],
)
def test_real_sizes(case: Case, dtype: torch.dtype) -> None:
    hold(case, "triton", dtype, DEVICE)


def last_row(problem: Problem) -> Problem:
    """The batch's last row alone."""
    return problem.but(**{name: getattr(problem, name)[-1:] for name in ("query", "key", "value", "knowledge_query")})


@DTYPES
@pytest.mark.parametrize("D", [64, 96, 128, 256])
def test_a_row_does_not_depend_on_the_batch_around_it(D: int, dtype: torch.dtype) -> None:
    problem = on(Case(33, 1, LONG, D, T=T, H=6, G=2).problem(dtype), DEVICE)
    for together, alone in zip(problem.run("triton"), last_row(problem).run("triton"), strict=True):
        assert torch.equal(together[-1:], alone)


def test_a_list_grows_under_a_cuda_graph() -> None:
    """Its end is read on the device: rows written after the capture are seen, with the bits of a fresh call."""
    problem = on(Case(2, 1, LONG, 128, T=T, H=8, G=2).problem(torch.bfloat16), DEVICE)
    filled = torch.tensor([[0, 2000]], dtype=torch.int32, device=DEVICE)
    problem = problem.but(knowledge_range=filled.expand(2, 2))
    for _ in range(2):
        problem.run("triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, lse = problem.run("triton")
    before = output.clone()
    problem.knowledge_key[:, 2000:2500].mul_(3.0)
    filled.fill_(0)[:, 1] = 2500
    graph.replay()
    torch.cuda.synchronize()
    assert not torch.equal(output, before)
    expected, expected_lse = problem.run("triton")
    assert torch.equal(output, expected)
    assert torch.equal(lse, expected_lse)
