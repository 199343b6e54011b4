"""Tiles of attention to dense knowledge: the single pass, and split decode.

KBLAM_TILE pins one tile for every call on dense knowledge, those of few queries too, for experiments:
`BLOCK_NxBLOCK_MxWARPSxSTAGES`, for example `KBLAM_TILE=128x64x8x3`; a fifth number sets the stages of the ragged loops.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from kblam_kernels.common.tiles import TILE_VARIABLE, Arch, Choice, Precision, Tile, select
from kblam_kernels.errors import refuse


@dataclass(frozen=True)
class ForwardTile(Tile):
    """A tile of the single pass.

    Args:
        ragged_stages: stages of the loops over ragged tiles (causal edge, window edge, end of the knowledge); 0: as
            num_stages.
    """

    ragged_stages: int = 0

    def __str__(self) -> str:
        return super().__str__() + (f"x{self.ragged_stages}" if self.ragged_stages else "")


SM_86: tuple[Arch, ...] = ("sm_86",)
SM_90: tuple[Arch, ...] = ("sm_90",)
INTERPRETER: tuple[Arch, ...] = ("interpreter",)
# Head dimensions, by the powers of two that they are cut into.
D64, D256 = (1, 64), (129, 256)
# Queries of a question: too few to fill a tall tile.
SHORT = 64
# The first row that fits is taken: the short and the masked before the others, an architecture's own before Ampere's.
FORWARD: tuple[Choice[ForwardTile], ...] = (
    Choice(ForwardTile(32, 32, 4, 1), "small, so that short inputs span several tiles", (1, 256), None, INTERPRETER),
    # Blocks of at most 99 KiB: only what does not fit from the rows of sm_80.
    Choice(ForwardTile(64, 32, 8, 2), "three stages take 100 KiB", D256, archs=SM_86),
    # Few queries.
    Choice(ForwardTile(64, 64, 4, 3), "one warp group; 85 to 113 KiB", (65, 128), archs=SM_90, most_rows=SHORT),
    Choice(ForwardTile(64, 32, 4, 3), "one warp group; 129 KiB", D256, archs=SM_90, most_rows=SHORT),
    Choice(ForwardTile(64, 64, 4, 3), "no spill; 41 KiB, on sm_90 one warp group and 57", D64, most_rows=SHORT),
    Choice(ForwardTile(64, 32, 4, 3), "64 columns spill, of 96 with Triton 3.6; 49 KiB", (65, 128), most_rows=SHORT),
    Choice(ForwardTile(64, 32, 8, 3), "four warps spill; 100 KiB", D256, most_rows=SHORT),
    # Prefill with a prompt mask, a window or a bias for each token.
    Choice(ForwardTile(128, 64, 8, 3), "128 columns spill; 97 to 129 KiB", (65, 128), archs=SM_90, masked=True),
    Choice(
        ForwardTile(128, 32, 8, 3),
        "64 columns spill beside a prompt mask, of 96 with Triton 3.6; 64 KiB",
        (65, 128),
        masked=True,
    ),
    # Hopper. wgmma reads columns from shared memory and wants 64 rows a warp group and wide columns; two stages
    # already hold two buffers there. float32: Ampere's rows, except where they spill here.
    Choice(ForwardTile(128, 128, 8, 3), "two warp groups of 64 rows, no spill; 113 KiB", D64, archs=SM_90),
    Choice(ForwardTile(128, 128, 8, 2), "no spill; 121 to 161 KiB", (65, 128), archs=SM_90),
    Choice(ForwardTile(128, 64, 8, 2), "three stages take 257 KiB; 193 KiB", D256, archs=SM_90),
    # Ampere, 16 bit. Three stages hold two buffers of columns: with two stages the one buffer is refilled at the
    # end of an iteration and waited for at the start of the next, which exposes the whole latency.
    Choice(
        ForwardTile(128, 64, 4, 3),
        "32 rows a warp: each fragment read from shared memory feeds two mma; 48 KiB, two blocks an SM",
        D64,
    ),
    Choice(
        ForwardTile(128, 64, 8, 3, 1), "four warps spill, and prefetch in the ragged loops; 73 to 97 KiB", (65, 128)
    ),
    Choice(ForwardTile(64, 32, 8, 3), "128 rows spill; 100 KiB", D256),
    # float32 as three tf32 products: three times the mma, each operand split in registers.
    Choice(ForwardTile(64, 32, 4, 3), "wider columns spill; 64 KiB", D64, "float32"),
    Choice(ForwardTile(64, 16, 4, 3), "32 columns spill; 72 to 96 KiB", (65, 128), "float32"),
    Choice(ForwardTile(16, 16, 4, 2), "32 columns take 100 KiB, and spill on sm_90", D256, "float32", SM_86 + SM_90),
    Choice(ForwardTile(16, 32, 4, 2), "32 rows spill; 100 KiB", D256, "float32"),
)

# A matrix instruction takes at least 16 rows, and 32 of the prompt spill; the same rows for every batch size, so that a
# row's bits do not depend on it.
DECODE: tuple[Choice[Tile], ...] = (
    Choice(Tile(16, 128, 4, 3), "256 columns spill 8 to 16 bytes; 71 KiB", D64),
    Choice(Tile(16, 64, 4, 3), "128 columns spill on sm_90 and take 137 KiB; 71 KiB", (65, 128)),
    Choice(Tile(16, 32, 4, 3), "64 columns take 139 KiB, past the 99 of sm_86; 73 KiB", D256),
    Choice(Tile(16, 32, 8, 2), "four warps take 255 registers for heads of 64; 52 KiB", (1, 128), "float32"),
    Choice(Tile(16, 16, 8, 2), "32 columns take 100 KiB, and four warps spill; 66 KiB", D256, "float32"),
)

# Of a backward: rows whose gradients a program holds, and those that it reads at a time. Wider heads and float32 have
# no tile yet: plain PyTorch differentiates them.
BACKWARD: tuple[Choice[Tile], ...] = (
    Choice(Tile(32, 32, 4, 1), "small, so that short inputs span several tiles", (1, 256), None, INTERPRETER),
    Choice(Tile(32, 64, 8, 2), "64 held rows spill on sm_80, and four warps take 224 registers; 52 KiB", (1, 128)),
)


def forward_tile(arch: Arch, head_dim: int, precision: Precision, rows: int, *, masked: bool) -> ForwardTile:
    """The tile of a single pass of `rows` new queries; raises as `parse` and `select`."""
    if pinned := os.environ.get(TILE_VARIABLE):
        return parse(pinned)
    return select(FORWARD, arch, precision, head_dim, rows, masked=masked)


def backward_tile(arch: Arch, head_dim: int, precision: Precision) -> Tile:
    """The tile of a backward; raises as `select`."""
    return select(BACKWARD, arch, precision, head_dim)


def parse(text: str) -> ForwardTile:
    """A tile from `BLOCK_NxBLOCK_MxWARPSxSTAGES[xRAGGED_STAGES]`.

    Raises:
        UnsupportedInputError: not four or five numbers in range, or a block or warp count not a power of two.
    """
    fields = text.strip().split("x")
    numbers = [int(field) for field in fields if field.isdecimal()]
    wrong = None
    if len(numbers) != len(fields) or len(fields) not in (4, 5):
        wrong = "must be four or five numbers joined by x, BLOCK_NxBLOCK_MxWARPSxSTAGES, such as 128x64x8x3"
    elif any(block < 16 or block > 256 or block & (block - 1) for block in numbers[:2]):
        wrong = "needs blocks that are powers of two from 16 to 256"
    elif numbers[2] not in (1, 2, 4, 8, 16):
        wrong = "needs 1, 2, 4, 8 or 16 warps"
    elif any(not 1 <= stages <= 8 for stages in numbers[3:]):
        wrong = "needs 1 to 8 stages"
    if wrong is not None:
        refuse(f"{TILE_VARIABLE}={text!r} {wrong}")
    return ForwardTile(*numbers)


def width_to_cut(head_dim: int, arch: Arch, precision: Precision, *, fetched_whole: bool) -> int:
    """The width that a single pass selects its tile for and cuts into parts: head_dim, or the next power of two.

    wgmma reads parts of two widths with two swizzles. Where Triton does not fetch the rows ahead, both kinds of
    descriptor are computed before the loop, and ptxas 12.8 (of Triton 3.6 and 3.7) then takes one kind from registers
    that hold something else: all but the first 16 columns of a tile were lost for the narrow part. ptxas 13.1 does not.
    A power of two has one part, or two alike. Of float32 every row is fetched ahead.
    """
    if arch != "sm_90" or precision == "float32" or fetched_whole:
        return head_dim
    return 1 << (head_dim - 1).bit_length()


def split_head_dim(head_dim: int, block_rows: int) -> tuple[int, ...]:
    """How head_dim is cut into one or two powers of two for `tl.dot`, the larger first.

    96 as 64 + 32 instead of a padded 128 saves a quarter of the arithmetic and of the memory, 80 as 64 + 16 more
    than a third. A part is no wider than the row tile where that is possible: Triton then gives every warp whole
    rows, and the softmax needs no exchange between warps.
    """
    widest = 64 if block_rows == 64 and head_dim <= 128 else 128
    main = min(widest, 1 << (head_dim.bit_length() - 1))
    if head_dim <= 16 or head_dim == main:
        return (max(main, 16),)
    rest = max(16, 1 << (head_dim - main - 1).bit_length())
    return (2 * main,) if rest == main and 2 * main <= widest else (main, rest)
