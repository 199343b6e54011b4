"""Scratch memory of latent decode: bounded whatever the number of queries, and cut so that no bit changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import Cut, Recording, States, chunks, heads, one_by_one, recording
from kblam_kernels.common.splits import GROUP, GROUPS, PROMPT_ROWS
from kblam_kernels.common.tiles import MULTIPROCESSORS, Arch, Precision
from kblam_kernels.latent import tiles
from kblam_kernels.latent.tiles import latent_split, latent_tile
from kblam_kernels.tools import cases as compiled
from tests.kernels.cases import LONG, SCATTERED_9, TOKEN_BIAS
from tests.kernels.problems import Problem, make_latent

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
    return tiles.query_bytes(H, P, D, M, problem.key.shape[2], tokens_of(P, M, "float32", "interpreter"))


def tokens_of(P: int, M: int, precision: Precision, arch: Arch) -> int:
    """Of a partial result where splits are folded."""
    tile = latent_tile(P, precision, arch)
    return latent_split(M, tile, MULTIPROCESSORS[arch]) * tile.most_folded


def last_launches(made: Recording) -> list[dict[str, Any]]:
    """Arguments of the last launch of each block, which reads all partial results."""
    return [arguments for kernel, _, arguments, _ in made.launches if kernel.__name__ == "latent_project_kernel"]


def bytes_of(launch: dict[str, Any]) -> int:
    parts = (launch["partial_latent"], launch["partial_prompt"], *launch["states"])
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.usefixtures("interpreted", "rows_apart")
@pytest.mark.parametrize("name", CASES)
def test_blocks_of_queries_change_no_bit_and_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from kblam_kernels.latent import triton_decode

    problem = make_latent(**CASES[name], dtype=torch.float32)
    _, call = problem.call()

    def run() -> tuple[Any, list[dict[str, Any]]]:
        with recording("interpreter") as made:
            triton_decode.forward(call)
        return triton_decode.forward(call), last_launches(made)

    whole, launches = run()
    assert len(launches) == 1
    B, _, N, _ = problem.query.shape
    for room in (1, 3, 17):
        monkeypatch.setattr(tiles, "SCRATCH_BYTES", room * bytes_of_a_query(problem))
        cut, launches = run()
        assert (len(launches) > 1) == (room < B * N)
        assert max(map(bytes_of, launches)) <= tiles.SCRATCH_BYTES
        for ours, theirs in zip(cut, whole, strict=True):
            assert torch.equal(ours, theirs), room


def test_a_long_prefill_over_a_million_triples_stays_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Llama-3-8B: in one block it would be 0.4 GB, and 2.8 if splits were not folded."""
    pytest.importorskip("triton")
    from kblam_kernels.latent import triton_decode

    for name, size in (("B", 1), ("T", 512), ("M", 1_000_000)):
        monkeypatch.setattr(compiled, name, size)
    call = compiled.latent_call(torch.bfloat16, 384, torch.bfloat16, 128, 512)
    with recording("sm_80") as made:
        triton_decode.forward(call.but(bias=None, knowledge_range=None))
    launches = last_launches(made)
    assert sum(launch["sizes"].N for launch in launches) == 512
    assert max(map(bytes_of, launches)) <= tiles.SCRATCH_BYTES == 128 * 2**20
    assert sum(map(bytes_of, launches)) == pytest.approx(0.38e9, rel=0.01)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_a_batch_of_32_takes_a_fraction_of_the_sums_of_its_splits(arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Llama-3-8B's heads over 10,000 triples, at 128 to a split, those were 125 MB."""
    pytest.importorskip("triton")
    from kblam_kernels.latent import triton_decode

    for name, size in (("B", 32), ("T", 512)):
        monkeypatch.setattr(compiled, name, size)
    call = compiled.latent_call(torch.bfloat16, 384, torch.bfloat16, 128).but(bias=None, knowledge_range=None)
    with recording(arch) as made:
        triton_decode.forward(call)
    (launch,) = last_launches(made)
    splits = -(-compiled.M // launch["cut"].split_size)
    partial = launch["partial_latent"]
    assert partial.shape == (-(-splits // GROUP), 32 * 32, 384)
    assert partial.numel() * 4 < 32 * 32 * 384 * 4 * 79 / 4.5


@pytest.mark.usefixtures("interpreted")
def test_partial_sums_further_apart_than_32_bits_reach(tmp_path: Path) -> None:
    """Two splits of 2^32 + 64 numbers each, in a sparse file: a stride cut to 32 bits would find the second at 64."""
    from kblam_kernels.latent.triton_decode import MergeTile
    from kblam_kernels.latent.triton_ends import latent_project_kernel

    P = D = 16
    row_count = 2**32 // P + 4
    far = row_count * P
    partial = torch.from_file(str(tmp_path / "partial"), shared=True, size=far + P, dtype=torch.float32)
    partial[:P], partial[far:] = 1.0, 5.0
    output = torch.empty(1, 1, 1, D)
    cut = Cut(*(0,) * 11)._replace(row_count=row_count, knowledge_splits=2, splits=3)
    latent_project_kernel[(1, 1, 1)](
        partial_latent=partial,
        partial_prompt=torch.zeros(1, D),
        states=States(torch.zeros(1, 3), torch.ones(1, 3)),
        weight=heads(torch.eye(P)[None]),
        bias=torch.zeros(D),
        output=heads(output),
        lse=heads(torch.empty(1, 1, 1, 1)),
        LATENT=chunks(P, 16),
        HEAD=chunks(D, 16),
        MERGE=MergeTile(1, GROUPS, GROUP, 1.0),
        CHAINED=False,
        **one_by_one({"sizes": Sizes(B=1, Hq=1, Hkv=1, N=1, T=1, M=2), "cut": cut}),
    )
    assert (output == 2.0).all(), "(1 + 5) / 3"


@pytest.mark.parametrize(("num_heads", "P", "D"), [(32, 384, 128), (32, 384, 64), (32, 1024, 96), (32, 3072, 128)])
@pytest.mark.parametrize("M", [1000, 10_000, 1_000_000, 10_000_000])
def test_one_new_token_is_one_block(num_heads: int, P: int, D: int, M: int) -> None:
    size = tiles.query_bytes(num_heads, P, D, M, 4096, tokens_of(P, M, "half", "sm_80"))
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
