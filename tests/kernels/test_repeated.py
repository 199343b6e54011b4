"""`RectangularAttention`: the bits of `rectangular_attention`, checked once, and as strict as it in every call."""

from __future__ import annotations

from collections.abc import Callable
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
    native,
    rectangular_attention,
)
from kblam_kernels.rectangular import repeated
from tests.kernels.latent.latent_problems import make

B, HQ, HKV, M, D, P = 2, 4, 2, 300, 16, 24
INF = float("inf")


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
    return make(B=1, H=HQ, G=HKV, N=1, M=M, D=D, P=P).to(dtype, storage).knowledge


# Knowledge, options, new tokens; whether calls after the first go straight to a C++ op.
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any], int, bool]] = {
    "dense": (dense, {}, 1, True),
    "dense, several tokens": (dense, {}, 20, True),
    "dense of each row": (lambda: dense(B), {}, 2, True),
    "latent": (latent, {}, 1, True),
    "latent, int8": (lambda: latent(storage=torch.int8), {"int8_products": True}, 4, True),
    "latent, skipping": (latent, {"skip_threshold": 0.2}, 1, True),
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
def library() -> None:
    if (reason := native.unavailable()) is not None:
        pytest.skip(reason)


@pytest.fixture
def straight(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on the whole call is an error, and so is checking everything."""

    def forbidden(name: str) -> Callable[..., None]:
        def called(*_: Any, **__: Any) -> None:
            raise AssertionError(f"{name} was called")

        return called

    def forbid() -> None:
        for name in ("rectangular_attention", "check_call"):
            monkeypatch.setattr(repeated, name, forbidden(name))

    return forbid


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
def test_later_calls_go_straight_to_the_op(kind: str, straight: Callable[[], None], library: None) -> None:
    knowledge, fixed, new, goes_straight = KINDS[kind]
    attend = RectangularAttention(knowledge(), **fixed)
    attend(*step(new, 4))
    straight()
    if goes_straight:
        attend(*step(new, 5))
    else:
        with pytest.raises(AssertionError, match="rectangular_attention was called"):
            attend(*step(new, 5))
    # Another shape, and other options of the same shape, are looked at anew.
    for change, options in ((3, {}), (new, {"scale": 0.7}), (new, {"window": 2})):
        with pytest.raises(AssertionError, match="check_call was called"):
            attend(*step(change, 5), **options)


def test_without_a_query_of_its_own_the_knowledge_meets_the_query(library: None) -> None:
    query, key, value, _ = step(1, 4)
    attend = RectangularAttention(dense())
    for _ in range(2):
        assert torch.equal(attend(query, key, value)[0], attend(query, key, value, query)[0])


def test_what_is_written_in_place_is_seen(straight: Callable[[], None], library: None) -> None:
    knowledge, span = latent(), torch.tensor([[0, 5], [0, 5]], dtype=torch.int32)
    attend = RectangularAttention(knowledge)
    arguments = step(1, 4)
    before, _ = attend(*arguments, knowledge_range=span)
    expected = [before]
    knowledge.value[3] += 1
    expected.append(rectangular_attention(*arguments[:3], knowledge, arguments[3], knowledge_range=span))
    span[:, 1] = 7
    expected.append(rectangular_attention(*arguments[:3], knowledge, arguments[3], knowledge_range=span))
    straight()
    assert torch.equal(attend(*arguments, knowledge_range=span)[0], expected[2])
    span[:, 1] = 5
    assert torch.equal(attend(*arguments, knowledge_range=span)[0], expected[1])
    assert not torch.equal(expected[0], expected[1])
    assert not torch.equal(expected[1], expected[2])


def test_tiles_skipped_are_counted_in_every_call(library: None) -> None:
    counts = torch.zeros(2, dtype=torch.int64)
    attend = RectangularAttention(latent(), skip_threshold=0.9, skip_counts=counts)
    seen = []
    for _ in range(3):
        attend(*step(1, 4))
        seen.append(counts.tolist())
    assert seen[0][1] > 0
    assert seen == [[n * first for first in seen[0]] for n in (1, 2, 3)]


@pytest.mark.parametrize("knowledge", [dense, latent])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda q, k, v, r: ((q, k.bfloat16(), v, r), {}), "key is torch.bfloat16"),
        (lambda q, k, v, r: ((q, k[..., :8], v, r), {}), "key and value must both be"),
        (lambda q, k, v, r: ((q, k, v[:, :, 1:], r), {}), "key and value must both be"),
        (lambda q, k, v, r: ((q, k[0], v[0], r), {}), "key must be of rank 4"),
        (lambda q, k, v, r: ((q, k[:, :, :0], v[:, :, :0], r), {}), "key must hold the N=1 new tokens"),
        (lambda q, k, v, r: ((q, k, v, r[:, :2]), {}), "knowledge_query must have the shape"),
        (lambda q, k, v, r: ((q, k, v, r.double()), {}), "knowledge_query is torch.float64"),
        (lambda q, k, v, r: ((q, k, v, r), {"knowledge_bias": float("nan")}), "knowledge_bias must be finite or -inf"),
        (lambda q, k, v, r: ((q, k, v, r), {"knowledge_bias": torch.zeros(7)}), r"\(M=300,\)"),
        (lambda q, k, v, r: ((q, k, v, r), {"prompt_mask": torch.ones(B, 2, dtype=torch.bool)}), "prompt_mask must"),
        (lambda q, k, v, r: ((q, k, v, r), {"knowledge_range": torch.zeros(B, 2)}), "knowledge_range must be int32"),
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


def test_a_tensor_that_the_op_does_not_take_is_served_as_ever(library: None) -> None:
    query, key, value, r = step(1, 4)
    attend = RectangularAttention(dense())
    attend(query, key, value, r)
    strided = torch.stack([key, key], dim=-1)[..., 0]
    assert strided.stride(-1) == 2
    torch.testing.assert_close(attend(query, strided, value, r), attend(query, key, value, r))


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
    attend = RectangularAttention(knowledge, **{**fixed, "skip_threshold": 0.0})
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


def test_hidden_states_of_an_odd_width_are_served(library: None) -> None:
    query, key, value, _ = step(1, 4)
    hidden, weight = hidden_and_weight(1, width=7)
    attend = RectangularAttention(latent())
    output, _, r = attend.of_hidden_states(query, key, value, hidden, weight)
    assert torch.equal(r, torch.nn.functional.linear(hidden, weight).view(B, 1, HQ, D).transpose(1, 2))
    assert torch.equal(output, attend(query, key, value, r)[0])
