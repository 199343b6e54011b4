"""The C++ kernels of rectangular attention, for every instruction set of this processor, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kblam_kernels.rectangular.op import rectangular_forward

from tests.kernels import cases
from tests.kernels.cpu.pinned import with_instruction_set, with_threads
from tests.kernels.held import hold, hold_problem
from tests.kernels.problems import TENSORS, Problem, make

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INF = float("inf")


def padded(B: int, T: int) -> torch.Tensor:
    """Left padding, longer in later rows; the last row is all padding."""
    return torch.arange(T)[None] >= torch.linspace(0, T, B).long()[:, None]


def scattered(B: int, T: int) -> torch.Tensor:
    return torch.rand(B, T, generator=torch.Generator().manual_seed(1)) > 0.4


def bias(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
    return values.masked_fill(values > 1.5, -INF)


RANGES = torch.tensor([[0, 130], [64, 300], [300, 300], [-5, 1000]], dtype=torch.int32)

# Longer than the shared grid, which is for Triton's interpreter: several tiles of 128 tokens and chunks of 512. N up to
# 4 streams keys and values past the rows; up to 16 fold as latents do; more go through the tile products.
CASES = [
    pytest.param({"N": 1, "T": 40, "M": 1031, "B": 1}, {}, id="B1-N1-M1031"),
    pytest.param({"N": 4, "T": 600, "M": 513, "G": 1}, {}, id="N4-T600-M513-mqa"),
    pytest.param({"N": 20, "T": 33, "M": 300, "G": 4}, {}, id="N20-M300-no-gqa"),
    pytest.param({"N": 70, "T": 70, "M": 257}, {}, id="N70-M257-no-cache"),
    pytest.param({"N": 140, "T": 145, "M": 129, "B": 3}, {}, id="B3-N140-M129"),
    pytest.param({"N": 2, "T": 30, "M": 300}, {"shared": False}, id="N2-per-row"),
    pytest.param({"N": 30, "T": 30, "M": 300}, {"shared": False}, id="N30-per-row"),
    pytest.param({"N": 1, "T": 70, "M": 300}, {"prompt_mask": padded(2, 70)}, id="N1-left-padded"),
    pytest.param({"N": 40, "T": 70, "M": 300}, {"prompt_mask": padded(2, 70)}, id="N40-left-padded"),
    pytest.param({"N": 40, "T": 70, "M": 90}, {"prompt_mask": scattered(2, 70), "window": 9}, id="N40-window"),
    pytest.param({"N": 3, "T": 70, "M": 90}, {"prompt_mask": scattered(2, 70), "window": 9}, id="N3-window"),
    pytest.param({"N": 1, "T": 5, "M": 300, "B": 4}, {"knowledge_range": RANGES}, id="N1-ranges"),
    pytest.param({"N": 12, "T": 12, "M": 300, "B": 4}, {"knowledge_range": RANGES}, id="N12-ranges"),
    pytest.param({"N": 1, "T": 5, "M": 300}, {"knowledge_bias": bias(300)}, id="N1-bias"),
    pytest.param({"N": 12, "T": 12, "M": 300}, {"knowledge_bias": bias(300)}, id="N12-bias"),
    pytest.param({"N": 1, "T": 5, "M": 300}, {"knowledge_bias": bias(2, 300)}, id="N1-row-bias"),
    pytest.param({"N": 12, "T": 12, "M": 300}, {"knowledge_bias": bias(2, 300)}, id="N12-row-bias"),
    pytest.param({"N": 1, "T": 5, "M": 70}, {"knowledge_bias": -1.5, "scale": -0.3}, id="N1-scalar-bias-scale"),
    pytest.param({"N": 6, "T": 6, "M": 70}, {"knowledge_bias": -1.5, "scale": -0.3}, id="N6-scalar-bias-scale"),
    pytest.param({"N": 2, "T": 5, "M": 70}, {"knowledge_bias": -INF}, id="N2-all-hidden"),
    pytest.param({"N": 9, "T": 9, "M": 70}, {"knowledge_bias": -INF}, id="N9-all-hidden"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "case", [param for case, param in zip(cases.GRID, cases.PARAMS, strict=True) if case.D % 2 == 0]
)
def test_the_grid_of_every_backend(case: cases.Case, dtype: torch.dtype, instruction_set: str) -> None:
    hold(case, "cpu", dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_several_tiles_and_chunks(
    shape: dict[str, int], options: dict[str, object], dtype: torch.dtype, instruction_set: str
) -> None:
    hold_problem(make(**shape, **options, D=64, dtype=dtype), "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [1, 9, 18])
@pytest.mark.parametrize("D", [2, 12, 24, 80, 96, 128, 256])
def test_head_dimensions(D: int, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    hold_problem(make(B=1, H=2, G=1, N=N, T=N + 3, M=150, D=D, dtype=dtype), "cpu")


def laid_out(p: Problem, how: str) -> Problem:
    """The same numbers in other strides; the last dimension stays contiguous."""

    def change(t: torch.Tensor) -> torch.Tensor:
        if how == "tokens before heads":
            return t.transpose(-2, -3).contiguous().transpose(-2, -3)
        wide = t.new_full((*t.shape[:-2], t.shape[-2] * 2 + 1, t.shape[-1] + 3), float("nan"))
        view = wide[..., 1::2, 1:-2]
        view.copy_(t)
        return view

    return p.but(**{name: change(getattr(p, name)) for name in TENSORS})


@pytest.mark.parametrize("how", ["tokens before heads", "gaps of NaN"])
@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides_do_not_matter(how: str, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    p = make(N=N, T=30, M=140, D=24, dtype=dtype)
    for actual, expected in zip(laid_out(p, how).run("cpu"), p.run("cpu"), strict=True):
        assert torch.equal(actual, expected)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_and_stride_on_any_instruction_set(data: st.DataObject, instruction_sets: list[str]) -> None:
    draw = data.draw
    B, group, G = (draw(st.integers(1, n)) for n in (4, 3, 3))
    # Every path: streamed, folded, tiles; several blocks of 256 rows.
    N = draw(st.integers(1, 4) | st.integers(5, 16) | st.integers(17, 300))
    T, M = N + draw(st.integers(0, 150)), draw(st.integers(0, 700))
    ranges = draw(st.none() | st.lists(st.tuples(*2 * [st.integers(-9, 700)]), min_size=B, max_size=B))
    p = make(
        B,
        group * G,
        G,
        N,
        T,
        M,
        2 * draw(st.integers(1, 70)),
        shared=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
        seed=draw(st.integers(0, 99)),
        window=draw(st.none() | st.integers(1, T)),
        prompt_mask=draw(st.sampled_from([None, scattered(B, T), padded(B, T)])),
        knowledge_range=None if ranges is None else torch.tensor(ranges, dtype=torch.int32),
        knowledge_bias=draw(st.sampled_from([0.0, bias(M), bias(B, M), bias(M, B).T])),
    )
    layout = draw(st.sampled_from(["dense", "tokens before heads", "gaps of NaN"]))
    with with_instruction_set(draw(st.sampled_from(instruction_sets))):
        hold_problem(p if layout == "dense" else laid_out(p, layout), "cpu")


# Rows of one task are of several batch rows where those share knowledge, and at most 32 when folded, 256 in tiles.
BATCHES = [pytest.param(5, N, id=f"B5-N{N}") for N in (1, 9, 20)] + [pytest.param(6, 70, id="B6-N70")]


@pytest.mark.parametrize(("B", "N"), BATCHES)
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "whole"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_batch(
    B: int, N: int, ranges: bool, dtype: torch.dtype, instruction_set: str
) -> None:
    p = make(B=B, N=N, T=N + 30, M=1100, D=40, dtype=dtype)
    p = p.but(prompt_mask=scattered(B, N + 30), knowledge_range=RANGES[[0, 1, 3, 2, 3, 1][:B]] if ranges else None)
    together = p.run("cpu")
    for b in range(B):
        names = ("query", "key", "value", "knowledge_query", "prompt_mask", *(["knowledge_range"] if ranges else []))
        one = p.but(**{name: getattr(p, name)[b : b + 1] for name in names})
        for alone, among in zip(one.run("cpu"), together, strict=True):
            assert torch.equal(alone[0], among[b])


@pytest.mark.parametrize("N", [1, 9, 20, 300])
def test_threads_do_not_change_a_bit(N: int, instruction_set: str) -> None:
    p = make(B=2, N=N, T=N + 25, M=3000, D=40, dtype=torch.bfloat16)
    results = []
    for threads in (1, 2, 5):
        with with_threads(threads):
            results.append(p.run("cpu"))
    for output, lse in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(lse, results[0][1])


@pytest.mark.parametrize("N", [1, 9, 20])
def test_an_expanded_knowledge_is_read_as_shared(N: int, library: None) -> None:
    p = make(B=3, N=N, T=30, M=200, dtype=torch.float32)
    expanded = p.but(**{name: getattr(p, name).expand(3, -1, -1, -1) for name in ("knowledge_key", "knowledge_value")})
    assert torch.equal(expanded.run("cpu")[0], p.run("cpu")[0])


@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("name", ["query", "knowledge_key", "knowledge_value"])
def test_nan_is_not_hidden(name: str, N: int, instruction_set: str) -> None:
    p = make(B=1, H=2, N=N, T=30, M=200, dtype=torch.bfloat16)
    poisoned = getattr(p, name).clone()
    poisoned[..., 0, -1, 3] = float("nan")  # the last token or query of one head
    output, _ = p.but(**{name: poisoned}).run("cpu")
    assert output.isnan().any()


@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("mask", [[[False] * 4 + [True] * 26], [[True] * 3 + [False] + [True] * 26, [True] * 30]])
def test_a_hidden_prompt_key_may_be_nan(mask: list[list[bool]], N: int, instruction_set: str) -> None:
    hidden = torch.tensor(mask)
    p = make(B=len(mask), H=6, N=N, T=30, M=20, dtype=torch.bfloat16, prompt_mask=hidden)
    poisoned = p.key.masked_fill(~hidden[:, None, :, None], float("nan"))
    for actual, expected in zip(p.but(key=poisoned).run("cpu"), p.run("cpu"), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("N", [1, 9, 20])
def test_large_scores(N: int, instruction_set: str) -> None:
    p = make(B=1, N=N, T=30, M=200, D=64, dtype=torch.float32)
    hold_problem(p.but(knowledge_query=p.knowledge_query * 100, query=p.query * 100), "cpu")


@pytest.mark.parametrize("N", [1, 9, 20])
def test_every_output_is_written(N: int, instruction_set: str) -> None:
    p = make(N=N, T=30, M=200, D=24, dtype=torch.bfloat16, prompt_mask=padded(2, 30))
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        output, lse = p.run("cpu")
    finally:
        torch.use_deterministic_algorithms(False)
    assert not output.isnan().any()
    assert not lse.isnan().any()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "M0": {"M": 0},
    "mask-window": {"prompt_mask": scattered(2, 9), "window": 4},
    "range-bias": {"N": 1, "knowledge_range": torch.tensor([[0, 7], [2, 5]]), "knowledge_bias": bias(2, 7)},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_the_op_with_the_cpp_kernels_is_a_good_citizen(name: str, dtype: torch.dtype, library: None) -> None:
    p = make(dtype=dtype, **OPTIONS[name]).leaves()
    of_bias = p.knowledge_bias if isinstance(p.knowledge_bias, torch.Tensor) else None
    tensors = (getattr(p, name) for name in TENSORS)
    torch.library.opcheck(
        rectangular_forward, (*tensors, of_bias, p.prompt_mask, p.knowledge_range, 0.25, p.window, "cpu")
    )
