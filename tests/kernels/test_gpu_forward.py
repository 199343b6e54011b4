"""The compiled forward kernel on a GPU: the case grid against float64, real tiles, CUDA graphs, torch.compile."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, rectangular_attention
from tests import tolerances
from tests.kernels import cases
from tests.kernels.cases import Case, on
from tests.kernels.held import hold

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 hides the compiler: use make gpu-check"
    ),
]

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"]
)


@pytest.mark.usefixtures("poisoned_memory")
@DTYPES
@pytest.mark.parametrize("case", cases.PARAMS)
def test_case_grid(case: Case, dtype: torch.dtype) -> None:
    hold(case, "triton", dtype, "cuda")


# Long enough for every regime and many tiles of its real size.
LARGE = [
    Case(1, 1, 3001, 128, T=777, H=8, G=2),
    Case(2, 48, 3001, 128, H=8, G=2),
    Case(2, 1000, 3001, 64, H=8, G=2),
    Case(1, 1000, 3001, 96, T=1500, H=4, G=4),
    Case(1, 1000, 3001, 128, H=8, G=2, changes={"left": cases.LEFT}),
    Case(1, 500, 1000, 80, H=4, G=4),
    Case(1, 500, 1000, 256, H=4, G=2),
]


@pytest.mark.usefixtures("poisoned_memory")
@DTYPES
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in LARGE])
def test_large(case: Case, dtype: torch.dtype) -> None:
    hold(case, "triton", dtype, "cuda")


@DTYPES
def test_the_same_bits_twice(dtype: torch.dtype) -> None:
    problem = on(LARGE[2].problem(dtype), "cuda")
    first, second = problem.run("triton"), problem.run("triton")
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.alone
def test_offsets_beyond_32_bits() -> None:
    heads, D, M = 2, 128, 40_000
    # One slot of a knowledge base in the layout (M, slots, heads, D): M * stride passes 2^31 elements.
    slots = 2**31 // (M * heads * D) + 2
    needed = 2 * M * slots * heads * D
    if torch.cuda.mem_get_info()[0] < needed + 2**30:
        pytest.skip(f"needs {needed / 2**30:.1f} GiB of free device memory")
    store = torch.empty(M, slots, heads, D, dtype=torch.bfloat16, device="cuda")
    draw = torch.Generator("cuda").manual_seed(0)
    dense = torch.randn(heads, M, D, device="cuda", generator=draw).to(torch.bfloat16)
    store[:, -1] = dense.transpose(0, 1)
    kappa = store[:, -1].transpose(0, 1)
    assert (M - 1) * kappa.stride(1) > 2**31
    query = torch.randn(1, heads, 5, D, device="cuda", generator=draw).to(torch.bfloat16)
    strided = rectangular_attention(query, query, query, DenseKnowledge(kappa, kappa), backend="triton")
    plain = rectangular_attention(query, query, query, DenseKnowledge(dense, dense), backend="triton")
    assert torch.equal(strided, plain)


def test_a_cuda_graph_replays_with_new_contents() -> None:
    """Nothing syncs with the host, and ranges, bias and mask are read on the device at replay."""
    dtype = torch.bfloat16
    case = cases.GRID[-1]
    problem = on(case.problem(dtype), "cuda")
    for _ in range(2):
        problem.run("triton")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output, lse = problem.run("triton")
    mask, ranges, bias = problem.prompt_mask, problem.knowledge_range, problem.knowledge_bias
    assert isinstance(mask, Tensor)
    assert isinstance(ranges, Tensor)
    assert isinstance(bias, Tensor)
    problem.query.mul_(-0.5)
    mask.fill_(True)
    ranges.copy_(torch.tensor([[5, 66], [0, 1], [30, 70]], dtype=torch.int32))
    bias.fill_(0.25)
    graph.replay()
    torch.cuda.synchronize()
    host = on(problem, "cpu")
    exact, exact_lse = host.to(torch.float64).run("reference")
    plain, _ = host.run("reference")
    tolerances.check_output(output.cpu(), exact, plain)
    tolerances.check_lse(lse.cpu(), exact_lse)


def test_torch_compile_keeps_one_graph() -> None:
    problem = on(LARGE[1].problem(torch.bfloat16), "cuda")
    eager, _ = problem.run("triton")
    compiled = torch.compile(lambda: problem.run("triton")[0] * 1.0, fullgraph=True)
    torch.testing.assert_close(compiled(), eager, rtol=0, atol=0)


def test_float32_is_not_tf32() -> None:
    """tf32 alone would lose ten bits: its error is over 1e-4 here."""
    problem = LARGE[1].problem(torch.float32)
    exact, _ = problem.to(torch.float64).run("reference")
    output, _ = on(problem, "cuda").run("triton")
    assert tolerances.relative_error(output.cpu(), exact) < 2e-5


def test_reference_and_kernel_agree_on_the_device() -> None:
    """The specification runs on the GPU too; this is what the benchmark's gate rests on."""
    problem = on(LARGE[1].problem(torch.float32), "cuda")
    result, _ = problem.run("reference")
    kernel, _ = problem.run("triton")
    torch.testing.assert_close(kernel, result, rtol=1e-4, atol=1e-4)
