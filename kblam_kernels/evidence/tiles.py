"""Tile choices of evidence. None has been timed on a GPU: each fits sm_80, sm_86 and sm_90 without spills."""

from __future__ import annotations

from dataclasses import dataclass

from kblam_kernels.rectangular.chunks import chunk_of


@dataclass(frozen=True)
class MassTile:
    """How one program of evidence cuts its work.

    Args:
        block_rows: rows (queries of a head, or of all heads for latents) taken in at a time.
        block_m: tokens of a program: a program has them for itself, so nothing is added up between programs.
        chunk: columns of a row taken in at a time, at most.
        unrolled_chunks: rows of so many chunks are fetched whole, a step ahead; wider ones chunk by chunk.
        num_warps, num_stages: of the launch.
    """

    block_rows: int
    block_m: int
    chunk: int
    unrolled_chunks: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        """BLOCK_ROWS x BLOCK_M x warps x stages."""
        return f"{self.block_rows}x{self.block_m}x{self.num_warps}x{self.num_stages}"


# (element size, most rows, tile), the first that serves is taken. Few tokens a program: at 10 K triples there are
# still two programs for each multiprocessor of a large GPU.
TILES: tuple[tuple[int, int, MassTile], ...] = (
    (2, 16, MassTile(16, 32, 128, 3, 4, 3)),
    (2, 32, MassTile(32, 32, 128, 3, 4, 2)),
    (2, 1 << 40, MassTile(64, 32, 128, 2, 4, 2)),
    # float32 products take three passes; 32 rows spill.
    (4, 1 << 40, MassTile(16, 32, 64, 2, 4, 2)),
)


def mass_tile(rows: int, element_size: int) -> MassTile:
    """The tile for `rows` rows a head whose elements have `element_size` bytes (2 or 4)."""
    return next(tile for size, most, tile in TILES if size == element_size and rows <= most)


def is_unrolled(W: int, tile: MassTile) -> bool:
    """Whether rows of width W are fetched whole."""
    return tile.unrolled_chunks * chunk_of(W, tile.chunk) >= W
