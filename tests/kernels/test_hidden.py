"""What a call does not see may hold NaN: outside a row's range, under the prompt mask, and in rows of padding."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels.common import columns
from tests.kernels import ops, ways
from tests.kernels.ops import CPP_WAYS, SMALL, TRITON_WAYS
from tests.kernels.problems import INF, EvidenceProblem, evidence_of, make
from tests.kernels.ways import DTYPES, FLOAT32, STORAGE, Way

SPECIFIED_WAYS = [dataclasses.replace(way, backend="reference", mixes=False) for way in CPP_WAYS]
# Dense knowledge has the query's dtype.
STORED_WAYS = [
    pytest.param(way, storage, id=f"{way.backend}-{way.name}-{ways.stored(storage)}")
    for way in (*TRITON_WAYS, *CPP_WAYS, *SPECIFIED_WAYS)
    for storage in (STORAGE if way.name.startswith(("latent", "evidence")) else (None,))
]


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(("way", "storage"), STORED_WAYS)
def test_what_lies_outside_the_range_is_not_read(way: Way, storage: torch.dtype | None) -> None:
    shown = torch.tensor([[7, 201]]).expand(2, 2)
    options: dict[str, Any] = {"H": 2, "G": 1, "M": 333, "knowledge_range": shown}
    if storage is not None:
        options["storage"] = storage
    # Of one new token evidence is of latents.
    for N in (1, 2, *((9, 20) if way.backend == "cpu" else ())) if storage is None else (1,):
        problem = ops.usual(way, N, **options)
        before = way.bits(problem)
        knowledge = ops.attention_of(problem).knowledge
        # What quantised latents say beside their numbers are their scales and norm.
        for name in ("key", "value", "norm", "key_scale", "value_scale"):
            tensor = getattr(knowledge, name, None)
            if tensor is not None and tensor.dtype != torch.int8:
                tokens = tensor if tensor.dim() < 3 else tensor.transpose(0, 1)
                for part in (tokens[:7], tokens[201:]):
                    part.copy_(torch.full(part.shape, float("nan")))
        for ours, theirs in zip(way.bits(problem), before, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("served", "rows_apart")
@pytest.mark.parametrize("N", [1, 20])
@pytest.mark.parametrize(("way", "storage"), STORED_WAYS)
def test_a_triple_that_one_batch_row_sees_reaches_no_other(way: Way, storage: torch.dtype | None, N: int) -> None:
    if way.backend == "triton":
        N = min(N, 2)  # the interpreter is slow, and its tiles are of any number of rows
    shown = torch.tensor([[0, 140], [7, 90]])
    if way.name == "evidence" and N % 2 == 0 and storage is not None:
        pytest.skip("dense keys have no storage of their own")
    options: dict[str, Any] = {} if storage is None else {"storage": storage}
    problem = ops.usual(way, N, H=2, G=1, knowledge_range=shown, **options)
    before = way.bits(problem)
    knowledge = ops.attention_of(problem).knowledge
    for name in ("key", "value", "norm", "key_scale", "value_scale"):
        tensor = getattr(knowledge, name, None)
        if tensor is not None and tensor.dtype != torch.int8:
            tokens = tensor if tensor.dim() < 3 else tensor.transpose(0, 1)
            for token in (3, 100):
                tokens[token] = torch.full_like(tokens[token].float(), float("nan")).to(tensor.dtype)
    after = way.bits(problem)
    assert after[0][0].isnan().any()
    for ours, theirs in zip(after, before, strict=True):
        assert torch.equal(ours[1], theirs[1])


def check_that_later_tokens_are_not_read(way: Way, N: int, dtype: torch.dtype, *, bits: bool = True) -> None:
    """NaN and infinity in the last new token, and in one that only the first new token's window reaches."""
    for window in (None, 4):
        problem = ops.usual(way, N, dtype, H=4, G=2, M=40, window=window)
        attention = ops.attention_of(problem)
        T = attention.key.shape[2]
        hidden = torch.zeros(T, 1, dtype=torch.bool)
        hidden[-1] = True
        seen_by = [N - 1]
        if window is not None:
            hidden[T - N + 1 - window] = True
            seen_by = [0, N - 1]
        others = [n for n in range(N) if n not in seen_by]
        for poison in (float("nan"), float("inf")):
            kept = {name: getattr(attention, name).masked_fill(hidden, poison) for name in ("key", "value")}
            with way.taken():
                found, before = problem.but(**kept).run(way.backend), problem.run(way.backend)
            assert not found[0][:, :, seen_by].isfinite().any()
            for ours, theirs in zip(found, before, strict=True):
                if bits:
                    assert torch.equal(ours[:, :, others], theirs[:, :, others])
                torch.testing.assert_close(ours[:, :, others], theirs[:, :, others])


ATTENTION = [way for way in CPP_WAYS if not way.name.startswith("evidence")]


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("N", [1, 3, 20])
@pytest.mark.parametrize(
    "way", [way for way in (*TRITON_WAYS, *ATTENTION) if way.name != "evidence"], ids=lambda w: f"{w.backend}-{w.name}"
)
def test_infinite_scores_mean_the_same_everywhere(way: Way, N: int) -> None:
    """-inf in all that a row sees makes it a row of padding, infinity NaN; a product may overflow before its scale."""
    N = min(N, 3) if way.name == "latent" and way.backend == "triton" else N  # the interpreter is slow
    problem = ops.usual(way, N, H=2, G=1, M=40, window=1, scale=0.5)
    problem.query[:, :, -1] = 2.0
    for large in (3e38, -3e38):
        problem.key[:, :, -1] = large  # a product is infinite, half of it is not
        with way.taken():
            found = problem.run(way.backend)
        for ours, theirs in zip(found, problem.run("reference"), strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
        assert (found[0][:, :, -1] == 0).all() if large < 0 else found[0][:, :, -1].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [3, 20, 150])
@pytest.mark.parametrize("way", ATTENTION, ids=lambda way: way.name)
def test_later_tokens_may_be_nan_in_cpp(way: Way, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    check_that_later_tokens_are_not_read(way, N, dtype)


@pytest.mark.parametrize("N", [3, 20])
@pytest.mark.parametrize("way", ATTENTION, ids=lambda way: way.name)
def test_later_tokens_may_be_nan_in_the_specification(way: Way, N: int) -> None:
    # A matrix product of one row is not summed as one of many.
    way = dataclasses.replace(way, backend="reference")
    check_that_later_tokens_are_not_read(way, N, torch.float64, bits=False)


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("way", ATTENTION, ids=lambda way: way.name)
def test_later_tokens_may_be_nan_where_nobody_may_look(way: Way, N: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a look would wait for the device."""
    monkeypatch.setattr(columns, "may_be_read", lambda tensor: False)
    way = dataclasses.replace(way, backend="reference")
    check_that_later_tokens_are_not_read(way, N, torch.float64, bits=False)


def check_that_padding_is_not_read(way: Way, N: int, dtype: torch.dtype, **options: Any) -> None:
    """Keys and values that the mask hides, and queries that see no column: NaN there changes no bit."""
    T = N + 9
    mask = torch.ones(2, T, dtype=torch.bool)
    mask[0, : T - N // 2] = False  # left padding, into the new tokens; all of the row if there is one
    mask[1, 2:7:2] = False
    problem = ops.usual(way, N, dtype, H=4, G=2, M=40, prompt_mask=mask, **options)
    attention = ops.attention_of(problem)
    hidden, padding = ~mask[:, None, :, None], (attention.run()[1] == -INF)[..., None]
    assert padding.any()
    kept = {"key": hidden, "value": hidden, "query": padding, "knowledge_query": padding}
    poisoned = problem.but(
        **{name: getattr(attention, name).masked_fill(where, float("nan")) for name, where in kept.items()}
    )
    with way.taken():
        found, before = poisoned.run(way.backend), problem.run(way.backend)
    for ours, theirs in zip(found, before, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("N", [1, 3, 20])
@pytest.mark.parametrize("way", TRITON_WAYS, ids=lambda way: way.name)
def test_padding_may_be_nan_in_triton(way: Way, N: int) -> None:
    # Four heads of nine are two row tiles of latents, as of twenty, and half the work of the interpreter.
    check_that_padding_is_not_read(way, 9 if way.name == "latent" and N == 20 else N, FLOAT32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [1, 3, 20])
@pytest.mark.parametrize("way", CPP_WAYS, ids=lambda way: way.name)
def test_padding_may_be_nan_in_cpp(way: Way, N: int, dtype: torch.dtype, instruction_set: str) -> None:
    for D in (24, 16, 18):  # a rest of each kind of vector
        check_that_padding_is_not_read(way, N, dtype, D=D)


@pytest.mark.parametrize("op", SMALL)
def test_padding_may_be_nan_in_the_specification(op: str) -> None:
    way = next(way for way in CPP_WAYS if way.name.startswith(op))
    for N in (1, 2, 3):
        check_that_padding_is_not_read(dataclasses.replace(way, backend="reference"), N, torch.float64)


def test_padding_may_be_nan_in_the_backward() -> None:
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, :7] = False
    problem = make(prompt_mask=mask)
    hidden, padding = ~mask[:, None, :, None], (problem.run()[1] == -INF)[..., None]
    kept = {"key": hidden, "value": hidden, "query": padding, "knowledge_query": padding}
    poisoned = {name: getattr(problem, name).masked_fill(where, float("nan")) for name, where in kept.items()}
    for ours, theirs in zip(problem.but(**poisoned).gradients(), problem.gradients(), strict=True):
        assert torch.equal(ours, theirs)
    masses = evidence_of(problem)

    def gradients(of: EvidenceProblem) -> tuple[Tensor, ...]:
        leaves = of.leaves()
        inputs = (leaves.attention.knowledge_query, leaves.attention.knowledge_key)
        return torch.autograd.grad(leaves.run()[0].square().sum(), inputs)

    for ours, theirs in zip(gradients(masses.but(**poisoned)), gradients(masses), strict=True):
        assert torch.equal(ours, theirs)
