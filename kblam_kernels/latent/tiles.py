"""Tile choices of latent decode, and what the compiler says of them (`python -m kblam_kernels.resources`).

None has been timed on a GPU: the reason beside each row is that it fits sm_80 and sm_90 without spills.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kblam_kernels.rectangular.chunks import MAX_CHUNK, chunk_of, head_chunk_of
from kblam_kernels.tiles import Arch


@dataclass(frozen=True)
class LatentTile:
    """How one program of latent decode cuts its work.

    Args:
        block_rows: rows (heads x queries x batch) of a program. The same for every batch size: a matrix instruction
            sums in an order of its own, so another shape could give other bits.
        block_m: tokens taken in at a time.
        resident: whether a row tile's absorbed query and its sums stay on the chip. Else the query arrives chunk by
            chunk with the keys, and the sums live in the program's part of the scratch memory, in L2.
        value_chunks: resident only, chunks of value columns that a program sums, at most; the others belong to
            further programs, which compute the scores again.
        widest_chunk: columns of a chunk, at most.
        num_warps, num_stages: of the launch.
    """

    block_rows: int
    block_m: int
    resident: bool
    value_chunks: int
    num_warps: int
    num_stages: int
    widest_chunk: int = 128

    def __str__(self) -> str:
        """BLOCK_ROWS x BLOCK_M x warps x stages, and where the sums are."""
        place = f"{self.value_chunks} chunks" if self.resident else "streamed"
        return f"{self.block_rows}x{self.block_m}x{self.num_warps}x{self.num_stages} {place}"


@dataclass(frozen=True)
class Storage:
    """What a kernel's numbers are worth.

    Args:
        gain: a stored number over what it reads as on the chip.
        headroom: about the largest quantised number. A value's scale is so many times smaller than the value: a weight
            times the scale alone would underflow in float16.
    """

    gain: int
    headroom: int


_STORAGE = {torch.int8: Storage(1, 128), torch.float8_e4m3fn: Storage(256, 512)}


def storage_of(dtype: torch.dtype) -> Storage:
    """Of latents stored in `dtype`; both 1 for those without scales."""
    return _STORAGE.get(dtype, Storage(1, 1))


# (element size, widest P it serves, tile), the first that serves is taken.
TILES: tuple[tuple[int, int, LatentTile], ...] = (
    # Two programs of 4 warps share a multiprocessor of an A100.
    (2, 384, LatentTile(32, 32, True, 3, num_warps=4, num_stages=2)),
    (2, 768, LatentTile(32, 32, True, 6, num_warps=8, num_stages=2)),
    # Eight chunks of values would need more than 255 registers: two programs of four.
    (2, 1024, LatentTile(32, 32, True, 4, num_warps=8, num_stages=2)),
    # The absorbed query of 32 rows no longer fits beside the keys.
    (2, 1 << 20, LatentTile(32, 128, False, 0, num_warps=8, num_stages=3)),
    # float32 products on tensor cores take three passes and three times the registers.
    (4, 1 << 20, LatentTile(32, 64, False, 0, num_warps=8, num_stages=2, widest_chunk=64)),
)


# sm_86 has 99 KiB of shared memory a block: wider latents are streamed there.
WIDEST_RESIDENT_ON_SM_86 = 384


def latent_tile(P: int, element_size: int, arch: Arch = "sm_80") -> LatentTile:
    """The tile for latents of width P whose elements have `element_size` bytes (2 or 4)."""
    fitting = [tile for size, widest, tile in TILES if size == element_size and widest >= P]
    return fitting[-1] if arch == "sm_86" and P > WIDEST_RESIDENT_ON_SM_86 else fitting[0]


def prompt_chunk(D: int, element_size: int) -> int:
    """Columns of a chunk of a head in the prompt's part: half of dense decode's past 128, or 8 to 32 bytes spill."""
    chunk = head_chunk_of(D, element_size)
    return chunk // 2 if D > MAX_CHUNK else chunk


def value_parts(P: int, tile: LatentTile) -> tuple[int, int]:
    """(programs that share the value columns, chunks of each)."""
    if not tile.resident:
        return 1, 1
    chunks = -(-P // chunk_of(P, tile.widest_chunk))
    parts = -(-chunks // tile.value_chunks)
    return parts, -(-chunks // parts)


def is_padded(P: int, tile: LatentTile) -> bool:
    """Whether the last chunk, of the latents or of the last program's part of them, reaches past P."""
    chunk = chunk_of(P, tile.widest_chunk)
    parts, value_chunks = value_parts(P, tile)
    return P % chunk != 0 or (tile.resident and parts * value_chunks * chunk != P)
