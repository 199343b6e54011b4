"""Every input that is not taken is refused with its value in the message."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import (
    DenseKnowledge,
    KernelError,
    KnowledgePlan,
    RectangularAttention,
    UnsupportedInputError,
    evidence,
    explain,
    knowledge_lse,
    paged_prompt_attention,
    partial_knowledge_attention,
    prune,
    rectangular_attention,
)

B, H, G, N, T, M, D = 2, 4, 2, 3, 5, 7, 8


def good() -> dict[str, Any]:
    return {
        "query": torch.randn(B, H, N, D),
        "key": torch.randn(B, G, T, D),
        "value": torch.randn(B, G, T, D),
        "knowledge": DenseKnowledge(torch.randn(H, M, D), torch.randn(H, M, D)),
        "knowledge_query": torch.randn(B, H, N, D),
    }


def dense(*shape: int, **kwargs: Any) -> DenseKnowledge:
    return DenseKnowledge(torch.randn(*shape, **kwargs), torch.randn(*shape, **kwargs))


def key_value(*shape: int, **kwargs: Any) -> dict[str, Tensor]:
    return {"key": torch.randn(*shape, **kwargs), "value": torch.randn(*shape, **kwargs)}


META = torch.device("meta")
BAD: list[Any] = [
    pytest.param({"query": torch.randn(H, N, D)}, r"query must be of rank 4.*\(4, 3, 8\)", id="query-rank"),
    pytest.param({"value": torch.randn(B, G, T, D, 1)}, r"value must be of rank 4.*5, 8, 1\)", id="value-rank"),
    pytest.param({"value": torch.randn(B, G, T + 1, D)}, r"got \(2, 2, 5, 8\) and \(2, 2, 6, 8\)", id="value-length"),
    pytest.param(key_value(B + 1, G, T, D), r"B=2.*got \(3, 2, 5, 8\)", id="key-batch"),
    pytest.param(key_value(B, G, T, D + 1), r"D=8.*got \(2, 2, 5, 9\)", id="key-width"),
    pytest.param(key_value(B, 3, T, D), r"multiple of key heads; got 4 and 3", id="heads-not-multiple"),
    pytest.param(key_value(B, 0, T, D), r"multiple of key heads; got 4 and 0", id="no-key-heads"),
    pytest.param(key_value(B, G, N - 1, D), r"N=3 new tokens.*only 2", id="key-too-short"),
    pytest.param(key_value(B, G, T, D, dtype=torch.float64), r"key is torch.float64.*query is", id="key-dtype"),
    pytest.param(key_value(B, G, T, D, device=META), r"key is torch.float32 on meta", id="key-device"),
    pytest.param({"knowledge": dense(G, M, D)}, r"\(2, 7, 8\) does not fit.*Hq=4", id="knowledge-heads"),
    pytest.param({"knowledge": dense(H, M, D + 1)}, r"\(4, 7, 9\) does not fit.*D=8", id="knowledge-width"),
    pytest.param({"knowledge": dense(B + 1, H, M, D)}, r"\(3, 4, 7, 8\) does not fit.*B=2", id="knowledge-batch"),
    pytest.param(
        {"knowledge": dense(H, M, D, dtype=torch.float16)}, "knowledge is torch.float16", id="knowledge-dtype"
    ),
    pytest.param({"knowledge": dense(H, M, D, device=META)}, "knowledge is .* on meta", id="knowledge-device"),
    pytest.param({"knowledge_query": torch.randn(B, H, N, D + 1)}, r"got \(2, 4, 3, 9\)", id="knowledge-query-shape"),
    pytest.param(
        {"knowledge_query": torch.randn(B, H, N, D).half()},
        "knowledge_query is torch.float16",
        id="knowledge-query-dtype",
    ),
    pytest.param({"knowledge_bias": math.nan}, "finite or -inf; got nan", id="bias-nan"),
    pytest.param({"knowledge_bias": math.inf}, "finite or -inf; got inf", id="bias-inf"),
    pytest.param({"knowledge_bias": torch.zeros(M + 1)}, r"M=7.*got \(8,\)", id="bias-length"),
    pytest.param({"knowledge_bias": torch.zeros(B + 1, M)}, r"B=2.*got \(3, 7\)", id="bias-batch"),
    pytest.param({"knowledge_bias": torch.zeros(M).half()}, "float32 on cpu; got torch.float16", id="bias-dtype"),
    pytest.param({"knowledge_bias": torch.zeros(M, device=META)}, "float32 on cpu; got .* on meta", id="bias-device"),
    pytest.param({"prompt_mask": torch.ones(B, T)}, "prompt_mask must be bool .*torch.float32", id="mask-dtype"),
    pytest.param({"prompt_mask": torch.ones(B, 1, N, T, dtype=torch.bool)}, r"T=5.*got .*\(2, 1, 3, 5\)", id="mask-4d"),
    pytest.param({"prompt_mask": torch.ones(B, T - 1, dtype=torch.bool)}, r"T=5.*\(2, 4\)", id="mask-length"),
    pytest.param(
        {"prompt_mask": torch.ones(B, T, dtype=torch.bool, device=META)}, "on cpu; got .* on meta", id="mask-device"
    ),
    pytest.param({"window": 0}, "window must be at least 1 .*got 0", id="window-zero"),
    pytest.param({"window": -3}, "window must be at least 1 .*got -3", id="window-negative"),
    pytest.param({"knowledge_range": torch.zeros(B, 3).int()}, r"B=2, 2.*\(2, 3\)", id="range-shape"),
    pytest.param({"knowledge_range": torch.zeros(B, 2)}, "knowledge_range must be int32.*float32", id="range-dtype"),
    pytest.param(
        {"knowledge_range": torch.zeros(B, 2, dtype=torch.int32, device=META)},
        "on cpu.*; got .* on meta",
        id="range-device",
    ),
]


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_rectangular_attention_refuses(bad: dict[str, Any], message: str) -> None:
    rectangular_attention(**good())
    with pytest.raises(UnsupportedInputError, match=message):
        rectangular_attention(**{**good(), **bad})


def test_what_only_engines_may_ask_for_is_no_option() -> None:
    for name in ("is_alone", "max_span"):
        with pytest.raises(TypeError, match=name):
            rectangular_attention(**good(), **{name: 1})  # type: ignore[call-overload]


def test_integer_tensors_are_refused() -> None:
    numbers = {name: torch.ones(1, 1, 1, 4, dtype=torch.int64) for name in ("query", "key", "value")}
    with pytest.raises(UnsupportedInputError, match=r"floating-point tensor: .*; got torch\.int64"):
        rectangular_attention(**numbers)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_queries_of_what_is_no_dtype_to_compute_in_are_refused(dtype: torch.dtype) -> None:
    """Plain PyTorch would take them: rounded so, an output is overflow and noise more than attention."""
    query, rows = torch.ones(1, 2, 3, 4).to(dtype), torch.ones(3, 2, 4).to(dtype)
    lse, starts = torch.zeros(1, 2, 3), torch.tensor([0, 3]).int()
    knowledge = DenseKnowledge(query[0], query[0])
    cache, table = torch.ones(1, 16, 2, 4).to(dtype), torch.zeros(1, 1).int()
    for call in (
        lambda: rectangular_attention(query, query, query, knowledge, backend="reference"),
        lambda: explain(query, query, query, knowledge),
        lambda: RectangularAttention(knowledge)(query, query, query),
        lambda: evidence(query, knowledge, lse, backend="reference"),
        lambda: knowledge_lse(query, knowledge),
        lambda: prune(query, knowledge, 2),
        lambda: partial_knowledge_attention(rows, knowledge, starts),
        lambda: paged_prompt_attention(rows, cache, cache, table, starts[1:], starts),
        lambda: KnowledgePlan(knowledge, 3),
    ):
        wanted = (
            rf"(knowledge_)?query must be a floating-point tensor.*float32, float16, bfloat16 or float64; got {dtype}"
        )
        with pytest.raises(UnsupportedInputError, match=wanted):
            call()


def test_heads_without_width_are_refused() -> None:
    nothing = torch.ones(1, 1, 1, 0)
    with pytest.raises(UnsupportedInputError, match=r"head_dim must be at least 1; got query \(1, 1, 1, 0\)"):
        rectangular_attention(nothing, nothing, nothing)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (torch.randn(M, D), torch.randn(M, D), r"\(Hq, M, D\).*got shape \(7, 8\)"),
        (torch.randn(H, M, D), torch.randn(H, M + 1, D), r"float32 \(Hq=4, M=7, D=8\) .*; got .* \(4, 8, 8\)"),
        (torch.randn(H, M, D), torch.randn(H, M, D).half(), r"float32 .* on cpu; got torch\.float16"),
        (torch.randn(H, M, D), torch.randn(H, M, D, device=META), r"on cpu; got torch\.float32 .* on meta"),
    ],
    ids=["rank", "shape", "dtype", "device"],
)
def test_knowledge_refuses(key: Tensor, value: Tensor, message: str) -> None:
    with pytest.raises(UnsupportedInputError, match=message):
        DenseKnowledge(key, value)


def test_knowledge_knows_its_sizes() -> None:
    shared, rows = dense(H, M, D), dense(B, H, M, D)
    for knowledge, is_shared in ((shared, True), (rows, False)):
        sizes = (knowledge.num_heads, knowledge.num_tokens, knowledge.head_dim, knowledge.is_shared)
        assert sizes == (H, M, D, is_shared)
    empty = DenseKnowledge.empty(H, D, dtype=torch.float16, device=torch.device("cpu"))
    assert (empty.num_tokens, empty.key.dtype) == (0, torch.float16)


def scores(**changes: Any) -> dict[str, Any]:
    arguments = good()
    return {"knowledge_query": arguments["knowledge_query"], "knowledge": arguments["knowledge"], **changes}


CALLS: list[Any] = [
    pytest.param(lambda **kwargs: evidence(lse=torch.zeros(B, H, N), **kwargs), id="evidence"),
    pytest.param(knowledge_lse, id="knowledge_lse"),
    pytest.param(lambda **kwargs: prune(k=2, **kwargs), id="prune"),
]
BAD_SCORES: list[Any] = [
    pytest.param({"knowledge_query": torch.randn(H, N, D)}, r"knowledge_query must be .*\(4, 3, 8\)", id="query-rank"),
    pytest.param({"knowledge": dense(G, M, D)}, r"\(2, 7, 8\) does not fit", id="heads"),
    pytest.param({"knowledge": dense(B + 1, H, M, D)}, r"\(3, 4, 7, 8\) does not fit", id="batch"),
    pytest.param({"knowledge": dense(H, M, D, dtype=torch.float64)}, "knowledge is torch.float64", id="dtype"),
    pytest.param({"knowledge_bias": torch.zeros(M + 1)}, r"M=7.*got \(8,\)", id="bias"),
    pytest.param({"knowledge_range": torch.zeros(B + 1, 2).int()}, r"B=2, 2.*\(3, 2\)", id="range"),
]


@pytest.mark.parametrize(("bad", "message"), BAD_SCORES)
@pytest.mark.parametrize("call", CALLS)
def test_calls_on_knowledge_scores_refuse(call: Callable[..., Any], bad: dict[str, Any], message: str) -> None:
    call(**scores())
    with pytest.raises(UnsupportedInputError, match=message):
        call(**scores(**bad))


@pytest.mark.parametrize("lse", [torch.zeros(B, N, H), torch.zeros(B, H, N, device=META)], ids=["shape", "device"])
def test_evidence_refuses_an_lse_of_other_rows(lse: Tensor) -> None:
    with pytest.raises(UnsupportedInputError, match=r"lse must be float32 \(B=2, Hq=4, N=3\) on cpu; got"):
        evidence(lse=lse, **scores())


@pytest.mark.parametrize("call", [CALLS[0], CALLS[2]])
def test_a_row_weight_that_does_not_broadcast_is_refused(call: Callable[..., Any]) -> None:
    with pytest.raises(UnsupportedInputError, match=r"broadcast to \(B, Hq, N\) = \(2, 4, 3\); got \(5,\)"):
        call(**scores(row_weight=torch.ones(5)))


@pytest.mark.parametrize(
    "weight",
    [torch.ones(1, device=META), torch.ones(1, dtype=torch.complex64), torch.ones(1).to(torch.float8_e4m3fn)],
    ids=["device", "complex", "float8"],
)
@pytest.mark.parametrize("call", [CALLS[0], CALLS[2]])
def test_a_row_weight_of_another_device_or_kind_is_refused(call: Callable[..., Any], weight: Tensor) -> None:
    with pytest.raises(UnsupportedInputError, match=f"row_weight must be .* on cpu; got {weight.dtype} on"):
        call(**scores(row_weight=weight))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64], ids=str)
def test_a_row_weight_may_be_flags_and_whole_numbers(kind: torch.dtype) -> None:
    arguments, flags = scores(), torch.rand(B, 1, N) < 0.5
    for call in (lambda **options: evidence(lse=torch.zeros(B, H, N), **options), lambda **o: prune(k=3, **o)[2]):
        assert torch.equal(call(**arguments, row_weight=flags.to(kind)), call(**arguments, row_weight=flags.float()))


@pytest.mark.parametrize("k", [0, -1])
def test_prune_keeps_at_least_one(k: int) -> None:
    with pytest.raises(UnsupportedInputError, match=f"k must be at least 1; got {k}"):
        prune(k=k, **scores())


def test_refusals_are_value_errors_and_kernel_errors() -> None:
    assert issubclass(UnsupportedInputError, ValueError)
    assert issubclass(UnsupportedInputError, KernelError)
