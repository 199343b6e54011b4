"""Hopper's own prefill on a GPU: near float64, the same bits alone and in a batch, CUDA graphs, one graph compiled."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from kblam_kernels.dense import triton_forward
from kblam_kernels.dense.op import dense_attention
from tests.kernels import cases, ops, ways
from tests.kernels.cases import FAR, Case
from tests.kernels.problems import INF, Problem, make
from tests.kernels.ways import BFLOAT16, HALF, Way


def _is_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _is_hopper(), reason="needs a CUDA device of compute capability 9.0"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1 hides the compiler"),
    pytest.mark.usefixtures("poisoned_memory"),
]

DEVICE = "cuda"


def misplaced(p: Problem) -> Problem:
    """Rows that TMA cannot address: an odd address, odd strides, heads that are one in memory."""

    def odd(t: Tensor) -> Tensor:
        room = torch.full((*t.shape[:-1], t.shape[-1] + 3), float("nan"), dtype=t.dtype)
        room[..., 1:-2] = t
        return room[..., 1:-2]

    return p.but(
        query=odd(p.query),
        value=odd(p.value),
        knowledge_query=p.knowledge_query[:, :1].expand(p.knowledge_query.shape),
        knowledge_key=odd(p.knowledge_key),
    )


def bias_of_each_row(p: Problem) -> Problem:
    rows = torch.tensor([0.5, -3.0, -INF])[: len(p.query), None]
    return p.but(knowledge_bias=rows.expand(-1, p.knowledge.num_tokens))


def louder_knowledge(p: Problem) -> Problem:
    return p.but(knowledge_query=p.knowledge_query * 30.0)


SHAPES = (
    Case(1, 256, 1, 128),
    Case(2, 256, 127, 128, H=4, G=4),
    Case(2, 257, 128, 128, T=258, H=4, G=1),
    Case(1, 300, 129, 128, T=333, H=8, G=2),
    Case(3, 300, 3001, 128, H=4, G=1),
    Case(1, 300, 3001, 128, T=777, H=8, G=1),
    Case(2, 1000, 3001, 128, T=1500, H=8, G=2),
    Case(1, 1000, 256, 128, H=2, G=1),
    Case(1, 384, 384, 128, T=512),
    Case(3, 300, 3001, 128, H=4, G=2, shared=False),
    Case(2, 256, 1, 128, T=1000, shared=False),
)
CHANGED: tuple[Any, ...] = (
    {"bias": cases.bias(lambda B, M: -2.5)},
    {"bias_hides_all": cases.bias(lambda B, M: -INF)},
    {"bias_of_each_row": bias_of_each_row},
    {"knowledge_far_above": cases.bias(lambda B, M: FAR)},
    {"knowledge_far_below": cases.bias(lambda B, M: -FAR)},
    {"loud": lambda p: p.but(query=p.query * 30.0, knowledge_query=p.knowledge_query * 30.0)},
    {"loud_knowledge": louder_knowledge},
    {"negative_scale": lambda p: p.but(scale=-0.1)},
    {"model_layout": cases.model_layout},
    {"model_layout": cases.model_layout, "bias": cases.bias(lambda B, M: 1.5)},
    {"misplaced": misplaced},
)
HOPPER = dataclasses.replace(
    ops.TRITON_WAYS[0],
    name="dense-hopper",
    cases=ops.grid((*SHAPES, *(Case(3, 300, 333, 128, T=400, H=4, G=2, changes=changes) for changes in CHANGED))),
    rows={
        "short": Case(3, 256, 129, 128, T=300, H=4, G=2).problem,
        "long": Case(5, 1000, 3001, 128, H=4, G=1).problem,
        "own_lists": Case(3, 300, 1000, 128, H=4, G=2, shared=False).problem,
        "bias": Case(3, 300, 1000, 128, H=4, G=2, changes={"bias": bias_of_each_row}).problem,
        "model_layout": Case(3, 300, 1000, 128, H=4, G=2, changes={"model_layout": cases.model_layout}).problem,
        "misplaced": Case(3, 300, 1000, 128, H=4, G=2, changes={"misplaced": misplaced}).problem,
    },
    setting=None,
)


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What Hopper's own kernel served: something, or the test fails."""
    own = triton_forward.hopper_kernel()
    if own is None:
        pytest.skip("was not written for this Triton")
    served: list[Any] = []
    forward = own.forward

    def counted(call: Any) -> Any:
        served.append(call)
        return forward(call)

    monkeypatch.setattr(own, "forward", counted)
    yield served
    assert served


@pytest.mark.parametrize(("way", "name", "dtype"), ways.params((HOPPER,), HALF))
def test_near_float64(way: Way, name: str, dtype: torch.dtype) -> None:
    way.near(name, dtype, DEVICE)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(("way", "name"), ways.row_params((HOPPER,)))
def test_a_row_has_the_bits_that_it_has_alone_and_every_time(
    way: Way, name: str, dtype: torch.dtype, calls: list[Any]
) -> None:
    problem = way.rows[name](dtype).on(DEVICE)
    together = way.bits(problem)
    for row in range(len(problem.query)):
        for among, alone in zip(together, way.bits(problem, slice(row, row + 1)), strict=True):
            assert torch.equal(among[row : row + 1], alone)
    for _ in range(5):
        for among, again in zip(together, way.bits(problem), strict=True):
            assert torch.equal(among, again)
    assert len(calls) == 6 + len(problem.query)


def test_a_list_with_nothing_in_it_is_the_other_kernels(calls: list[Any]) -> None:
    """And the same to a reader: the prompt alone."""
    without = Case(2, 300, 0, 128, H=4, G=2).problem(BFLOAT16)
    found = without.on(DEVICE).run("triton")
    assert not calls
    hidden = make(B=2, H=4, G=2, N=300, T=300, M=200, D=128, dtype=BFLOAT16, seed=len("B2-N300-M0-D128-H4over2"))
    prompt = {name: getattr(without, name) for name in ("query", "key", "value", "knowledge_query")}
    for ours, theirs in zip(hidden.but(**prompt, knowledge_bias=-INF).on(DEVICE).run("triton"), found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=2**-6)


def _usual(seed: int, bias: float, **options: Any) -> Problem:
    problem = make(B=2, H=8, G=2, N=300, T=777, M=3001, D=128, dtype=BFLOAT16, seed=seed, **options).on(DEVICE)
    return problem.but(knowledge_bias=torch.tensor(bias, device=DEVICE))


def _tensors(problem: Problem) -> tuple[Tensor, ...]:
    names = ("query", "key", "value", "knowledge_query", "knowledge_key", "knowledge_value", "knowledge_bias")
    return tuple(getattr(problem, name) for name in names)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own_lists"])
def test_a_cuda_graph_sees_what_is_written_after_it_was_captured(shared: bool) -> None:
    """The bias too: a list that it hides may be shown later."""
    problem, later = _usual(0, -INF, shared=shared), _usual(9, 0.5, shared=shared)
    replay, results = ways.captured(lambda: problem.run("triton"))
    replay()
    for result, expected in zip(results, problem.run("triton"), strict=True):
        assert torch.equal(result, expected)
    for there, new in zip(_tensors(problem), _tensors(later), strict=True):
        there.copy_(new)
    replay()
    for result, expected in zip(results, later.run("triton"), strict=True):
        assert torch.equal(result, expected)


def test_torch_compile_keeps_one_graph() -> None:
    problem = _usual(0, 0.5)
    torch.compiler.reset()
    eager = problem.run("triton")[0]
    compiled = torch.compile(lambda: problem.run("triton")[0] * 1.0, fullgraph=True)
    assert torch.equal(compiled(), eager)


def _gradients(problem: Problem, backend: str) -> list[Tensor]:
    leaves = problem.leaves()
    output, lse = leaves.run(backend)
    draw = torch.Generator().manual_seed(0)
    weights = (torch.randn(result.shape, generator=draw, dtype=torch.float64).to(result) for result in (output, lse))
    loss = sum((result * weight).sum() for result, weight in zip((output, lse), weights, strict=True))
    names = ("query", "key", "value", "knowledge_query", "knowledge_key", "knowledge_value")
    return [each.cpu().double() for each in torch.autograd.grad(loss, [getattr(leaves, name) for name in names])]


def test_the_backward_starts_from_its_results() -> None:
    problem = make(B=1, H=4, G=2, N=256, T=300, M=333, D=128, dtype=BFLOAT16)
    exact = _gradients(problem.to(torch.float64), "reference")
    for ours, theirs in zip(_gradients(problem.on(DEVICE), "triton"), exact, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 2e-2


def test_another_stream_and_many_calls_at_once() -> None:
    problem = _usual(0, 0.5)
    expected = problem.run("triton")
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(3)]
    found = []
    for stream in streams * 5:
        with torch.cuda.stream(stream):
            found.append(problem.run("triton"))
    torch.cuda.synchronize()
    for results in found:
        for ours, theirs in zip(results, expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.alone
def test_offsets_of_knowledge_beyond_32_bits() -> None:
    """A slot of a knowledge base in the layout (M, slots, heads, D)."""
    heads, D, M = 2, 128, 40_000
    slots = 2**31 // (M * heads * D) + 2
    if torch.cuda.mem_get_info()[0] < 2 * M * slots * heads * D + 2**30:
        pytest.skip("needs 5 GiB of free device memory")
    store = torch.empty(M, slots, heads, D, dtype=BFLOAT16, device=DEVICE)
    dense = make(B=1, H=heads, G=1, N=256, T=256, M=M, D=D, dtype=BFLOAT16).on(DEVICE)
    store[:, -1] = dense.knowledge_key.transpose(0, 1)
    far = store[:, -1].transpose(0, 1)
    assert (M - 1) * far.stride(1) > 2**31
    results = [
        dense_attention(call, "triton")
        for call in (dense.but(knowledge_key=key, knowledge_value=key).call()[1] for key in (far, dense.knowledge_key))
    ]
    for strided, plain in zip(*results, strict=True):
        assert torch.equal(strided, plain)
