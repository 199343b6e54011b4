"""The C++ kernels of rectangular attention, for every instruction set of this processor, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.cpu.checking import check, run
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

# N up to 4 streams keys and values past the rows; up to 16 fold as latents do; more go through the tile products.
CASES = [
    pytest.param({"N": 1, "T": 1, "M": 0}, {}, id="N1-T1-M0"),
    pytest.param({"N": 1, "T": 9, "M": 1}, {}, id="N1-M1"),
    pytest.param({"N": 1, "T": 40, "M": 1031, "B": 1}, {}, id="B1-N1-M1031"),
    pytest.param({"N": 4, "T": 600, "M": 513, "G": 1}, {}, id="N4-T600-M513-mqa"),
    pytest.param({"N": 5, "T": 9, "M": 0}, {}, id="N5-M0"),
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
@pytest.mark.parametrize(("shape", "options"), CASES)
def test_close_to_float64(
    shape: dict[str, int], options: dict[str, object], dtype: torch.dtype, instruction_set: str
) -> None:
    check(make(**shape, **options, D=64, dtype=dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [1, 9, 18])
@pytest.mark.parametrize("D", [2, 12, 24, 80, 96, 128, 256])
def test_head_dimensions(D: int, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    check(make(B=1, H=2, G=1, N=N, T=N + 3, M=150, D=D, dtype=dtype))


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
    for actual, expected in zip(run(laid_out(p, how)), run(p), strict=True):
        assert torch.equal(actual, expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape(data: st.DataObject, library: None) -> None:
    B, group, G = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    N = data.draw(st.integers(1, 18))
    T, M = N + data.draw(st.integers(0, 150)), data.draw(st.integers(0, 700))
    ranges = data.draw(st.none() | st.lists(st.tuples(*2 * [st.integers(0, 700)]), min_size=B, max_size=B))
    mask = data.draw(st.sampled_from([None, scattered(B, T), padded(B, T)]))
    p = make(
        B,
        group * G,
        G,
        N,
        T,
        M,
        2 * data.draw(st.integers(1, 70)),
        shared=data.draw(st.booleans()),
        dtype=data.draw(st.sampled_from(DTYPES)),
        seed=data.draw(st.integers(0, 99)),
        window=data.draw(st.none() | st.integers(1, T)),
        prompt_mask=mask,
        knowledge_range=None if ranges is None else torch.tensor(ranges, dtype=torch.int32),
        knowledge_bias=data.draw(st.sampled_from([0.0, bias(M), bias(B, M)])),
    )
    check(p)


@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_batch(N: int, dtype: torch.dtype, instruction_set: str) -> None:
    p = make(B=5, N=N, T=45, M=1100, D=40, dtype=dtype, knowledge_range=RANGES[[0, 1, 3, 2, 3]])
    p = p.but(prompt_mask=scattered(5, 45))
    assert p.prompt_mask is not None
    assert p.knowledge_range is not None
    together = run(p)
    for b in range(5):
        rows = {name: getattr(p, name)[b : b + 1] for name in ("query", "key", "value", "knowledge_query")}
        one = p.but(**rows, prompt_mask=p.prompt_mask[b : b + 1], knowledge_range=p.knowledge_range[b : b + 1])
        for alone, among in zip(run(one), together, strict=True):
            assert torch.equal(alone[0], among[b])


@pytest.mark.parametrize("N", [1, 9, 20])
def test_threads_do_not_change_a_bit(N: int, instruction_set: str) -> None:
    p = make(B=2, N=N, T=45, M=3000, D=40, dtype=torch.bfloat16)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(p))
    finally:
        torch.set_num_threads(before)
    for output, lse in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(lse, results[0][1])


@pytest.mark.parametrize("N", [1, 9, 20])
def test_an_expanded_knowledge_is_read_as_shared(N: int, library: None) -> None:
    p = make(B=3, N=N, T=30, M=200, dtype=torch.float32)
    expanded = p.but(**{name: getattr(p, name).expand(3, -1, -1, -1) for name in ("knowledge_key", "knowledge_value")})
    assert torch.equal(run(expanded)[0], run(p)[0])


@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("name", ["query", "knowledge_key", "knowledge_value"])
def test_nan_is_not_hidden(name: str, N: int, instruction_set: str) -> None:
    p = make(B=1, H=2, N=N, T=30, M=200, dtype=torch.bfloat16)
    poisoned = getattr(p, name).clone()
    poisoned[..., 0, -1, 3] = float("nan")  # the last token or query of one head
    output, _ = run(p.but(**{name: poisoned}))
    assert output.isnan().any()


@pytest.mark.parametrize("N", [1, 9, 20])
@pytest.mark.parametrize("mask", [[[False] * 4 + [True] * 26], [[True] * 3 + [False] + [True] * 26, [True] * 30]])
def test_a_hidden_prompt_key_may_be_nan(mask: list[list[bool]], N: int, instruction_set: str) -> None:
    hidden = torch.tensor(mask)
    p = make(B=len(mask), H=6, N=N, T=30, M=20, dtype=torch.bfloat16, prompt_mask=hidden)
    poisoned = p.key.masked_fill(~hidden[:, None, :, None], float("nan"))
    for actual, expected in zip(run(p.but(key=poisoned)), run(p), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("N", [1, 9, 20])
def test_large_scores(N: int, instruction_set: str) -> None:
    p = make(B=1, N=N, T=30, M=200, D=64, dtype=torch.float32)
    check(p.but(knowledge_query=p.knowledge_query * 100, query=p.query * 100))


@pytest.mark.parametrize("N", [1, 9, 20])
def test_every_output_is_written(N: int, instruction_set: str) -> None:
    p = make(N=N, T=30, M=200, D=24, dtype=torch.bfloat16, prompt_mask=padded(2, 30))
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        output, lse = run(p)
    finally:
        torch.use_deterministic_algorithms(False)
    assert not output.isnan().any()
    assert not lse.isnan().any()
