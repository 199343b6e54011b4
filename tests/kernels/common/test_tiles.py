"""Tile tables: every launch finds a row, every row says why, and which GPUs there are rows for."""

from __future__ import annotations

import pytest
import torch

from kblam_kernels.common import splits
from kblam_kernels.common.splits import MAX_DENSE_SPLITS, MIN_DENSE_SPLIT, chunk_of, split_tokens
from kblam_kernels.common.tiles import (
    EVERYWHERE,
    UNLIMITED,
    Choice,
    Precision,
    Tile,
    arch_of,
    precision_of,
    select,
)
from kblam_kernels.dense import tiles as dense
from kblam_kernels.errors import BackendUnavailableError, UnsupportedInputError
from kblam_kernels.evidence import tiles as evidence
from kblam_kernels.latent import tiles as latent

TABLES = {"forward": dense.FORWARD, "decode": dense.DECODE, "latent": latent.TILES, "evidence": evidence.TILES}
PRECISIONS: tuple[Precision, ...] = ("half", "float32")


@pytest.mark.parametrize("name", [*TABLES, "as stored", "converted"])
def test_every_row_says_why_and_can_be_taken(name: str) -> None:
    parts = {"as stored": latent.AS_STORED, "converted": latent.CONVERTED}
    table = parts[name] if name in parts else TABLES[name]
    for place, choice in enumerate(table):
        assert choice.reason
        # mma and wgmma give a warp 16 rows; a program with fewer rows than warps x 16 shares columns out instead.
        assert choice.tile.block_rows >= 16
        low, high = choice.widths
        asked = (choice.precision, low if high == UNLIMITED else high, choice.most_rows)
        taken = [select(table, arch, *asked, masked=choice.masked) for arch in choice.archs]
        assert any(tile is choice.tile for tile in taken), f"row {place} is hidden by those before it"


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TABLES)
def test_every_launch_finds_a_tile(name: str, precision: Precision) -> None:
    widest = 256 if name in ("forward", "decode") else 5000
    for arch in EVERYWHERE:
        for width in (*range(1, 257), *range(257, widest + 1, 31)):
            for rows in (1, 16, 17, 32, 33, 64, 65, 10_000):
                for masked in (False, True):
                    select(TABLES[name], arch, precision, width, rows, masked=masked)


def test_the_first_row_that_fits_is_taken() -> None:
    short, wide, rest = Tile(16, 16, 4, 1), Tile(32, 32, 4, 1), Tile(64, 64, 4, 1)
    table = (
        Choice(short, "few rows", (1, 64), archs=("sm_80",), most_rows=8),
        Choice(wide, "masked", (1, 64), masked=True),
        Choice(rest, "the rest", (1, 128)),
    )
    assert select(table, "sm_80", "half", 64, 8) is short
    assert select(table, "sm_80", "half", 64, 9, masked=True) is wide
    assert select(table, "sm_90", "half", 64, 8, masked=True) is wide
    assert select(table, "sm_90", "half", 64, 8) is rest
    assert select(table, "sm_80", "half", 128, 8) is rest


def test_what_has_no_tile_is_refused_with_its_width() -> None:
    with pytest.raises(UnsupportedInputError, match="no tile for sm_80, rows of 257 numbers, half"):
        select(dense.DECODE, "sm_80", "half", 257)


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 7), "sm_80"),
        ((8, 9), "sm_86"),
        ((9, 0), "sm_90"),
        ((12, 0), "sm_86"),
        ((12, 1), "sm_86"),
    ],
)
def test_architecture_classes(capability: tuple[int, int], arch: str) -> None:
    assert arch_of(capability) == arch


@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ((7, 5), r"compute capability 7\.5 is below 8\.0"),
        ((10, 0), r"compute capability 10\.0: no tile was compiled for it"),
        ((10, 3), r"compute capability 10\.3: no tile was compiled for it"),
        ((11, 0), r"compute capability 11\.0: no tile was compiled for it"),
    ],
)
def test_a_gpu_without_tiles_is_refused_by_name(capability: tuple[int, int], reason: str) -> None:
    with pytest.raises(BackendUnavailableError, match=f"{reason}.*use backend='reference'"):
        arch_of(capability)


def test_half_precisions_share_their_rows() -> None:
    assert [precision_of(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32)] == [
        "half",
        "half",
        "float32",
    ]


def test_a_tile_reads_as_its_numbers() -> None:
    assert str(Tile(16, 64, 4, 3)) == "16x64x4x3"


def test_splits_have_a_size_of_their_own() -> None:
    assert split_tokens(0, 32) == split_tokens(10_000, 32) == MIN_DENSE_SPLIT
    for M in (100_000, 1_000_000):
        for block in (16, 32, 128):
            size = split_tokens(M, block)
            assert size % block == 0
            assert MAX_DENSE_SPLITS / 2 < -(-M // size) <= MAX_DENSE_SPLITS


@pytest.mark.parametrize(
    ("width", "chunk"),
    [(384, 128), (96, 32), (80, 16), (64, 64), (24, 32), (5, 16), (1008, 128), (576, 64), (3072, 128)],
)
def test_chunks_are_powers_of_two_that_fit(width: int, chunk: int) -> None:
    assert chunk_of(width) == chunk


@pytest.mark.parametrize(
    ("head_dim", "half", "single"), [(8, 16, 16), (64, 64, 64), (80, 128, 64), (96, 128, 64), (256, 128, 64)]
)
def test_chunks_of_a_head(head_dim: int, half: int, single: int) -> None:
    assert (splits.head_chunk_of(head_dim, 2), splits.head_chunk_of(head_dim, 4)) == (half, single)
