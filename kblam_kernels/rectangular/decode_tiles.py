"""Tile choices of dense decode. None has been timed on a GPU: each fits sm_80, sm_86 and sm_90 without spills."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeTile:
    """How one program of dense decode cuts its work.

    Args:
        block_rows: queries of one head (or, of the prompt, of one head group) that a program takes; the same for every
            batch size, so that a row's bits do not depend on it. 32 rows of the prompt spill.
        block_m: tokens taken in at a time.
        num_warps, num_stages: of the launch.
    """

    block_rows: int
    block_m: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        """BLOCK_ROWS x BLOCK_M x warps x stages."""
        return f"{self.block_rows}x{self.block_m}x{self.num_warps}x{self.num_stages}"


# (element size, widest head, tile), the first that serves is taken. A matrix instruction takes at least 16 rows.
TILES: tuple[tuple[int, int, DecodeTile], ...] = (
    (2, 64, DecodeTile(16, 128, 4, 3)),
    (2, 128, DecodeTile(16, 64, 4, 3)),
    (2, 256, DecodeTile(16, 32, 4, 3)),
    (4, 64, DecodeTile(16, 32, 8, 2)),
    (4, 128, DecodeTile(16, 32, 8, 2)),
    (4, 256, DecodeTile(16, 16, 8, 2)),
)


def decode_tile(D: int, element_size: int) -> DecodeTile:
    """The tile for heads of width D, at most 256, whose elements have `element_size` bytes (2 or 4)."""
    return next(tile for size, widest, tile in TILES if size == element_size and widest >= D)
