"""The tile of every kernel launch: one table, a reason beside each row.

A row is found by architecture class, head-dimension bucket, precision and regime. The reasons come from compiling
ahead of time (`python -m kblam_kernels.resources`: registers, spills, shared memory) and from counting
instructions in the machine code. None of the rows has been measured on a GPU yet.

KBLAM_TILE pins one tile for every call on dense knowledge, those of few queries too, for experiments:
`BLOCK_NxBLOCK_MxWARPSxSTAGES`, for example `KBLAM_TILE=128x64x8x3`; a fifth number sets the stages of the ragged loops.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from kblam_kernels.errors import BackendUnavailableError, UnsupportedInputError

Arch = Literal["sm_80", "sm_86", "sm_90", "interpreter"]
Precision = Literal["half", "float32"]
# short: at most 64 queries, a question; prefill: more; masked: prefill with a prompt mask, a window or a bias for each
# token, whose loops need more registers. Fewer queries still are for split decode (`rectangular/decode_tiles.py`).
Regime = Literal["short", "prefill", "masked"]

TILE_VARIABLE = "KBLAM_TILE"
HEAD_DIM_BUCKETS = (64, 96, 128, 256)
# Bytes of shared memory that one block may opt in to. sm_86 stands for 8.6, 8.9 and 12.x.
SHARED_LIMIT: dict[str, int] = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024}


@dataclass(frozen=True)
class Tile:
    """How one program is cut: BLOCK_N query rows against BLOCK_M columns at a time."""

    block_n: int
    block_m: int
    num_warps: int
    num_stages: int
    reason: str
    # Stages of the loops over ragged tiles (causal edge, window edge, end of the knowledge); 0: as num_stages.
    ragged_stages: int = 0

    def __str__(self) -> str:
        ragged = f"x{self.ragged_stages}" if self.ragged_stages else ""
        return f"{self.block_n}x{self.block_m}x{self.num_warps}x{self.num_stages}{ragged}"


Key = tuple[Arch, int, Precision, Regime]

_TABLE: dict[Key, Tile] = {
    # Ampere, 16 bit. Three stages hold two buffers of columns: with two stages the one buffer is refilled at the
    # end of an iteration and waited for at the start of the next, which exposes the whole latency.
    ("sm_80", 64, "half", "prefill"): Tile(
        128, 64, 4, 3, "32 rows a warp: each fragment read from shared memory feeds two mma; 48 KiB, two blocks an SM"
    ),
    ("sm_80", 96, "half", "prefill"): Tile(
        128,
        64,
        8,
        3,
        "four warps spill; head_dim as 64 + 32 (or 64 + 16) wastes no mma; 73 KiB",
        ragged_stages=1,
    ),
    ("sm_80", 128, "half", "prefill"): Tile(
        128, 64, 8, 3, "four warps spill; ragged loops without prefetch, or registers spill; 97 KiB", ragged_stages=1
    ),
    ("sm_80", 128, "half", "masked"): Tile(128, 32, 8, 3, "64 columns spill beside a prompt mask; 64 KiB"),
    ("sm_80", 256, "half", "prefill"): Tile(64, 32, 8, 3, "128 rows spill; 100 KiB"),
    ("sm_80", 64, "half", "short"): Tile(64, 64, 4, 3, "no spill; 41 KiB"),
    ("sm_80", 96, "half", "short"): Tile(
        64, 64, 4, 3, "with prefetch in the ragged loops 8 bytes spill; 61 KiB, two blocks an SM", ragged_stages=1
    ),
    ("sm_80", 128, "half", "short"): Tile(64, 32, 4, 3, "64 columns spill; 49 KiB"),
    ("sm_80", 256, "half", "short"): Tile(64, 32, 8, 3, "four warps spill; 100 KiB"),
    # float32 as three tf32 products: three times the mma, each operand split in registers.
    ("sm_80", 64, "float32", "prefill"): Tile(64, 32, 4, 3, "wider columns spill; 64 KiB"),
    ("sm_80", 96, "float32", "prefill"): Tile(64, 16, 4, 3, "32 columns spill; 72 KiB"),
    ("sm_80", 128, "float32", "prefill"): Tile(64, 16, 4, 3, "32 columns spill; 96 KiB"),
    ("sm_80", 256, "float32", "prefill"): Tile(16, 32, 4, 2, "32 rows spill; 100 KiB"),
    # Blocks of at most 99 KiB: only what does not fit from the rows of sm_80.
    ("sm_86", 256, "half", "prefill"): Tile(64, 32, 8, 2, "three stages take 100 KiB"),
    ("sm_86", 256, "half", "short"): Tile(64, 32, 8, 2, "three stages take 100 KiB"),
    ("sm_86", 256, "float32", "prefill"): Tile(16, 16, 4, 2, "32 columns take 100 KiB"),
    # Hopper. wgmma reads columns from shared memory and wants 64 rows a warp group and wide columns; two stages
    # already hold two buffers there.
    ("sm_90", 64, "half", "prefill"): Tile(128, 128, 8, 3, "two warp groups of 64 rows, no spill; 113 KiB"),
    ("sm_90", 96, "half", "prefill"): Tile(128, 128, 8, 2, "no spill; 121 KiB"),
    ("sm_90", 96, "half", "masked"): Tile(128, 64, 8, 3, "128 columns spill; 97 KiB"),
    ("sm_90", 128, "half", "prefill"): Tile(128, 128, 8, 2, "no spill; 161 KiB"),
    ("sm_90", 128, "half", "masked"): Tile(128, 64, 8, 3, "128 columns spill; 129 KiB"),
    ("sm_90", 256, "half", "prefill"): Tile(128, 64, 8, 2, "three stages take 257 KiB; 193 KiB"),
    ("sm_90", 64, "half", "short"): Tile(64, 64, 4, 3, "one warp group, 166 registers; 57 KiB, three blocks an SM"),
    ("sm_90", 96, "half", "short"): Tile(64, 64, 4, 3, "one warp group; 85 KiB, two blocks an SM"),
    ("sm_90", 128, "half", "short"): Tile(64, 64, 4, 3, "one warp group; 113 KiB"),
    ("sm_90", 256, "half", "short"): Tile(64, 32, 4, 3, "one warp group; 129 KiB"),
    # float32: Ampere's rows, except where they spill here.
    ("sm_90", 256, "float32", "prefill"): Tile(16, 16, 4, 2, "32 columns spill; 66 KiB"),
}
# What a launch uses when its own row is absent.
_REGIME_FALLBACK: dict[Regime, Regime] = {"masked": "prefill", "short": "prefill"}
_ARCH_FALLBACK: dict[Arch, Arch] = {"sm_86": "sm_80", "sm_90": "sm_80"}
_INTERPRETER = Tile(32, 32, 4, 1, "small, so that short test inputs span several tiles")


def arch_of(capability: tuple[int, int]) -> Arch:
    """The architecture class of a CUDA compute capability.

    Raises:
        BackendUnavailableError: below 8.0, which has neither bfloat16 tensor cores nor cp.async.
    """
    if capability < (8, 0):
        raise BackendUnavailableError(
            f"compute capability {capability[0]}.{capability[1]} is below 8.0 (Ampere); use backend='reference'"
        )
    if capability in ((8, 0), (8, 7)):
        return "sm_80"
    if capability[0] == 8 or capability[0] == 12:
        return "sm_86"
    return "sm_90"


def regime_of(rows: int, masked: bool) -> Regime:
    """The regime of `rows` new queries a head; `masked` as in `Regime`."""
    if rows <= 64:
        return "short"
    return "masked" if masked else "prefill"


def bucket_of(head_dim: int) -> int:
    """The smallest head-dimension bucket that holds `head_dim`.

    Raises:
        UnsupportedInputError: above 256.
    """
    for bucket in HEAD_DIM_BUCKETS:
        if head_dim <= bucket:
            return bucket
    raise UnsupportedInputError(f"head_dim {head_dim} is over {HEAD_DIM_BUCKETS[-1]}; use backend='reference'")


def precision_of(dtype: torch.dtype) -> Precision:
    """float16 and bfloat16 cost the same and share their rows."""
    return "float32" if dtype == torch.float32 else "half"


def select(arch: Arch, head_dim: int, dtype: torch.dtype, rows: int, *, masked: bool) -> Tile:
    """The tile of one launch with `rows` new queries.

    Raises:
        UnsupportedInputError: head_dim above 256, or KBLAM_TILE is not a tile.
    """
    if pinned := os.environ.get(TILE_VARIABLE):
        return parse(pinned)
    if arch == "interpreter":
        return _INTERPRETER
    return lookup(arch, bucket_of(head_dim), precision_of(dtype), regime_of(rows, masked))


def lookup(arch: Arch, bucket: int, precision: Precision, regime: Regime) -> Tile:
    """The row of the table, or the nearest one that stands in for it."""
    wanted: Regime | None = regime
    while wanted is not None:
        candidate: Arch | None = arch
        while candidate is not None:
            if tile := _TABLE.get((candidate, bucket, precision, wanted)):
                return tile
            candidate = _ARCH_FALLBACK.get(candidate)
        wanted = _REGIME_FALLBACK.get(wanted)
    raise UnsupportedInputError(f"no tile for {arch}, head_dim up to {bucket}, {precision}, {regime}")


def table() -> dict[Key, Tile]:
    """A copy of the whole table, for `resources` and the tests."""
    return dict(_TABLE)


def parse(text: str) -> Tile:
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
        raise UnsupportedInputError(f"{TILE_VARIABLE}={text!r} {wrong}")
    block_n, block_m, num_warps, num_stages, *ragged = numbers
    return Tile(block_n, block_m, num_warps, num_stages, f"pinned by {TILE_VARIABLE}", *ragged)


def split_head_dim(head_dim: int, block_n: int) -> tuple[int, int]:
    """How head_dim is cut into one or two powers of two for `tl.dot`: (main, rest), rest 0 when there is one.

    96 as 64 + 32 instead of a padded 128 saves a quarter of the arithmetic and of the memory, 80 as 64 + 16 more
    than a third. A part is no wider than the row tile where that is possible: Triton then gives every warp whole
    rows, and the softmax needs no exchange between warps.
    """
    widest = 64 if block_n == 64 and head_dim <= 128 else 128
    main = min(widest, 1 << (head_dim.bit_length() - 1))
    if head_dim <= 16 or head_dim == main:
        return max(main, 16), 0
    rest = max(16, 1 << (head_dim - main - 1).bit_length())
    return (2 * main, 0) if rest == main and 2 * main <= widest else (main, rest)
