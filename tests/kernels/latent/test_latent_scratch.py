"""Scratch memory of latent decode: bounded whatever the number of queries, and cut so that no bit changes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels.latent import scratch
from kblam_kernels.latent.tiles import latent_tile
from kblam_kernels.rectangular.chunks import PROMPT_ROWS
from tests.kernels.latent.decode_cases import LONG, SCATTERED, TOKEN_BIAS, arguments_of
from tests.kernels.latent.latent_problems import LatentProblem, make

TILE = latent_tile(384, 2)
RANGES = torch.tensor([[5, 150], [130, 290]], dtype=torch.int32)
CASES: dict[str, dict[str, Any]] = {
    "shared": {"B": 3, "H": 4, "G": 2, "N": 4, "M": 20},
    "left-padded-window": {"prompt_mask": SCATTERED, "window": 3, "N": 4},
    "row-bias-ranges": {
        "N": 3,
        "M": LONG,
        "knowledge_bias": torch.stack([TOKEN_BIAS, TOKEN_BIAS.flip(0)]),
        "knowledge_range": RANGES,
    },
    # The block that ends before column 256 has a split of the prompt less.
    "prompt-splits": {"B": 1, "H": 2, "G": 1, "N": 50, "T": 300, "M": 9},
}


def bytes_of_a_query(problem: LatentProblem) -> int:
    _, H, _, D = problem.query.shape
    M, P = problem.knowledge.key.shape
    tile = latent_tile(P, 4, "interpreter")
    return scratch.query_bytes(H, P, D, M, problem.key.shape[2], tile)


@pytest.fixture
def launches(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every launch of the decode kernel."""
    seen: list[dict[str, Any]] = []
    kernel = interpreted.latent_decode_kernel

    class Recorder:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda **arguments: (seen.append(arguments), kernel[grid](**arguments))

    monkeypatch.setattr(interpreted, "latent_decode_kernel", Recorder())
    return seen


def bytes_of(launch: dict[str, Any]) -> int:
    names = ("partial_latent", "partial_prompt", "maximum", "total")
    return sum(launch[name].numel() * launch[name].element_size() for name in names)


@pytest.mark.usefixtures("rows_apart")
@pytest.mark.parametrize("room", [1, 3, 17])
@pytest.mark.parametrize("name", CASES)
def test_blocks_of_queries_change_no_bit_and_stay_within_the_budget(
    interpreted: ModuleType, launches: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, name: str, room: int
) -> None:
    problem = make(**CASES[name], dtype=torch.float32)
    arguments = arguments_of(problem)
    whole = interpreted.forward(**arguments)
    assert len(launches) == 1
    launches.clear()
    monkeypatch.setattr(scratch, "SCRATCH_BYTES", room * bytes_of_a_query(problem))
    cut = interpreted.forward(**arguments)
    B, _, N, _ = problem.query.shape
    assert (len(launches) > 1) == (room < B * N)
    assert max(map(bytes_of, launches)) <= scratch.SCRATCH_BYTES
    for part, ours, theirs in zip(whole._fields, cut, whole, strict=True):
        assert torch.equal(ours, theirs), part


def test_a_long_prefill_over_a_million_triples_stays_within_the_budget(
    interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Llama-3-8B: in one block it would be 6.5 GB."""
    seen: list[dict[str, Any]] = []

    class Nothing:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda **arguments: seen.append(arguments)

    monkeypatch.setattr(interpreted, "latent_decode_kernel", Nothing())
    monkeypatch.setattr(interpreted, "latent_merge_kernel", Nothing())
    problem = make(B=1, H=32, G=8, N=512, T=512, D=128, P=384, M=1, dtype=torch.bfloat16)
    arguments = {
        name: value.to("meta") if isinstance(value, Tensor) else value for name, value in arguments_of(problem).items()
    }
    for name in ("latent_key", "latent_value"):
        arguments[name] = torch.empty(1_000_000, 384, dtype=torch.bfloat16, device="meta")
    arguments["norm"] = torch.empty(1_000_000, device="meta")
    interpreted.forward(**arguments)
    launches = [launch for launch in seen if "maximum" in launch and "query" in launch]
    assert sum(launch["N"] for launch in launches) == 512
    assert max(map(bytes_of, launches)) <= scratch.SCRATCH_BYTES == 128 * 2**20


def test_partial_sums_further_apart_than_32_bits_reach(interpreted: ModuleType, tmp_path: Path) -> None:
    """Two splits of 2^32 + 64 numbers each, in a sparse file: a stride cut to 32 bits would find the second at 64."""
    P = D = 16
    row_count = 2**32 // P + 4
    far = row_count * P
    partial = torch.from_file(str(tmp_path / "partial"), shared=True, size=far + P, dtype=torch.float32)
    partial[:P], partial[far:] = 1.0, 5.0
    prompt = torch.full((1, D), 2.0)
    maximum, total = torch.zeros(1, 3), torch.ones(1, 3)
    result = [torch.empty(1, 1, 1, D), torch.empty(1, 1, 1, P), torch.empty(1), torch.empty(1)]
    interpreted.latent_merge_kernel[(1, 2)](
        partial_latent=partial,
        partial_prompt=prompt,
        maximum=maximum,
        total=total,
        prompt=result[0],
        latent=result[1],
        share=result[2],
        lse=result[3],
        latent_batch_stride=0,
        latent_head_stride=0,
        latent_row_stride=0,
        Hq=1,
        N=1,
        result_queries=1,
        row_count=row_count,
        knowledge_splits=2,
        splits=3,
        P=P,
        HEAD_DIM=D,
        VALUE_UNIT=1.0,
        BLOCK_SPLITS=4,
        BLOCK_COLUMNS=16,
    )
    assert (result[1] == 2.0).all(), "(1 + 5) / 3"


@pytest.mark.parametrize(("heads", "P", "D"), [(32, 384, 128), (32, 384, 64), (32, 1024, 96), (32, 3072, 128)])
@pytest.mark.parametrize("M", [1000, 10_000, 1_000_000, 10_000_000])
def test_one_new_token_is_one_block(heads: int, P: int, D: int, M: int) -> None:
    size = scratch.query_bytes(heads, P, D, M, 4096, latent_tile(P, 2))
    assert list(scratch.blocks(1, 1, size)) == [(slice(0, 1), slice(0, 1))]
    assert size <= scratch.SCRATCH_BYTES


@pytest.mark.parametrize(
    ("B", "N", "most", "rows", "queries"),
    [
        (32, 1, 20, 16, 1),
        (32, 1, 32, 32, 1),
        (5, 3, 7, 2, 3),
        (2, 100, 41, 1, 32),
        (2, 100, 7, 1, 7),
        (2, 100, 0, 1, 1),
        (1, 20, 19, 1, PROMPT_ROWS),
    ],
)
def test_blocks_are_of_whole_rows_where_these_fit(B: int, N: int, most: int, rows: int, queries: int) -> None:
    cut = list(scratch.blocks(B, N, scratch.SCRATCH_BYTES // most if most else 2 * scratch.SCRATCH_BYTES))
    assert cut[0] == (slice(0, rows), slice(0, queries))
    covered = [(b, n) for rows_, new in cut for b in range(B)[rows_] for n in range(N)[new]]
    assert sorted(covered) == [(b, n) for b in range(B) for n in range(N)]
    assert len(set(covered)) == len(covered)
