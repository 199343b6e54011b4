"""Split decode of dense knowledge in the interpreter: the case grid with few queries, splits, batch invariance."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels.rectangular import chunks, triton_backend
from kblam_kernels.rectangular.decode_tiles import TILES, DecodeTile, decode_tile
from tests import tolerances
from tests.kernels import cases
from tests.kernels.cases import Case
from tests.kernels.held import hold
from tests.kernels.launches import Recorder, without_data
from tests.kernels.problems import Problem, make

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0: see test_gpu_forward"),
]

# The grid's prompts, knowledge, masks, windows, ranges and biases, seen by 1 to 4 new queries.
FEW = {case.name: case for case in (dataclasses.replace(c, N=min(c.N, 4), T=c.T or c.N) for c in cases.GRID)}
# Two whole splits of knowledge and a piece; two splits of prompt.
LONG = 2 * chunks.MIN_DENSE_SPLIT + 37
SPLITS = [
    Case(1, 1, LONG, 16, T=chunks.PROMPT_SPLIT + 9),
    Case(2, 1, 2 * chunks.MIN_DENSE_SPLIT, 16, T=chunks.PROMPT_SPLIT),
    Case(2, 3, LONG, 16, T=300, H=4, G=1, changes={"window40": cases.window(40)}),
    Case(2, 1, LONG, 16, shared=False),
    Case(4, 2, LONG, 16, changes={"ranges": cases.ranges((0, LONG), (260, 261), (LONG - 1, LONG + 9), (512, 9))}),
    Case(2, 1, LONG, 16, changes={"row_bias_hides_some": cases.bias(cases.some_hidden)}),
]


@pytest.mark.parametrize("name", FEW)
def test_case_grid(name: str) -> None:
    hold(FEW[name], "triton", torch.float32)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in SPLITS])
def test_splits(case: Case) -> None:
    hold(case, "triton", torch.float32)


# The interpreter cuts weights off to bfloat16 where a GPU rounds them: errors are near twice as large here.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in (FEW["B2-N4-T63-M100-D96"], SPLITS[4])])
def test_half(case: Case, dtype: torch.dtype) -> None:
    hold(case, "triton", dtype)


def forward_of(problem: Problem, **options: Any) -> tuple[Tensor, Tensor]:
    """`triton_decode.forward` on a problem: what the op hands a backend."""
    from kblam_kernels.rectangular import triton_decode

    bias = problem.knowledge_bias
    return triton_decode.forward(
        problem.query,
        problem.key,
        problem.value,
        problem.knowledge_key,
        problem.knowledge_value,
        problem.knowledge_query,
        bias if isinstance(bias, Tensor) else None,
        problem.prompt_mask,
        problem.knowledge_range,
        0.25,
        problem.window,
        **options,
    )


def last_row(problem: Problem) -> Problem:
    """The batch's last row alone."""
    batched = ("query", "key", "value", "knowledge_query", "knowledge_bias", "prompt_mask", "knowledge_range")
    tensors = {name: getattr(problem, name) for name in batched}
    return problem.but(**{name: t[-1:] for name, t in tensors.items() if isinstance(t, Tensor) and len(t) > 1})


@pytest.mark.usefixtures("rows_apart")
def test_a_row_does_not_depend_on_the_batch_around_it() -> None:
    M = chunks.MIN_DENSE_SPLIT + 5
    mask = torch.ones(7, 9, dtype=torch.bool)
    mask[2:, :3] = False
    # 7 x 3 queries of a head fill a row tile and begin another.
    problem = make(B=7, H=2, G=1, N=3, T=9, M=M, D=16, dtype=torch.float32, prompt_mask=mask)
    for together, alone in zip(forward_of(problem), forward_of(last_row(problem)), strict=True):
        assert torch.equal(together[-1:], alone)


@pytest.mark.usefixtures("rows_apart")
def test_folded_and_separate_rows_give_the_same_bits() -> None:
    problem = make(B=3, H=2, G=1, N=2, T=9, M=LONG, D=16, dtype=torch.float32)
    one = torch.tensor([[5, LONG - 3]], dtype=torch.int32)
    folded = forward_of(problem.but(knowledge_range=one.expand(3, 2)))
    separate = forward_of(problem.but(knowledge_range=one.repeat(3, 1)))
    own = forward_of(
        problem.but(
            knowledge_range=one,
            knowledge_key=problem.knowledge_key.repeat(3, 1, 1, 1),
            knowledge_value=problem.knowledge_value.repeat(3, 1, 1, 1),
        )
    )
    for result in (separate, own):
        for ours, theirs in zip(folded, result, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("rows_apart")
def test_room_to_grow_changes_no_bit() -> None:
    problem = make(B=1, H=2, G=1, N=1, T=9, M=LONG, D=16, dtype=torch.float32)
    exact_fit = problem.but(
        knowledge_key=problem.knowledge_key[:, :300], knowledge_value=problem.knowledge_value[:, :300]
    )
    expected = [part.clone() for part in forward_of(exact_fit)]
    # What lies past the filled rows is never read.
    problem.knowledge_key[:, 300:] = float("nan")
    problem.knowledge_value[:, 300:] = float("nan")
    filled = torch.tensor([[0, 300]], dtype=torch.int32)
    for ours, theirs in zip(forward_of(problem.but(knowledge_range=filled)), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("rows_apart")
def test_a_range_hides_tokens_and_moves_no_sum() -> None:
    problem = make(B=1, H=2, G=1, N=1, T=9, M=LONG, D=16, dtype=torch.float32)
    seen = torch.arange(LONG) >= 70
    hidden = torch.zeros(1, LONG).masked_fill(~seen, -float("inf"))
    by_range = forward_of(problem.but(knowledge_range=torch.tensor([[70, LONG]])))
    for ours, theirs in zip(by_range, forward_of(problem.but(knowledge_bias=hidden)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("tile", [DecodeTile(16, 16, 4, 1), DecodeTile(32, 64, 4, 2)], ids=str)
def test_other_tiles_give_the_same(tile: DecodeTile) -> None:
    problem = SPLITS[2].problem(torch.float32)
    output, lse = forward_of(problem, tile=tile)
    exact, exact_lse = problem.to(torch.float64).but(scale=0.25).run()
    tolerances.check_output(output, exact, problem.but(scale=0.25).run()[0])
    tolerances.check_lse(lse, exact_lse)


def test_a_shared_list_folds_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.rectangular import triton_decode

    recorder = Recorder(triton_decode.rectangular_decode_kernel)
    monkeypatch.setattr(triton_decode, "rectangular_decode_kernel", recorder)
    problem = make(N=1, dtype=torch.float32, knowledge_bias=0.5)
    problem.run("triton")
    problem.but(knowledge_range=torch.tensor([[0, 5], [1, 7]])).run("triton")
    assert [(launch["groups"], launch["rows"]) for launch in recorder.launches] == [(1, 2), (2, 1)]


def test_the_launcher_looks_at_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.rectangular import triton_decode

    for kernel in ("rectangular_decode_kernel", "rectangular_merge_kernel"):
        monkeypatch.setattr(triton_decode, kernel, Recorder())
    ranges = torch.zeros(2, 2, dtype=torch.int32)
    problem = make(N=1, dtype=torch.float32, prompt_mask=torch.ones(2, 9, dtype=torch.bool), knowledge_range=ranges)
    meta = problem.but(**without_data(**{f.name: getattr(problem, f.name) for f in dataclasses.fields(problem)}))
    assert forward_of(meta)[0].shape == problem.query.shape


@pytest.mark.parametrize(("N", "split"), [(1, True), (16, True), (17, False), (1000, False)])
def test_few_queries_are_split_and_the_batch_has_no_say(N: int, split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBLAM_TILE", raising=False)
    assert triton_backend.is_split(N) == split


def test_a_pinned_tile_keeps_the_single_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.rectangular import triton_decode

    problem, recorder = make(N=1, dtype=torch.float32), Recorder(triton_decode.rectangular_decode_kernel)
    monkeypatch.setattr(triton_decode, "rectangular_decode_kernel", recorder)
    monkeypatch.setenv("KBLAM_TILE", "16x32x4x1")
    problem.run("triton")
    assert recorder.launches == []
    monkeypatch.delenv("KBLAM_TILE")
    problem.run("triton")
    assert len(recorder.launches) == 1


def test_every_head_dim_has_a_tile() -> None:
    for element_size in (2, 4):
        for D in range(1, 257):
            tile = decode_tile(D, element_size)
            assert chunks.PROMPT_SPLIT % chunks.prompt_block(D, element_size) == 0
            assert chunks.MIN_DENSE_SPLIT % tile.block_m == 0
    assert {tile.block_rows for _, _, tile in TILES} == {16}


def test_no_query_gives_no_output() -> None:
    output, lse = Case(2, 0, 7, 16, T=4).problem(torch.float32).run("triton")
    assert (output.shape, lse.shape) == ((2, 2, 0, 16), (2, 2, 0))
