"""Packed requests attend to knowledge alone, and the parts of an attention merge to the whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import (
    BackendUnavailableError,
    DenseKnowledge,
    KnowledgePlan,
    LatentKnowledge,
    UnsupportedInputError,
    merge_states,
    paged_prompt_attention,
    partial_knowledge_attention,
    rectangular_attention,
)
from kblam_kernels.common.splits import MIN_DENSE_SPLIT
from tests import tolerances
from tests.kernels.attention.engines import HKV, HQ, NEW, SPANS, Batch, D, batch
from tests.kernels.problems import INF
from tests.kernels.ways import BFLOAT16, DTYPES, FLOAT32, STORAGE, stored

LAYOUTS = [
    pytest.param(False, None, id="dense"),
    *(pytest.param(True, storage, id=f"latent-{stored(storage)}") for storage in STORAGE),
]


# What each is tried in. The interpreter is slow, and a dtype changes only conversions, which test_ops.py tries.
TRIED = {"reference": DTYPES, "cpu": DTYPES, "triton": (FLOAT32,)}
SERVED = [pytest.param(name, dtype, id=f"{name}-{dtype}") for name, dtypes in TRIED.items() for dtype in dtypes]


@st.composite
def batches(draw: Any) -> Batch:
    """Any requests over a short list."""
    requests = draw(st.integers(0, 5))
    new = draw(st.lists(st.integers(0, 4), min_size=requests, max_size=requests))
    M = draw(st.integers(0, 9))
    bound = st.integers(-3, M + 3)
    spans = draw(st.lists(st.tuples(bound, bound), min_size=requests, max_size=requests))
    made = batch(new, spans, M=M, is_latent=draw(st.booleans()), padding=draw(st.integers(0, 3)))
    return dataclasses.replace(made, bias=made.bias.masked_fill(made.bias > draw(st.floats(-3, 3)), -INF))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(made=batches())
def test_any_batch_is_a_softmax_over_the_span_of_each_request(made: Batch) -> None:
    for actual, expected in zip(made.run(), made.exact(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("backend", "dtype"), SERVED, indirect=["backend"])
@pytest.mark.parametrize(("is_latent", "storage"), LAYOUTS)
def test_every_backend_is_near_float64(
    backend: str, is_latent: bool, storage: torch.dtype | None, dtype: torch.dtype
) -> None:
    made = batch(NEW, SPANS, is_latent=is_latent, storage=storage, dtype=dtype, padding=3)
    output, lse = made.run(backend)
    exact, exact_lse = made.exact()
    plain, plain_lse = made.run()
    assert output.dtype == dtype
    tolerances.check_output(output, exact, plain)
    # Absorbed queries are rounded to the dtype, and scores of latents are off by that.
    tolerances.check_lse(lse, plain_lse.double() if is_latent else exact_lse)
    assert torch.equal(lse == -INF, exact_lse == -INF)
    assert (output[(exact_lse == -INF).T] == 0).all()


def joined(made: Batch, backend: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(merge of paged attention and partial attention, `rectangular_attention` of each request)."""
    draw, size = torch.Generator().manual_seed(5), 8
    lengths = [past + new for past, new in zip(made.past, made.new, strict=True)]
    blocks = [-(-length // size) for length in lengths]
    free = torch.randperm(sum(blocks) + 2, generator=draw).int()
    cache = torch.randn(2, len(free), size, HKV, D, generator=draw, dtype=torch.float64).to(made.query.dtype)
    table = torch.zeros(len(blocks), max(blocks) + 1, dtype=torch.int32)
    for i, taken in enumerate(free[: sum(blocks)].split(blocks)):
        table[i, : len(taken)] = taken
    prompt_backend = "cpu" if backend == "triton" else backend
    prompt = paged_prompt_attention(
        made.query, *cache, table, torch.tensor(lengths, dtype=torch.int32), made.starts, backend=prompt_backend
    )
    together = merge_states(*prompt, *made.run(backend))
    output, lse = torch.zeros_like(together[0]), torch.full_like(together[1], -INF)
    for i, length in enumerate(lengths):
        rows = made.rows(i)
        if rows.start == rows.stop:
            continue
        key, value = (
            part[table[i, : blocks[i]]].flatten(0, 1)[:length].transpose(0, 1)[None].contiguous() for part in cache
        )
        q, r = (t[rows].transpose(0, 1)[None] for t in (made.query, made.knowledge_query))
        sees: dict[str, Any] = {"knowledge_bias": float(made.bias[i]), "knowledge_range": made.ranges[i : i + 1]}
        of_request, of_request_lse = rectangular_attention(
            q, key, value, made.knowledge, r, **sees, return_lse=True, backend=backend
        )
        output[rows], lse[:, rows] = of_request[0].transpose(0, 1), of_request_lse[0]
    return together, (output, lse)


def merged() -> Iterator[Any]:
    """What merging is tried in. It knows nothing of storage, with which each of the two parts is held to float64 above
    and in test_ops.py: in the interpreter one a layout is enough.
    """
    served = [(name, dtype) for name, dtypes in TRIED.items() for dtype in dtypes]
    for name, dtype in (("reference", torch.float64), *served):
        for is_latent, storage in ((False, None), *((True, each) for each in STORAGE)):
            if name != "triton" or storage is None:
                layout = f"latent-{stored(storage)}" if is_latent else "dense"
                yield pytest.param(name, dtype, is_latent, storage, id=f"{layout}-{name}-{dtype}")


@pytest.mark.parametrize(("backend", "dtype", "is_latent", "storage"), merged(), indirect=["backend"])
def test_both_parts_merge_to_rectangular_attention(
    backend: str, is_latent: bool, storage: torch.dtype | None, dtype: torch.dtype
) -> None:
    made = batch(NEW, SPANS, is_latent=is_latent, storage=storage, dtype=dtype, padding=2)
    (output, lse), (expected, expected_lse) = joined(made, backend)
    # Each part is rounded to the dtype before they meet.
    tolerance = {torch.float64: 1e-11, FLOAT32: 2e-5, torch.float16: 3e-3, BFLOAT16: 2e-2}[dtype]
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(lse, expected_lse, rtol=min(tolerance, 2e-5), atol=min(tolerance, 2e-5))


@pytest.mark.parametrize("is_latent", [False, True])
@pytest.mark.usefixtures("fresh_compiler")
def test_it_compiles_to_one_graph(is_latent: bool) -> None:
    made = batch(NEW, SPANS, is_latent=is_latent, padding=1)
    starts, ranges = made.starts, made.ranges

    def call(query: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return partial_knowledge_attention(
            query, made.knowledge, starts, ranges, knowledge_bias=bias, backend="reference"
        )

    run = torch.compile(call, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(run(made.knowledge_query, made.bias), made.run(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_nothing_said_of_requests_is_the_whole_list_for_all_but_padding() -> None:
    made = batch([2, 0, 3], [(0, 40)] * 3, padding=1)
    plain = partial_knowledge_attention(made.knowledge_query, made.knowledge, made.starts)
    said = dataclasses.replace(made, bias=torch.zeros(3)).run()
    for actual, expected in zip(plain, said, strict=True):
        assert torch.equal(actual, expected)
    assert (plain[1][:, -1] == -INF).all()
    assert torch.isfinite(plain[1][:, :-1]).all()


@pytest.mark.parametrize(("is_latent", "storage"), LAYOUTS[:2])
def test_the_longest_span_changes_no_result(backend: str, is_latent: bool, storage: torch.dtype | None) -> None:
    """Two splits of the longest span, of which some requests see one, in a list of many."""
    M = 5 * MIN_DENSE_SPLIT
    spans = [(300, 850), (M - 9, M + 9), (7, 7), (0, 300)]
    made = batch([2, 1, 1, 1], spans, M=M, is_latent=is_latent, dtype=FLOAT32, padding=1)
    output, lse = made.run(backend, max_span=550)
    exact, exact_lse = made.exact()
    tolerances.check_output(output, exact, made.run()[0])
    tolerances.check_lse(lse, exact_lse)


@pytest.mark.parametrize("longest", [2**31 - 1, 2**31, 2**63 - 1])
@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_a_longest_span_that_says_any_is_none(kind: torch.dtype, longest: int) -> None:
    """Added to where a span starts it does not fit into an int32: requests saw nothing."""
    made = batch([2, 1, 1], [(5, 40), (0, 40), (9, 3)], dtype=FLOAT32)
    expected, ranges = made.run(), made.ranges.to(kind)
    options: dict[str, Any] = {"knowledge_bias": made.bias, "backend": "reference"}
    found = partial_knowledge_attention(
        made.knowledge_query, made.knowledge, made.starts, ranges, max_span=longest, **options
    )
    attend = KnowledgePlan(made.knowledge, 8, max_span=longest, backend="reference")
    attend.plan(made.starts, ranges, knowledge_bias=made.bias)
    for results in (found, attend.run(made.knowledge_query, made.knowledge)):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected, strict=True))


@pytest.mark.usefixtures("interpreted", "rows_apart")
@pytest.mark.parametrize("is_latent", [False, True])
def test_a_base_has_the_same_bits_wherever_it_lies_in_the_pool(is_latent: bool) -> None:
    made = batch([1, 1], [(3, 303), (3, 303)], M=700, is_latent=is_latent, dtype=FLOAT32)
    k, shift = made.knowledge, 313
    tensors = ("key", "value", "norm") if is_latent else ("key", "value")
    moved = {name: getattr(k, name).roll(shift, -1 if name == "norm" else -2) for name in tensors}
    elsewhere = dataclasses.replace(
        made, knowledge=dataclasses.replace(k, **moved), spans=[(3 + shift, 303 + shift)] * 2
    )
    for ours, theirs in zip(elsewhere.run("triton", max_span=400), made.run("triton", max_span=400), strict=True):
        assert torch.equal(ours, theirs)


def test_one_number_is_the_bias_of_all() -> None:
    made = batch([2, 1], [(0, 40), (3, 9)])
    number = partial_knowledge_attention(
        made.knowledge_query, made.knowledge, made.starts, made.ranges, knowledge_bias=-0.5
    )
    same = dataclasses.replace(made, bias=torch.full((2,), -0.5)).run()
    for actual, expected in zip(number, same, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_the_default_dtype_does_not_matter() -> None:
    """Engines set it to the model's."""
    made = batch([2, 1], [(0, 40), (3, 9)], dtype=FLOAT32)
    expected = partial_knowledge_attention(made.knowledge_query, made.knowledge, made.starts)
    try:
        torch.set_default_dtype(BFLOAT16)
        found = partial_knowledge_attention(made.knowledge_query, made.knowledge, made.starts)
        attend = KnowledgePlan(made.knowledge, 8)
        attend.plan(made.starts)
        planned = attend.run(made.knowledge_query, made.knowledge)
    finally:
        torch.set_default_dtype(FLOAT32)
    for results in (found, planned):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected, strict=True))


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("is_latent", [False, True], ids=["dense", "latent"])
def test_no_rows_and_padding_alone_have_gradients_of_zero(
    is_latent: bool, backend: str, padding: int, request: pytest.FixtureRequest
) -> None:
    if backend == "cpu":
        request.getfixturevalue("library")
    made = batch([0, 0], [(0, 40), (3, 9)], is_latent=is_latent, padding=padding, dtype=FLOAT32)
    query = made.knowledge_query.clone().fill_(float("nan")).requires_grad_()
    knowledge, leaves = made.knowledge, [query]
    if not is_latent:
        knowledge = DenseKnowledge(*(t.clone().requires_grad_() for t in (knowledge.key, knowledge.value)))
        leaves += [knowledge.key, knowledge.value]
    output, lse = partial_knowledge_attention(query, knowledge, made.starts, made.ranges, backend=backend)
    assert output.shape == (padding, HQ, D)
    assert not output.any()
    assert (lse == -INF).all()
    for result in (output, lse):
        for leaf, gradient in zip(leaves, torch.autograd.grad(result.sum(), leaves, retain_graph=True), strict=True):
            assert gradient.shape == leaf.shape
            assert not gradient.any()


def test_gradients_are_those_of_a_softmax() -> None:
    made = batch([2, 1, 3], [(0, 5), (4, 4), (2, 9)], M=9)

    def run(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        output, lse = partial_knowledge_attention(
            query, DenseKnowledge(key, value), made.starts, made.ranges, knowledge_bias=made.bias
        )
        return output, lse.masked_fill(lse == -INF, 0.0)

    leaves = (made.knowledge_query, made.knowledge.key, made.knowledge.value)
    assert torch.autograd.gradcheck(run, [leaf.clone().requires_grad_() for leaf in leaves], fast_mode=True)


def test_a_backend_asked_for_by_name_never_falls_back() -> None:
    for backend in ("cpu", "triton"):
        with pytest.raises(BackendUnavailableError, match=rf"'{backend}' cannot serve this call: .*torch\.float64"):
            batch([2], [(0, 40)]).run(backend)


def arguments(**changes: Any) -> dict[str, Any]:
    made = batch([2, 1], [(0, 40), (3, 9)], dtype=FLOAT32)
    return {
        "knowledge_query": made.knowledge_query,
        "knowledge": made.knowledge,
        "query_start_loc": made.starts,
        "knowledge_range": made.ranges,
        "knowledge_bias": made.bias,
        **changes,
    }


META = torch.device("meta")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"knowledge_query": torch.randn(1, 3, HQ, D)},
            r"tensor \(total_tokens, Hq, D\).*1, 3, 4, 16",
        ),
        ({"knowledge_query": torch.randn(3, HQ, 0)}, r"D at least 1; got .*\(3, 4, 0\)"),
        ({"knowledge_query": torch.ones(3, HQ, D).int()}, r"must be a floating-point tensor.*int32"),
        ({"knowledge_query": torch.randn(3, HQ, D).half()}, r"knowledge is torch\.float32.*query is torch\.float16"),
        ({"knowledge_query": torch.randn(3, HQ + 2, D)}, r"\(4, 40, 16\) does not fit query \(3, 6, 1, 16\)"),
        ({"knowledge": DenseKnowledge(*[torch.randn(3, HQ, 7, D)] * 2)}, r"share one list.*\(3, 4, 7, 16\)"),
        ({"query_start_loc": torch.tensor([0, 2, 3])}, r"query_start_loc must be int32.*int64 \(3,\)"),
        ({"query_start_loc": torch.zeros(0).int()}, r"num_requests \+ 1.*\(0,\)"),
        ({"query_start_loc": torch.zeros(3, device=META).int()}, "query_start_loc must be .* on cpu; got .* on meta"),
        ({"query_start_loc": torch.tensor([0, 2, 4]).int()}, r"at most total_tokens=3; got \[0, 2, 4\]"),
        ({"query_start_loc": torch.tensor([0, 2, 1]).int()}, r"ascend from 0.*\[0, 2, 1\]"),
        ({"query_start_loc": torch.tensor([1, 2, 3]).int()}, r"ascend from 0.*\[1, 2, 3\]"),
        ({"knowledge_range": torch.zeros(3, 2).int()}, r"num_requests=2, 2.*\(3, 2\)"),
        ({"knowledge_range": torch.zeros(2, 2)}, r"knowledge_range must be int32.*float32"),
        (
            {"knowledge_range": torch.zeros(2, 2, device=META).int()},
            "knowledge_range must be .* on cpu.*; got .* on meta",
        ),
        ({"knowledge_bias": torch.zeros(3)}, r"float32 \(num_requests=2,\).*\(3,\)"),
        ({"knowledge_bias": torch.zeros(2).half()}, "float32 .* or a number; got .*float16"),
        ({"knowledge_bias": torch.zeros(2, device=META)}, "knowledge_bias must be .* on cpu.*; got .* on meta"),
        ({"knowledge_bias": INF}, "finite or -inf; got inf"),
        ({"max_span": 0}, "max_span must be at least 1; got 0"),
        ({"max_span": 39}, r"a range is longer than max_span=39: \[\[0, 40\], \[3, 9\]\]"),
        ({"backend": "cuda"}, "backend='cuda' is not one of"),
    ],
)
def test_partial_attention_refuses(bad: dict[str, Any], message: str) -> None:
    partial_knowledge_attention(**arguments())
    with pytest.raises(UnsupportedInputError, match=message):
        partial_knowledge_attention(**arguments(**bad))


def test_queries_get_gradients_through_latents_here_too() -> None:
    made = batch([2], [(0, 40)], is_latent=True, dtype=FLOAT32)
    assert isinstance(made.knowledge, LatentKnowledge)
    found = []
    for knowledge in (made.knowledge, made.knowledge.to_dense()):
        query, bias = made.knowledge_query.clone().requires_grad_(), torch.zeros(1, requires_grad=True)
        output, lse = partial_knowledge_attention(query, knowledge, made.starts, knowledge_bias=bias)
        found.append(torch.autograd.grad(output.square().sum() + lse.sum(), [query, bias]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_two_parts_merge_to_one_softmax(data: st.DataObject) -> None:
    T, H, columns = (data.draw(st.integers(low, 5)) for low in (0, 1, 0))
    cut = data.draw(st.integers(0, columns))
    loud, draw = data.draw(st.sampled_from([1.0, 300.0])), torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    scores = loud * torch.randn(H, T, columns, generator=draw, dtype=torch.float64)
    scores = scores.masked_fill(torch.rand(scores.shape, generator=draw) > data.draw(st.floats(0, 1)), -INF)
    values = torch.randn(H, columns, 3, generator=draw, dtype=torch.float64)

    def part(of: slice) -> tuple[Tensor, Tensor]:
        lse = scores[..., of].logsumexp(-1)
        output = scores[..., of].softmax(-1) @ values[:, of]  # NaN where nothing is seen
        return output.transpose(0, 1), lse

    output, lse = merge_states(*part(slice(0, cut)), *part(slice(cut, None)))
    whole, whole_lse = part(slice(None))
    torch.testing.assert_close(output, whole.masked_fill((whole_lse == -INF).T[..., None], 0.0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(lse, whole_lse, rtol=1e-12, atol=1e-12)


def test_merged_parts_have_the_gradient_of_one_softmax() -> None:
    draw = torch.Generator().manual_seed(2)
    parts = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((3, 2, 4), (2, 3)) * 2]
    parts[1][0, 0] = parts[1][1, 2] = parts[3][1, 2] = -INF  # one sees nothing of the first, one nothing at all

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        hidden = [tensor.masked_fill(part == -INF, -INF) for tensor, part in zip(tensors, parts, strict=True)]
        output, lse = merge_states(*hidden)
        return output, lse.masked_fill(lse == -INF, 0.0)

    leaves = [part.masked_fill(part == -INF, 0.0).requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(run, leaves)


def test_merging_is_in_float32_and_nothing_with_nothing_is_nothing() -> None:
    output = torch.full((2, 1, 4), float("nan"), dtype=BFLOAT16)
    nothing = torch.full((1, 2), -INF)
    merged, lse = merge_states(output, nothing, output, nothing)
    assert (merged == 0).all()
    assert (lse == -INF).all()
    one = torch.ones_like(output)
    merged, lse = merge_states(one, torch.tensor([[0.0, 1.0]]), output, nothing)
    assert torch.equal(merged, one)
    assert torch.equal(lse, torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("other", [0.5, -INF, INF])
def test_an_lse_of_plus_infinity_is_a_row_that_saw_nothing_and_hides_no_nan(other: float) -> None:
    """FlashAttention 2 writes it for a row without a column, whose output is 0, and for a row of NaN."""
    nothing, above, lse = torch.zeros(2, 3, 4), torch.full((3, 2), INF), torch.full((3, 2), other)
    seen = torch.ones(2, 3, 4) if other == 0.5 else nothing
    expected = seen, torch.full((3, 2), 0.5 if other == 0.5 else -INF)
    for found in (merge_states(nothing, above, seen, lse), merge_states(seen, lse, nothing, above)):
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs)
    spoilt = torch.full((2, 3, 4), torch.nan)
    assert merge_states(spoilt, above, seen, lse)[0].isnan().all()
    assert merge_states(seen, lse, spoilt, above)[0].isnan().all()


@pytest.mark.parametrize(
    ("place", "bad", "message"),
    [
        (0, torch.zeros(2, 4), r"output_a must be .*\(total_tokens, Hq, D\).*\(2, 4\)"),
        (0, torch.zeros(2, 3, 4).int(), r"output_a must be a floating-point tensor.*int32"),
        (1, torch.zeros(2, 3), r"lse_a must be float32 \(Hq=3, total_tokens=2\).*\(2, 3\)"),
        (1, torch.zeros(3, 2).double(), r"lse_a must be float32.*float64"),
        (2, torch.zeros(2, 3, 5), r"output_b must be float32 \(total_tokens=2, Hq=3, D=4\).*\(2, 3, 5\)"),
        (3, torch.zeros(3, 2, device=META), "lse_b must be .* on cpu.*on meta"),
    ],
)
def test_merging_refuses(place: int, bad: Tensor, message: str) -> None:
    parts = [torch.zeros(2, 3, 4), torch.zeros(3, 2), torch.zeros(2, 3, 4), torch.zeros(3, 2)]
    merge_states(*parts)
    parts[place] = bad
    with pytest.raises(UnsupportedInputError, match=message):
        merge_states(*parts)


@pytest.mark.parametrize("hides", [torch.finfo(torch.float32).min, -3e38], ids=["the least number", "-3e38"])
@pytest.mark.parametrize(("is_latent", "storage"), LAYOUTS)
def test_the_least_number_hides_as_minus_infinity_does(
    backend: str, is_latent: bool, storage: torch.dtype | None, hides: float
) -> None:
    """As masks of transformers write it. Kernels that keep scores times log2(e) cannot tell the two apart."""
    made = batch([1, 3, 2], [(0, 40), (5, 17), (0, 30)], is_latent=is_latent, dtype=torch.float32, storage=storage)
    hidden, seen = (dataclasses.replace(made, bias=torch.tensor([0.5, bias, -1.0])) for bias in (hides, -INF))
    (output, lse), (expected, expected_lse) = hidden.run(backend), seen.run(backend)
    assert (output[1:4] == 0).all()
    assert (lse[:, 1:4] == -INF).all()
    assert torch.equal(output, expected)
    assert torch.equal(lse, expected_lse)
