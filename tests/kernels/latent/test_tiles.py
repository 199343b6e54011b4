"""Tiles of latents: the rows that launches take, and how the value columns are shared."""

from __future__ import annotations

import pytest

from kblam_kernels.common.tiles import EVERYWHERE, Arch, Precision
from kblam_kernels.latent.tiles import is_padded, latent_tile, value_parts


@pytest.mark.parametrize(
    ("P", "precision", "arch", "tile"),
    [
        (384, "half", "sm_90", "32x64x8x3 3 chunks"),
        (385, "half", "sm_90", "32x32x8x3 4 chunks"),
        (513, "half", "sm_90", "32x128x8x3 streamed"),
        (1025, "half", "sm_90", "32x128x8x3 streamed, tokens first"),
        (384, "half", "sm_80", "32x32x4x2 3 chunks"),
        (384, "half", "sm_86", "32x32x4x2 3 chunks"),
        (768, "half", "sm_80", "32x32x8x2 3 chunks"),
        (1024, "half", "sm_90", "32x128x8x3 streamed, tokens first"),
        (512, "half", "sm_86", "32x128x8x3 streamed"),
        (1536, "half", "sm_80", "32x128x8x3 streamed"),
        (5, "float32", "sm_90", "32x64x8x2 streamed"),
        (384, "half", "interpreter", "16x16x4x1 3 chunks, tokens first"),
    ],
)
def test_the_tile_of_a_width(P: int, precision: Precision, arch: Arch, tile: str) -> None:
    assert str(latent_tile(P, precision, arch)) == tile


@pytest.mark.parametrize("arch", EVERYWHERE)
@pytest.mark.parametrize("P", [384, 768, 1536])
def test_latents_that_are_converted_never_come_first(P: int, arch: Arch) -> None:
    assert not latent_tile(P, "half", arch, converts=True).tokens_first


@pytest.mark.parametrize(
    ("P", "parts", "padded"),
    [(384, (2, 3), False), (768, (2, 3), False), (896, (2, 4), True), (1024, (2, 4), False), (3072, (1, 1), False)],
)
def test_value_columns_are_shared_evenly(P: int, parts: tuple[int, int], padded: bool) -> None:
    tile = latent_tile(P, "half")
    assert value_parts(P, tile) == parts
    assert is_padded(P, tile) == padded
