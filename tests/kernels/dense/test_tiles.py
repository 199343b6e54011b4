"""Tiles of dense knowledge: the rows that launches take, a pinned tile, and how a head is cut."""

from __future__ import annotations

import pytest

from kblam_kernels.common.tiles import TILE_VARIABLE, Arch, Precision, select
from kblam_kernels.dense.tiles import DECODE, ForwardTile, forward_tile, parse, split_head_dim, width_to_cut
from kblam_kernels.errors import UnsupportedInputError


@pytest.mark.parametrize(
    ("arch", "head_dim", "precision", "rows", "masked", "tile"),
    [
        ("sm_80", 64, "half", 1000, False, "128x64x4x3"),
        ("sm_80", 64, "half", 1000, True, "128x64x4x3"),
        ("sm_80", 80, "half", 65, False, "128x64x8x3x1"),
        ("sm_80", 128, "half", 1000, False, "128x64x8x3x1"),
        ("sm_80", 128, "half", 1000, True, "128x32x8x3"),
        ("sm_80", 128, "half", 64, True, "64x32x4x3"),
        ("sm_80", 256, "half", 1000, False, "64x32x8x3"),
        ("sm_80", 128, "float32", 1000, True, "64x16x4x3"),
        ("sm_86", 256, "half", 1000, True, "64x32x8x2"),
        ("sm_86", 256, "half", 17, False, "64x32x8x2"),
        ("sm_86", 128, "half", 1000, True, "128x32x8x3"),
        ("sm_86", 256, "float32", 1000, False, "16x16x4x2"),
        ("sm_90", 64, "half", 1000, False, "128x128x8x3"),
        ("sm_90", 96, "half", 1000, True, "128x64x8x3"),
        ("sm_90", 128, "half", 1000, False, "128x128x8x2"),
        ("sm_90", 128, "half", 1000, True, "128x64x8x3"),
        ("sm_90", 128, "half", 64, True, "64x64x4x3"),
        ("sm_90", 96, "float32", 17, True, "64x16x4x3"),
        ("sm_90", 256, "float32", 1000, False, "16x16x4x2"),
        ("interpreter", 256, "half", 1000, True, "32x32x4x1"),
    ],
)
def test_the_tile_of_a_single_pass(
    arch: Arch,
    head_dim: int,
    precision: Precision,
    rows: int,
    masked: bool,
    tile: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(TILE_VARIABLE, raising=False)
    assert str(forward_tile(arch, head_dim, precision, rows, masked=masked)) == tile


@pytest.mark.parametrize(
    ("head_dim", "precision", "tile"),
    [
        (1, "half", "16x128x4x3"),
        (64, "half", "16x128x4x3"),
        (65, "half", "16x64x4x3"),
        (128, "half", "16x64x4x3"),
        (129, "half", "16x32x4x3"),
        (256, "half", "16x32x4x3"),
        (128, "float32", "16x32x8x2"),
        (129, "float32", "16x16x8x2"),
    ],
)
def test_the_tile_of_split_decode(head_dim: int, precision: Precision, tile: str) -> None:
    assert {str(select(DECODE, arch, precision, head_dim)) for arch in ("sm_80", "sm_86", "sm_90")} == {tile}


def test_a_pinned_tile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TILE_VARIABLE, "64x32x4x2")
    assert str(forward_tile("sm_80", 128, "half", 1000, masked=False)) == "64x32x4x2"


def test_parse_reads_what_str_writes() -> None:
    for tile in (ForwardTile(128, 64, 8, 3), ForwardTile(16, 128, 4, 2, ragged_stages=1)):
        assert parse(str(tile)) == tile


@pytest.mark.parametrize(
    "text",
    ["fast", "64x64", "64x64x4x3x1x1", "48x64x4x3", "8x64x4x3", "512x64x4x3", "64x64x3x3", "64x64x4x0", "64x64x4x-1"],
)
def test_nonsense_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(UnsupportedInputError, match=f"KBLAM_TILE='{text}'"):
        parse(text)


@pytest.mark.parametrize("block_rows", [16, 32, 64, 128])
def test_parts_of_a_head_dimension_cover_it(block_rows: int) -> None:
    for head_dim in range(1, 257):
        parts = split_head_dim(head_dim, block_rows)
        assert head_dim <= sum(parts) < 2 * head_dim + 16
        assert len(parts) in (1, 2)
        for part in parts:
            assert part >= 16
            assert part & (part - 1) == 0


@pytest.mark.parametrize(
    ("head_dim", "parts"),
    [(8, (16,)), (24, (32,)), (80, (64, 16)), (96, (64, 32)), (112, (128,)), (128, (128,)), (256, (128, 128))],
)
def test_parts_of_the_usual_head_dimensions(head_dim: int, parts: tuple[int, ...]) -> None:
    assert split_head_dim(head_dim, 128) == parts


@pytest.mark.parametrize(
    ("head_dim", "arch", "precision", "fetched_whole", "width"),
    [
        (72, "sm_90", "half", False, 128),
        (33, "sm_90", "half", False, 64),
        (136, "sm_90", "half", False, 256),
        (80, "sm_90", "half", True, 80),
        (72, "sm_90", "float32", False, 72),
        (72, "sm_80", "half", False, 72),
    ],
)
def test_rows_that_come_late_are_cut_into_parts_alike(
    head_dim: int, arch: Arch, precision: Precision, fetched_whole: bool, width: int
) -> None:
    assert width_to_cut(head_dim, arch, precision, fetched_whole=fetched_whole) == width


@pytest.mark.parametrize("block_rows", [64, 128])
def test_powers_of_two_have_parts_alike(block_rows: int) -> None:
    for head_dim in range(1, 257):
        width = width_to_cut(head_dim, "sm_90", "half", fetched_whole=False)
        parts = split_head_dim(width, block_rows)
        assert len(set(parts)) == 1
        assert sum(parts) >= head_dim
