"""The tile table: every launch finds a row, and a pinned tile is a tile."""

from __future__ import annotations

import itertools

import pytest
import torch

from kblam_kernels import tiles
from kblam_kernels.errors import BackendUnavailableError, UnsupportedInputError
from kblam_kernels.tiles import Tile

ARCHS = ("sm_80", "sm_86", "sm_90")


@pytest.mark.parametrize("arch", ARCHS)
def test_every_launch_finds_a_tile(arch: tiles.Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tiles.TILE_VARIABLE, raising=False)
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    for head_dim, dtype, rows, masked in itertools.product(range(1, 257), dtypes, (1, 17, 65), (False, True)):
        tile = tiles.select(arch, head_dim, dtype, rows, masked=masked)
        assert tile.reason
        # mma and wgmma give a warp 16 rows; a program with fewer rows than warps x 16 shares columns out instead.
        assert tile.block_n >= 16


def test_nearest_row_stands_in() -> None:
    # No masked row of its own: prefill. No float32 row on Hopper: Ampere's.
    assert tiles.lookup("sm_80", 64, "half", "masked") == tiles.lookup("sm_80", 64, "half", "prefill")
    assert tiles.lookup("sm_90", 96, "float32", "short") == tiles.lookup("sm_80", 96, "float32", "prefill")
    assert tiles.lookup("sm_90", 128, "half", "masked") != tiles.lookup("sm_90", 128, "half", "prefill")
    assert tiles.lookup("sm_86", 256, "half", "masked") == tiles.lookup("sm_86", 256, "half", "prefill")


@pytest.mark.parametrize(
    ("rows", "masked", "regime"),
    [(1, True, "short"), (64, False, "short"), (65, False, "prefill")],
)
def test_regimes(rows: int, masked: bool, regime: tiles.Regime) -> None:
    assert tiles.regime_of(rows, masked) == regime


def test_prefill_with_masks_is_its_own_regime() -> None:
    assert tiles.regime_of(65, True) == "masked"


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 7), "sm_80"),
        ((8, 9), "sm_86"),
        ((9, 0), "sm_90"),
        ((10, 0), "sm_90"),
        ((12, 0), "sm_86"),
    ],
)
def test_architecture_classes(capability: tuple[int, int], arch: str) -> None:
    assert tiles.arch_of(capability) == arch


def test_an_old_gpu_is_refused_by_name() -> None:
    with pytest.raises(BackendUnavailableError, match=r"compute capability 7\.5 is below 8\.0"):
        tiles.arch_of((7, 5))


def test_pinned_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiles.TILE_VARIABLE, "64x32x4x2")
    assert str(tiles.select("sm_80", 128, torch.bfloat16, 1000, masked=False)) == "64x32x4x2"


def test_parse_reads_what_str_writes() -> None:
    for tile in (Tile(128, 64, 8, 3, ""), Tile(16, 128, 4, 2, "", ragged_stages=1)):
        parsed = tiles.parse(str(tile))
        assert (parsed.block_n, parsed.block_m, parsed.num_warps) == (tile.block_n, tile.block_m, tile.num_warps)
        assert (parsed.num_stages, parsed.ragged_stages) == (tile.num_stages, tile.ragged_stages)


@pytest.mark.parametrize(
    "text",
    ["fast", "64x64", "64x64x4x3x1x1", "48x64x4x3", "8x64x4x3", "512x64x4x3", "64x64x3x3", "64x64x4x0", "64x64x4x-1"],
)
def test_nonsense_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(UnsupportedInputError, match=f"KBLAM_TILE='{text}'"):
        tiles.parse(text)


def test_too_wide_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedInputError, match="head_dim 257"):
        tiles.bucket_of(257)


@pytest.mark.parametrize("block_n", [16, 32, 64, 128])
def test_parts_of_a_head_dimension_cover_it(block_n: int) -> None:
    for head_dim in range(1, 257):
        main, rest = tiles.split_head_dim(head_dim, block_n)
        assert head_dim <= main + rest < 2 * head_dim + 16
        for part in (main, rest or 16):
            assert part >= 16
            assert part & (part - 1) == 0


@pytest.mark.parametrize(
    ("head_dim", "parts"),
    [(8, (16, 0)), (24, (32, 0)), (80, (64, 16)), (96, (64, 32)), (112, (128, 0)), (128, (128, 0)), (256, (128, 128))],
)
def test_parts_of_the_usual_head_dimensions(head_dim: int, parts: tuple[int, int]) -> None:
    assert tiles.split_head_dim(head_dim, 128) == parts
