"""Tiles of kernel launches: one kind of table for all kernels, each row with its reason.

The reasons come from compiling ahead of time (`python -m kblam_kernels resources`: registers, spills, shared memory)
and from counting instructions in the machine code; those of latent decode on sm_90 from times on an H200. No other row
was chosen by a measurement yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

import torch

from kblam_kernels.errors import BackendUnavailableError, refuse

Arch = Literal["sm_80", "sm_86", "sm_90", "interpreter"]
EVERYWHERE: tuple[Arch, ...] = get_args(Arch)
Precision = Literal["half", "float32"]
# Bytes of shared memory that one block may opt in to. sm_86 stands for 8.6, 8.9 and 12.x.
SHARED_LIMIT: dict[str, int] = {"sm_80": 163 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024}
# Programs that run at once, at one a multiprocessor: of the cards for which launches are compiled ahead of time.
MULTIPROCESSORS: dict[str, int] = {"sm_80": 108, "sm_86": 84, "sm_90": 132, "interpreter": 16}
# Pins the tile of the single pass over dense knowledge, see `dense/tiles.py`.
TILE_VARIABLE = "KBLAM_TILE"
UNLIMITED = 1 << 62


@dataclass(frozen=True)
class Tile:
    """How one program cuts its work: `block_rows` query rows against `block_m` columns at a time."""

    block_rows: int
    block_m: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        """block_rows x block_m x warps x stages."""
        return f"{self.block_rows}x{self.block_m}x{self.num_warps}x{self.num_stages}"


T = TypeVar("T", bound=Tile)


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One row of a table: a tile, the launches it is for, and why.

    Args:
        widths: the smallest and the largest width of a row: head_dim, or P of latents; all by default.
        precision: what is multiplied; None for both.
        most_rows: the most query rows of a head.
        masked: only for launches with a prompt mask, a window or a bias for each token, whose loops need more
            registers.
    """

    tile: T
    reason: str
    widths: tuple[int, int] = (1, UNLIMITED)
    precision: Precision | None = "half"
    archs: tuple[Arch, ...] = EVERYWHERE
    most_rows: int = UNLIMITED
    masked: bool = False


def select(
    table: Sequence[Choice[T]], arch: Arch, precision: Precision, width: int, rows: int = 1, *, masked: bool = False
) -> T:
    """The tile of the first row that a launch may take.

    Raises:
        UnsupportedInputError: if there is none; the message names the width.
    """
    for choice in table:
        narrowest, widest = choice.widths
        fits = narrowest <= width <= widest and rows <= choice.most_rows and (masked or not choice.masked)
        if fits and arch in choice.archs and choice.precision in (None, precision):
            return choice.tile
    refuse(f"no tile for {arch}, rows of {width} numbers, {precision}; use backend='reference'")


def precision_of(dtype: torch.dtype) -> Precision:
    """float16 and bfloat16 cost the same and share their rows."""
    return "float32" if dtype == torch.float32 else "half"


def arch_of(capability: tuple[int, int]) -> Arch:
    """The architecture class of a CUDA compute capability.

    Raises:
        BackendUnavailableError: below 8.0, which has neither bfloat16 tensor cores nor cp.async, and for 10.x and 11.x,
            for which no tile has been compiled.
    """
    major, minor = capability
    if major not in (8, 9, 12):
        why = " is below 8.0 (Ampere)" if major < 8 else ": no tile was compiled for it"
        raise BackendUnavailableError(f"compute capability {major}.{minor}{why}; use backend='reference'")
    if capability in ((8, 0), (8, 7)):
        return "sm_80"
    return "sm_90" if major == 9 else "sm_86"


def arch_refusal(device: torch.device) -> list[str]:
    """Why there is no tile for a CUDA device; empty if there is one."""
    try:
        arch_of(torch.cuda.get_device_capability(device))
    except BackendUnavailableError as error:
        return [str(error)]
    return []
