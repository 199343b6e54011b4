"""Prompts in a paged cache: PyTorch's own attention of each request, whatever its blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kblam_kernels import BackendUnavailableError, UnsupportedInputError, paged_prompt_attention
from tests import tolerances
from tests.kernels.problems import INF
from tests.kernels.ways import DTYPES, FLOAT32

BLOCKS, SIZE, HQ, HKV, D = 12, 4, 4, 2, 8
LENGTHS, NEW = [9, 1, 16, 5, 7], [1, 1, 6, 0, 7]


def paged(lengths: list[int], new: list[int], padding: int = 0, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Arguments: requests of so many tokens, so many of them new; blocks that nobody has are NaN."""
    draw = torch.Generator().manual_seed(seed)
    blocks = [-(-length // SIZE) for length in lengths]
    cache = torch.full((2, max(BLOCKS, sum(blocks)), SIZE, HKV, D), float("nan"), dtype=torch.float64)
    table = torch.full((len(lengths), max([1, *blocks])), -7, dtype=torch.int32)
    for i, taken in enumerate(torch.randperm(cache.shape[1], generator=draw).int()[: sum(blocks)].split(blocks)):
        table[i, : len(taken)] = taken
        for part in cache:
            rows = torch.full((len(taken) * SIZE, HKV, D), float("nan"), dtype=torch.float64)
            rows[: lengths[i]] = torch.randn(lengths[i], HKV, D, generator=draw, dtype=torch.float64)
            part[taken] = rows.unflatten(0, (-1, SIZE))
    query = torch.randn(sum(new) + padding, HQ, D, generator=draw, dtype=torch.float64)
    query[sum(new) :] = float("nan")
    starts = torch.tensor([0, *torch.tensor(new, dtype=torch.int64).cumsum(0).tolist()], dtype=torch.int32)
    return {
        "query": query,
        "key_cache": cache[0],
        "value_cache": cache[1],
        "block_table": table,
        "seq_lens": torch.tensor(lengths, dtype=torch.int32),
        "query_start_loc": starts,
        **options,
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_defaults_of_torch_do_not_matter(dtype: torch.dtype) -> None:
    arguments = to(paged(LENGTHS, NEW, padding=2), FLOAT32)
    expected = paged_prompt_attention(**arguments)
    try:
        torch.set_default_dtype(dtype)
        torch.set_default_device("meta")
        found = paged_prompt_attention(**arguments)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(FLOAT32)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def to(arguments: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return arguments | {name: arguments[name].to(dtype) for name in ("query", "key_cache", "value_cache")}


def exact(arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """By a masked softmax for each request."""
    query = arguments["query"].double()
    window, scale = arguments.get("window"), arguments.get("scale") or D**-0.5
    output = torch.zeros_like(query)
    lse = torch.full((HQ, len(query)), -INF, dtype=torch.float64)
    starts = arguments["query_start_loc"].tolist()
    for i, T in enumerate(arguments["seq_lens"].tolist()):
        rows = slice(starts[i], starts[i + 1])
        N = rows.stop - rows.start
        at = [arguments["block_table"][i, t // SIZE].item() * SIZE + t % SIZE for t in range(T)]
        key, value = (
            arguments[name].flatten(0, 1)[at].double().transpose(0, 1).repeat_interleave(HQ // HKV, 0)
            for name in ("key_cache", "value_cache")
        )
        last, column = torch.arange(T - N, T)[:, None], torch.arange(T)
        seen = (column <= last) & (column > last - (window or T))
        scores = (query[rows].transpose(0, 1) @ key.mT * scale).masked_fill(~seen, -INF)
        output[rows], lse[:, rows] = (scores.softmax(-1) @ value).transpose(0, 1), scores.logsumexp(-1)
    return output, lse


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_blocks_are_pytorchs_own_attention(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 13), max_size=4))
    new = [data.draw(st.integers(0, length)) for length in lengths]
    arguments = paged(
        lengths,
        new,
        data.draw(st.integers(0, 2)),
        data.draw(st.integers(0, 99)),
        window=data.draw(st.none() | st.integers(1, 14)),
        scale=data.draw(st.none() | st.floats(0.1, 1)),
    )
    for actual, expected in zip(paged_prompt_attention(**arguments), exact(arguments), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_cpp_kernels_are_near_float64(dtype: torch.dtype, library: None) -> None:
    arguments = to(paged(LENGTHS, NEW, 2, window=11), dtype)
    output, lse = paged_prompt_attention(**arguments, backend="cpu")
    expected, expected_lse = exact(arguments)
    assert output.dtype == dtype
    tolerances.check_output(output, expected, paged_prompt_attention(**arguments, backend="reference")[0])
    tolerances.check_lse(lse, expected_lse)


def test_keys_turned_in_their_block_are_a_view() -> None:
    """As vLLM's cache on the CPU has them: (num_blocks, Hkv, D, block_size)."""
    arguments = paged(LENGTHS, NEW)
    turned = arguments["key_cache"].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert turned.stride(3) != 1
    for actual, expected in zip(
        paged_prompt_attention(**arguments | {"key_cache": turned}), paged_prompt_attention(**arguments), strict=True
    ):
        assert torch.equal(actual, expected)


def test_the_query_and_the_cache_get_gradients() -> None:
    arguments = paged([5, 3], [2, 1])
    names = ("query", "key_cache", "value_cache")
    arguments |= {name: arguments[name].nan_to_num() for name in names}

    def attend(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return paged_prompt_attention(**arguments | dict(zip(names, tensors, strict=True)))

    torch.autograd.gradcheck(attend, [arguments[name].requires_grad_() for name in names], fast_mode=True)


def bad_table(**entries: int) -> Tensor:
    table: Tensor = paged(LENGTHS, NEW)["block_table"].clone()
    table[2, 1] = entries["block"]
    return table


META = torch.device("meta")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"query": torch.randn(15, HQ)}, r"query must be .*\(total_tokens, Hq, D\).*\(15, 4\)"),
        ({"query": torch.randn(15, HQ, 0)}, r"D at least 1; got .*\(15, 4, 0\)"),
        ({"query": torch.randn(15, HQ, D, device=META), "query_start_loc": torch.zeros(6, device=META).int()}, "meta"),
        ({"query": torch.randn(15, HQ, D).half()}, r"key_cache is torch\.float32"),
        ({"query": torch.randn(15, 3, D)}, "Hq=3 a multiple"),
        ({"value_cache": torch.randn(BLOCKS, SIZE, HKV, D + 1)}, r"D=8.*\(12, 4, 2, 9\)"),
        ({"block_table": torch.zeros(4, 4).int()}, r"block_table must be int32 \(num_requests=5, .*\(4, 4\)"),
        ({"block_table": bad_table(block=3).long()}, "block_table must be int32.*int64"),
        ({"block_table": bad_table(block=BLOCKS)}, r"request 2 has 16 tokens in blocks.*the cache has 12 blocks"),
        ({"block_table": bad_table(block=-1)}, "request 2 has 16 tokens"),
        ({"block_table": bad_table(block=3)[:, :3]}, "request 2 has 16 tokens in blocks"),
        ({"seq_lens": torch.tensor([9, 1, 5, 5, 7]).int()}, "request 2 has 6 new tokens and only 5 in the cache"),
        ({"seq_lens": torch.zeros(5, device=META).int()}, "seq_lens must be .* on cpu; got .* on meta"),
        ({"query_start_loc": torch.tensor([0, 1, 2, 8, 7, 15]).int()}, "query_start_loc must ascend"),
        ({"window": 0}, "window must be at least 1"),
        ({"backend": "fast"}, "backend='fast' is not one of auto, triton, cpu, reference"),
    ],
)
def test_it_refuses(bad: dict[str, Any], message: str) -> None:
    good = to(paged(LENGTHS, NEW), FLOAT32)
    paged_prompt_attention(**good)
    with pytest.raises(UnsupportedInputError, match=message):
        paged_prompt_attention(**good | bad)


@pytest.mark.parametrize("name", ["cpu", "triton"])
def test_a_backend_asked_for_by_name_never_falls_back(name: str) -> None:
    with pytest.raises(BackendUnavailableError, match=rf"'{name}' cannot serve this call: .*torch\.float64"):
        paged_prompt_attention(**paged(LENGTHS, NEW), backend=name)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiler_reads_the_lengths_too() -> None:
    arguments = to(paged(LENGTHS, NEW), FLOAT32)
    compiled = torch.compile(lambda **given: paged_prompt_attention(**given), backend="eager")
    for ours, theirs in zip(compiled(**arguments), paged_prompt_attention(**arguments), strict=True):
        assert torch.equal(ours, theirs)
