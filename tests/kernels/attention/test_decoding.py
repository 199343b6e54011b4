"""`RectangularAttention`: the bits of `rectangular_attention`, planned once, and as strict as it in every step."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import (
    BackendUnavailableError,
    DenseKnowledge,
    LatentKnowledge,
    RectangularAttention,
    UnsupportedInputError,
    rectangular_attention,
)
from kblam_kernels.attention import decoding
from tests.kernels.problems import INF, make_latent

B, HQ, HKV, M, D, P = 2, 4, 2, 300, 16, 24


def step(
    new: int, past: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query, key, value, knowledge query of `new` tokens after `past`."""
    draw = torch.Generator().manual_seed(seed)
    heads_and_tokens = ((HQ, new), (HKV, past + new), (HKV, past + new), (HQ, new))
    query, key, value, r = (torch.randn(B, h, n, D, generator=draw).to(dtype) for h, n in heads_and_tokens)
    return query, key, value, r


def dense(*rows: int) -> DenseKnowledge:
    draw = torch.Generator().manual_seed(1)
    return DenseKnowledge(*(torch.randn(*rows, HQ, M, D, generator=draw) for _ in range(2)))


def latent(dtype: torch.dtype = torch.float32, storage: torch.dtype | None = None) -> LatentKnowledge:
    knowledge: LatentKnowledge = make_latent(B=1, H=HQ, G=HKV, N=1, M=M, D=D, P=P).to(dtype, storage).knowledge
    return knowledge


# Knowledge, options, new tokens; whether steps go straight to a C++ op.
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any], int, bool]] = {
    "dense": (dense, {}, 1, True),
    "dense, several tokens": (dense, {}, 20, True),
    "dense of each row": (lambda: dense(B), {}, 2, True),
    "latent": (latent, {}, 1, True),
    "latent, int8": (lambda: latent(storage=torch.int8), {"int8_products": True}, 4, True),
    "latent, more than one op": (latent, {}, 5, False),
    "reference": (dense, {"backend": "reference"}, 1, False),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "number": {"knowledge_bias": -0.5, "scale": 0.3},
    "bias": {"knowledge_bias": torch.randn(M).index_fill(0, torch.arange(0, M, 3), -INF)},
    "bias of each row": {"knowledge_bias": torch.randn(B, M)},
    "range": {"knowledge_range": torch.tensor([[0, M], [10, 20]], dtype=torch.int32)},
    "wide range": {"knowledge_range": torch.tensor([[-5, 2**40], [10, 20]])},
    "window": {"window": 3},
}


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on, checking the whole call is an error."""

    def called(*_: Any, **__: Any) -> None:
        raise AssertionError("the whole call was checked")

    return lambda: monkeypatch.setattr(decoding, "call_of", called)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_has_the_bits_of_the_plain_call(kind: str, options: str, library: None) -> None:
    knowledge, fixed, new, _ = KINDS[kind]
    knowledge, given = knowledge(), OPTIONS[options]
    attend = RectangularAttention(knowledge, **fixed)
    for past in (4, 4 + new, 9 + new):
        query, key, value, r = step(new, past, seed=past)
        mask = torch.rand(B, past + new, generator=torch.Generator().manual_seed(past)) > 0.3
        for prompt_mask in (None, mask):
            expected = rectangular_attention(
                query, key, value, knowledge, r, prompt_mask=prompt_mask, return_lse=True, **fixed, **given
            )
            actual = attend(query, key, value, r, prompt_mask=prompt_mask, **given)
            assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_padding_holds_is_not_read(kind: str, library: None) -> None:
    knowledge, fixed, new, _ = KINDS[kind]
    attend = RectangularAttention(knowledge(), **fixed)
    for past in (4, 5, 6):
        query, key, value, r = step(new, past, seed=past)
        mask = torch.ones(B, past + new, dtype=torch.bool)
        mask[0], mask[1, :3] = False, False  # a row of padding alone, and one with padding on the left
        expected = attend(query, key, value, r, prompt_mask=mask)
        for tensor in (query, r):
            tensor[0] = float("nan")
        for tensor in (key, value):
            tensor.masked_fill_(~mask[:, None, :, None], float("nan"))
        actual = attend(query, key, value, r, prompt_mask=mask)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_later_calls_go_straight_to_the_op(kind: str, straight: Callable[[], None], library: None) -> None:
    knowledge, fixed, new, goes_straight = KINDS[kind]
    attend = RectangularAttention(knowledge(), **fixed)
    attend(*step(new, 4))
    straight()
    if goes_straight:
        attend(*step(new, 5))
    else:
        with pytest.raises(AssertionError, match="the whole call was checked"):
            attend(*step(new, 5))
    # Another shape, and other options of the same shape, are planned anew.
    for change, options in ((3, {}), (new, {"scale": 0.7}), (new, {"window": 2})):
        with pytest.raises(AssertionError, match="the whole call was checked"):
            attend(*step(change, 5), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_says_what_steps_will_do(kind: str, library: None) -> None:
    knowledge, fixed, new, goes_straight = KINDS[kind]
    attend = RectangularAttention(knowledge(), **fixed)
    assert attend.planned is None
    planned = attend.plan(*step(new, 4), scale=0.3, window=5)
    assert attend.planned is planned
    assert planned.backend == fixed.get("backend", "cpu")
    assert (planned.straight is not None) == goes_straight
    query, key, value, r = step(new, 6)
    expected = rectangular_attention(
        query, key, value, attend.knowledge, r, scale=0.3, window=5, return_lse=True, **fixed
    )
    assert all(torch.equal(ours, e) for ours, e in zip(attend.run(query, key, value, r), expected, strict=True))
    assert attend.planned is planned


def test_a_step_that_was_not_planned_is_refused(library: None) -> None:
    attend = RectangularAttention(dense())
    with pytest.raises(UnsupportedInputError, match=r"call plan first: nothing was planned.*\(2, 4, 1, 16\)"):
        attend.run(*step(1, 4))
    attend.plan(*step(1, 4))
    message = r"float32 \(2, 4, 1, 16\) was planned, and this query is torch.float32 of shape \(2, 4, 2, 16\)"
    with pytest.raises(UnsupportedInputError, match=message):
        attend.run(*step(2, 4))
    with pytest.raises(UnsupportedInputError, match=r"this query is torch.bfloat16"):
        attend.run(*step(1, 4, dtype=torch.bfloat16))


def test_a_plan_that_nobody_can_serve_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    attend = RectangularAttention(dense(), backend="triton")
    with pytest.raises(BackendUnavailableError, match="'triton' cannot serve"):
        attend.plan(*step(1, 4))
    query, key, value, r = step(1, 4)
    with pytest.raises(UnsupportedInputError, match=r"key is torch\.bfloat16"):
        attend.plan(query, key.bfloat16(), value, r)
    assert attend.planned is None


@pytest.mark.parametrize("variable", ["KBLAM_BACKEND", "KBLAM_BUILD"])
def test_the_environment_is_read_when_planning(variable: str, monkeypatch: pytest.MonkeyPatch, library: None) -> None:
    attend = RectangularAttention(dense())
    attend.plan(*step(1, 4))
    monkeypatch.setenv(variable, "reference" if variable == "KBLAM_BACKEND" else "0")
    attend(*step(1, 5))
    assert attend.planned is not None
    assert attend.planned.backend == "cpu"
    assert attend.plan(*step(1, 5)).backend == "reference"


def test_without_a_query_of_its_own_the_knowledge_meets_the_query(library: None) -> None:
    query, key, value, _ = step(1, 4)
    attend = RectangularAttention(dense())
    for _ in range(2):
        assert torch.equal(attend(query, key, value)[0], attend(query, key, value, query)[0])


def test_what_is_written_in_place_is_seen(straight: Callable[[], None], library: None) -> None:
    knowledge, ranges = latent(), torch.tensor([[0, 5], [0, 5]], dtype=torch.int32)
    attend = RectangularAttention(knowledge)
    arguments = step(1, 4)
    before, _ = attend(*arguments, knowledge_range=ranges)
    expected = [before]
    knowledge.value[3] += 1
    expected.append(rectangular_attention(*arguments[:3], knowledge, arguments[3], knowledge_range=ranges))
    ranges[:, 1] = 7
    expected.append(rectangular_attention(*arguments[:3], knowledge, arguments[3], knowledge_range=ranges))
    straight()
    assert torch.equal(attend(*arguments, knowledge_range=ranges)[0], expected[2])
    ranges[:, 1] = 5
    assert torch.equal(attend(*arguments, knowledge_range=ranges)[0], expected[1])
    assert not torch.equal(expected[0], expected[1])
    assert not torch.equal(expected[1], expected[2])


@pytest.mark.parametrize("knowledge", [dense, latent])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda q, k, v, r: ((q, k.bfloat16(), v, r), {}), "key is torch.bfloat16"),
        (lambda q, k, v, r: ((q, k[..., :8], v, r), {}), "key and value must both be"),
        (lambda q, k, v, r: ((q, k, v[:, :, 1:], r), {}), "key and value must both be"),
        (lambda q, k, v, r: ((q, k[0], v[0], r), {}), "key must be of rank 4"),
        (lambda q, k, v, r: ((q, None, v, r), {}), "key must be a tensor; got NoneType"),
        (lambda q, k, v, r: ((q, k, [v], r), {}), "value must be a tensor; got list"),
        (lambda q, k, v, r: ((q, k[0, 0], v[0, 0], r), {}), "key must be of rank 4"),
        (lambda q, k, v, r: ((q, k[:, :, :0], v[:, :, :0], r), {}), "key must hold the N=1 new tokens"),
        (lambda q, k, v, r: ((q, k, v, r[:, :2]), {}), "knowledge_query must have the shape"),
        (lambda q, k, v, r: ((q, k, v, r.double()), {}), "knowledge_query is torch.float64"),
        (lambda q, k, v, r: ((q, k, v, r), {"knowledge_bias": float("nan")}), "knowledge_bias must be finite or -inf"),
        (lambda q, k, v, r: ((q, k, v, r), {"knowledge_bias": torch.zeros(7)}), r"\(M=300,\)"),
        (lambda q, k, v, r: ((q, k, v, r), {"prompt_mask": torch.ones(B, 2, dtype=torch.bool)}), "prompt_mask must"),
        (lambda q, k, v, r: ((q, k, v, r), {"knowledge_range": torch.zeros(B, 2)}), "knowledge_range must be int32"),
        (lambda q, k, v, r: ((q, k.to("meta"), v, r), {}), r"key is torch\.float32 on meta"),
    ],
)
def test_bad_input_is_refused_in_every_call(knowledge: Any, spoil: Any, message: str, library: None) -> None:
    attend = RectangularAttention(knowledge())
    good = step(1, 4)
    expected = attend(*good)
    arguments, options = spoil(*good)
    for _ in range(2):
        with pytest.raises(UnsupportedInputError, match=message):
            attend(*arguments, **options)
    assert torch.equal(attend(*good)[0], expected[0])


def test_strides_that_the_op_does_not_take_are_served_by_another_backend_or_refused_by_name(library: None) -> None:
    query, key, value, r = step(1, 4)
    strided = torch.stack([key, key], dim=-1)[..., 0]
    assert strided.stride(-1) == 2
    attend, by_name = RectangularAttention(dense()), RectangularAttention(dense(), backend="cpu")
    expected = attend(query, key, value, r)
    assert attend.planned is not None
    assert attend.planned.backend == "cpu"
    torch.testing.assert_close(attend.run(query, strided, value, r), expected)
    assert attend.plan(query, strided, value, r).backend == "reference"
    torch.testing.assert_close(attend.run(query, strided, value, r), expected)
    by_name(query, key, value, r)
    with pytest.raises(BackendUnavailableError, match=r"'cpu' cannot serve this call: .*not contiguous; call \.contig"):
        by_name.run(query, strided, value, r)


def test_a_backend_that_cannot_serve_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BUILD", "0")
    attend = RectangularAttention(dense(), backend="cpu")
    for _ in range(2):
        with pytest.raises(BackendUnavailableError, match="KBLAM_BUILD=0"):
            attend(*step(1, 4))


def test_where_a_gradient_is_asked_for_there_is_one(library: None) -> None:
    attend = RectangularAttention(dense())
    arguments = step(1, 4)
    attend(*arguments)
    with torch.enable_grad():
        query, *rest = arguments
        query.requires_grad_()
        output, _ = attend(query, *rest)
        (gradient,) = torch.autograd.grad(output.sum(), query)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("knowledge", [dense, latent])
def test_a_compiler_traces_through_it(knowledge: Any, library: None) -> None:
    attend = RectangularAttention(knowledge())
    attend(*step(1, 4))

    def doubled(*arguments: Tensor) -> Tensor:
        return 2 * attend(*arguments)[0]

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    for seed in (1, 2):
        torch.testing.assert_close(compiled(*step(1, 4, seed)), doubled(*step(1, 4, seed)))


def hidden_and_weight(new: int, width: int = 10, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    sizes = ((B, new, width), (HQ * D, width))
    return tuple(torch.randn(*size, generator=draw).to(dtype) for size in sizes)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_query_that_is_still_to_be_made(kind: str, dtype: torch.dtype, library: None) -> None:
    knowledge, fixed, new, _ = KINDS[kind]
    knowledge = knowledge()
    if isinstance(knowledge, DenseKnowledge):
        knowledge = DenseKnowledge(knowledge.key.to(dtype), knowledge.value.to(dtype))
    else:
        knowledge = latent(dtype, torch.int8 if knowledge.key.dtype == torch.int8 else None)
    attend = RectangularAttention(knowledge, **fixed)
    query, key, value, _ = step(new, 4, dtype=dtype)
    hidden, weight = hidden_and_weight(new, dtype=dtype)
    exact = (hidden.double() @ weight.double().T).view(B, new, HQ, D).transpose(1, 2)
    found = []
    for _ in range(2):
        output, lse, r = attend.of_hidden_states(query, key, value, hidden, weight)
        assert r.dtype == dtype
        torch.testing.assert_close(r.double(), exact, rtol=torch.finfo(dtype).eps, atol=16 * torch.finfo(dtype).eps)
        expected, expected_lse = attend(query, key, value, r)
        # It is the query that was attended with, rounded as it is given back.
        assert torch.equal(output, expected)
        assert torch.equal(lse, expected_lse)
        found.append(output)
    assert torch.equal(*found), "the first call has the bits of all"


def test_a_row_of_hidden_states_has_the_bits_it_has_alone(library: None) -> None:
    query, key, value, _ = step(2, 4)
    hidden, weight = hidden_and_weight(2, width=50)
    attend = RectangularAttention(latent())
    together = attend.of_hidden_states(query, key, value, hidden, weight)
    alone = attend.of_hidden_states(query[1:], key[1:], value[1:], hidden[1:], weight)
    assert all(torch.equal(a[0], t[1]) for a, t in zip(alone, together, strict=True))


@pytest.mark.parametrize("knowledge", [dense, latent])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda h, w: (h[:1], w), r"hidden_states must be \(B=2, N=1, width\)"),
        (lambda h, w: (h[0], w), r"hidden_states must be \(B=2, N=1, width\)"),
        (lambda h, w: (h, w[:-1]), r"query_weight \(Hq \* D = 64, width\)"),
        (lambda h, w: (h, w[:, :-1]), r"query_weight \(Hq \* D = 64, width\)"),
    ],
)
def test_hidden_states_that_do_not_fit_are_refused(knowledge: Any, spoil: Any, message: str, library: None) -> None:
    attend = RectangularAttention(knowledge())
    query, key, value, _ = step(1, 4)
    for _ in range(2):
        with pytest.raises(UnsupportedInputError, match=message):
            attend.of_hidden_states(query, key, value, *spoil(*hidden_and_weight(1)))


@pytest.mark.parametrize("width", [7, 8], ids=["odd", "gaps"])
def test_hidden_states_that_the_op_does_not_multiply_are_served(width: int, library: None) -> None:
    query, key, value, _ = step(1, 4)
    hidden, weight = hidden_and_weight(1, width=width)
    if width == 8:
        hidden, weight = (torch.stack([t, t], -1)[..., 0] for t in (hidden, weight))
    attend = RectangularAttention(latent())
    output, _, r = attend.of_hidden_states(query, key, value, hidden, weight)
    assert torch.equal(r, torch.nn.functional.linear(hidden, weight).view(B, 1, HQ, D).transpose(1, 2))
    assert torch.equal(output, attend(query, key, value, r)[0])


def test_threads_that_share_an_object_plan_for_themselves() -> None:
    attend = RectangularAttention(dense(), backend="reference")
    query, key, value, r = step(1, 4)
    attend.plan(query, key, value, r, scale=0.3)
    with ThreadPoolExecutor(1) as other:
        other.submit(attend.plan, query, key, value, r, scale=0.9).result()
        theirs = other.submit(attend.run, query, key, value, r).result()
    ours = attend.run(query, key, value, r)
    for found, scale in ((ours, 0.3), (theirs, 0.9)):
        expected = rectangular_attention(query, key, value, dense(), r, scale=scale, backend="reference")
        assert torch.equal(found[0], expected)
    twin = copy.deepcopy(attend)
    assert twin.planned is None
    assert torch.equal(twin(query, key, value, r, scale=0.3)[0], ours[0])


def test_rows_of_a_strided_norm_may_change_between_steps(library: None) -> None:
    knowledge = latent()
    wide = torch.stack([knowledge.norm, knowledge.norm], 1)
    knowledge = dataclasses.replace(knowledge, norm=wide[:, 0])
    attend = RectangularAttention(knowledge)
    arguments = step(1, 4)
    attend(*arguments)
    wide[:, 0] *= 3
    assert torch.equal(attend(*arguments)[0], rectangular_attention(*arguments[:3], knowledge, arguments[3]))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("which", range(4), ids=["query", "key", "value", "knowledge query"])
def test_a_step_of_other_strides_is_looked_at_anew(which: int) -> None:
    """Triton's kernels take the last dimension to be contiguous."""
    attend = RectangularAttention(dense(), backend="triton")
    tensors = list(step(1, 4))
    attend(*tensors)
    tensors[which] = (
        tensors[which].mT.contiguous().mT if which in (1, 2) else torch.stack([tensors[which]] * 2, -1)[..., 0]
    )
    assert tensors[which].stride(-1) != 1
    with pytest.raises(BackendUnavailableError, match="the last dimension of a tensor is not contiguous"):
        attend(*tensors)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("knowledge", [dense, latent], ids=["dense", "latent"])
def test_a_plan_keeps_no_prompt_in_memory(knowledge: Callable[[], Any]) -> None:
    attend = RectangularAttention(knowledge())
    tensors = step(1, 4)
    with torch.no_grad():
        attend(*tensors)
    assert attend.planned is not None
    assert attend.planned.backend == "cpu"
    alive = [weakref.ref(tensor) for tensor in tensors]
    del tensors
    assert [ref() for ref in alive] == [None] * 4


@pytest.mark.parametrize(("name", "other"), [("knowledge", dense()), ("int8_products", True), ("backend", "cpu")])
def test_what_a_plan_holds_cannot_be_set(name: str, other: Any) -> None:
    """A plan would go on with what it was made for."""
    attend = RectangularAttention(dense(), backend="reference")
    query, key, value, r = step(1, 3)
    expected = attend(query, key, value, r)
    with pytest.raises(UnsupportedInputError, match=f"{name} cannot be set.*make another RectangularAttention"):
        setattr(attend, name, other)
    for again in (attend, copy.deepcopy(attend)):
        assert all(
            torch.equal(ours, theirs) for ours, theirs in zip(again(query, key, value, r), expected, strict=True)
        )
        assert (again.int8_products, again.backend) == (False, "reference")
