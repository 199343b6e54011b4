"""Tiles of evidence."""

from __future__ import annotations

from dataclasses import dataclass

from kblam_kernels.common.splits import chunk_of
from kblam_kernels.common.tiles import Choice, Tile


@dataclass(frozen=True)
class MassTile(Tile):
    """How one program of evidence cuts its work.

    `block_rows` are queries of a head (or of all heads for latents) processed at a time, `block_m` the tokens of a
    program. No other program has these tokens, so nothing is added up between programs.

    Args:
        chunk: columns of a row processed at a time, at most.
        unrolled_chunks: rows of at most this many chunks are fetched whole, a step ahead; wider ones chunk by chunk.
    """

    chunk: int
    unrolled_chunks: int


# Few tokens a program: at 10 K triples there are still two programs for each multiprocessor of a large GPU.
TILES: tuple[Choice[MassTile], ...] = (
    Choice(MassTile(16, 32, 4, 3, 128, 3), "the least rows of a matrix instruction; 24 KiB", most_rows=16),
    Choice(MassTile(32, 32, 4, 2, 128, 3), "the 32 heads of one query of latents at once; 48 KiB", most_rows=32),
    Choice(MassTile(64, 32, 4, 2, 128, 2), "three unrolled chunks take 145 KiB on sm_90; 48 KiB"),
    Choice(MassTile(16, 32, 4, 2, 64, 2), "32 rows spill 152 to 200 bytes; 24 KiB", precision="float32"),
)


def is_unrolled(W: int, tile: MassTile) -> bool:
    """Whether rows of width W are fetched whole."""
    return tile.unrolled_chunks * chunk_of(W, tile.chunk) >= W
