"""Tiles of latents: the rows that launches take, and how the value columns are shared."""

from __future__ import annotations

import pytest

from kblam_kernels.common.tiles import Arch, Precision
from kblam_kernels.latent.tiles import is_padded, latent_tile, value_parts


@pytest.mark.parametrize(
    ("P", "precision", "arch", "tile"),
    [
        (384, "half", "sm_80", "32x32x4x2 3 chunks"),
        (384, "half", "sm_86", "32x32x4x2 3 chunks"),
        (385, "half", "sm_90", "32x32x8x2 6 chunks"),
        (768, "half", "sm_80", "32x32x8x2 6 chunks"),
        (1024, "half", "sm_90", "32x32x8x2 4 chunks"),
        (512, "half", "sm_86", "32x128x8x3 streamed"),
        (1536, "half", "sm_80", "32x128x8x3 streamed"),
        (5, "float32", "sm_90", "32x64x8x2 streamed"),
        (384, "half", "interpreter", "32x32x4x2 3 chunks"),
    ],
)
def test_the_tile_of_a_width(P: int, precision: Precision, arch: Arch, tile: str) -> None:
    assert str(latent_tile(P, precision, arch)) == tile


@pytest.mark.parametrize(
    ("P", "parts", "padded"), [(384, (1, 3), False), (896, (2, 4), True), (1024, (2, 4), False), (3072, (1, 1), False)]
)
def test_value_columns_are_shared_evenly(P: int, parts: tuple[int, int], padded: bool) -> None:
    tile = latent_tile(P, "half")
    assert value_parts(P, tile) == parts
    assert is_padded(P, tile) == padded
