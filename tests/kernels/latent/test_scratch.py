"""Scratch memory of latent decode: bounded whatever the number of queries, and cut so that no bit changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import Cut, Heads, Recording, States, recording
from kblam_kernels.common.splits import PROMPT_ROWS
from kblam_kernels.latent import tiles
from kblam_kernels.latent.tiles import latent_tile
from kblam_kernels.tools import cases as compiled
from tests.kernels.cases import LONG, SCATTERED_9, TOKEN_BIAS
from tests.kernels.problems import Problem, absorbed_of, make_latent

RANGES = torch.tensor([[5, 150], [130, 290]], dtype=torch.int32)
CASES: dict[str, dict[str, Any]] = {
    "shared": {"B": 3, "H": 4, "G": 2, "N": 4, "M": 20},
    "left-padded-window": {"prompt_mask": SCATTERED_9, "window": 3, "N": 4},
    "row-bias-ranges": {
        "N": 3,
        "M": LONG,
        "knowledge_bias": torch.stack([TOKEN_BIAS, TOKEN_BIAS.flip(0)]),
        "knowledge_range": RANGES,
    },
    # The block that ends before column 256 has a split of the prompt less.
    "prompt-splits": {"B": 1, "H": 2, "G": 1, "N": 20, "T": 270, "M": 9},
}


def bytes_of_a_query(problem: Problem) -> int:
    _, H, _, D = problem.query.shape
    M, P = problem.knowledge.key.shape
    return tiles.query_bytes(H, P, D, M, problem.key.shape[2], latent_tile(P, "float32", "interpreter"))


def decode_launches(made: Recording) -> list[dict[str, Any]]:
    """Arguments of those of the decode kernel."""
    return [arguments for kernel, _, arguments, _ in made.launches if kernel.__name__ == "latent_decode_kernel"]


def bytes_of(launch: dict[str, Any]) -> int:
    parts = (launch["partial_latent"], launch["partial_prompt"], *launch["states"])
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.usefixtures("interpreted", "rows_apart")
@pytest.mark.parametrize("name", CASES)
def test_blocks_of_queries_change_no_bit_and_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from kblam_kernels.latent import triton_decode

    problem = make_latent(**CASES[name], dtype=torch.float32)
    _, call = problem.call()
    absorbed = absorbed_of(call)

    def mixed() -> tuple[Any, list[dict[str, Any]]]:
        with recording("interpreter") as made:
            triton_decode.mix(call, absorbed)
        return triton_decode.mix(call, absorbed), decode_launches(made)

    whole, launches = mixed()
    assert len(launches) == 1
    B, _, N, _ = problem.query.shape
    for room in (1, 3, 17):
        monkeypatch.setattr(tiles, "SCRATCH_BYTES", room * bytes_of_a_query(problem))
        cut, launches = mixed()
        assert (len(launches) > 1) == (room < B * N)
        assert max(map(bytes_of, launches)) <= tiles.SCRATCH_BYTES
        for part, ours, theirs in zip(whole._fields, cut, whole, strict=True):
            assert torch.equal(ours, theirs), (room, part)


def test_a_long_prefill_over_a_million_triples_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Llama-3-8B: in one block it would be 6.5 GB."""
    pytest.importorskip("triton")
    from kblam_kernels.latent import triton_decode

    for name, size in (("B", 1), ("T", 512), ("M", 1_000_000)):
        monkeypatch.setattr(compiled, name, size)
    call = compiled.latent_call(torch.bfloat16, 384, torch.bfloat16, 128, 512)
    with recording("sm_80") as made:
        triton_decode.forward(call.but(bias=None, knowledge_range=None))
    launches = decode_launches(made)
    assert sum(launch["sizes"].N for launch in launches) == 512
    assert max(map(bytes_of, launches)) <= tiles.SCRATCH_BYTES == 128 * 2**20


@pytest.mark.usefixtures("interpreted")
def test_partial_sums_further_apart_than_32_bits_reach(tmp_path: Path) -> None:
    """Two splits of 2^32 + 64 numbers each, in a sparse file: a stride cut to 32 bits would find the second at 64."""
    from kblam_kernels.latent.triton_kernels import latent_merge_kernel

    P = D = 16
    row_count = 2**32 // P + 4
    far = row_count * P
    partial = torch.from_file(str(tmp_path / "partial"), shared=True, size=far + P, dtype=torch.float32)
    partial[:P], partial[far:] = 1.0, 5.0
    latent = torch.empty(1, 1, 1, P)
    latent_merge_kernel[(1, 2)](
        partial_latent=partial,
        partial_prompt=torch.full((1, D), 2.0),
        states=States(torch.zeros(1, 3), torch.ones(1, 3)),
        prompt=torch.empty(1, 1, 1, D),
        latent=Heads(latent, 0, 0, 0),
        share=torch.empty(1),
        lse=torch.empty(1),
        sizes=Sizes(B=1, Hq=1, Hkv=1, N=1, T=1, M=2),
        cut=Cut(*(0,) * 10)._replace(row_count=row_count, knowledge_splits=2, splits=3),
        result_queries=1,
        P=P,
        HEAD_DIM=D,
        VALUE_UNIT=1.0,
        BLOCK_SPLITS=4,
        BLOCK_COLUMNS=16,
    )
    assert (latent == 2.0).all(), "(1 + 5) / 3"


@pytest.mark.parametrize(("heads", "P", "D"), [(32, 384, 128), (32, 384, 64), (32, 1024, 96), (32, 3072, 128)])
@pytest.mark.parametrize("M", [1000, 10_000, 1_000_000, 10_000_000])
def test_one_new_token_is_one_block(heads: int, P: int, D: int, M: int) -> None:
    size = tiles.query_bytes(heads, P, D, M, 4096, latent_tile(P, "half"))
    assert list(tiles.blocks(1, 1, size)) == [(slice(0, 1), slice(0, 1))]
    assert size <= tiles.SCRATCH_BYTES


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
    cut = list(tiles.blocks(B, N, tiles.SCRATCH_BYTES // most if most else 2 * tiles.SCRATCH_BYTES))
    assert cut[0] == (slice(0, rows), slice(0, queries))
    covered = [(b, n) for rows_, new in cut for b in range(B)[rows_] for n in range(N)[new]]
    assert sorted(covered) == [(b, n) for b in range(B) for n in range(N)]
    assert len(set(covered)) == len(covered)
