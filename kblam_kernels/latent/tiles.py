"""Tiles of latent decode on a GPU, how stored numbers are scaled, and how many queries share the scratch memory.

Needs no triton, because the planner uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kblam_kernels.common.launch import target_arch
from kblam_kernels.common.splits import (
    GROUP,
    GROUPS,
    LATENT_PROMPT_SPLIT,
    MAX_CHUNK,
    PROMPT_ROWS,
    chunk_of,
    head_chunk_of,
)
from kblam_kernels.common.tiles import UNLIMITED, Arch, Choice, Precision, Tile, precision_of, select
from kblam_kernels.latent.call import LatentCall


@dataclass(frozen=True)
class LatentTile(Tile):
    """How one program of latent decode cuts its work.

    `block_rows` (heads x queries x batch) is the same for every batch size: a matrix instruction sums in an order of
    its own, so another shape could give other bits.

    Args:
        value_chunks: of a row tile whose absorbed query and sums stay on the chip ("resident"): chunks of value columns
            that a program sums, at most; the others belong to further programs, which compute the scores again. 0: the
            query arrives chunk by chunk with the keys, and the sums live in the program's part of the scratch memory,
            in L2 ("streamed").
        widest_chunk: columns of a chunk, at most.
        tokens_first: products have tokens for rows and queries for columns, so that a wgmma, which takes 64 rows, is
            filled; else queries are rows.
    """

    value_chunks: int
    widest_chunk: int = 128
    tokens_first: bool = False

    @property
    def resident(self) -> bool:
        """Whether a row tile's absorbed query and its sums stay on the chip."""
        return self.value_chunks > 0

    @property
    def most_folded(self) -> int:
        """Splits that a program can fold into one partial result: sums of a second kind stay on the chip too."""
        return GROUP if self.resident else 1

    def __str__(self) -> str:
        """The tile, where the sums are, and what products have for rows."""
        sums = f"{self.value_chunks} chunks" if self.resident else "streamed"
        return f"{super().__str__()} {sums}{', tokens first' if self.tokens_first else ''}"


@dataclass(frozen=True)
class Storage:
    """How stored numbers are scaled on the chip.

    Args:
        gain: a stored number divided by its value on the chip.
        headroom: about the largest quantised number. A value's scale is smaller than the value by this factor, so a
            weight times the scale alone would underflow in float16.
    """

    gain: int
    headroom: int


_STORAGE = {torch.int8: Storage(1, 128), torch.float8_e4m3fn: Storage(256, 512)}


def storage_of(dtype: torch.dtype) -> Storage:
    """The scaling of latents stored in `dtype`; both numbers are 1 for a dtype without scales."""
    return _STORAGE.get(dtype, Storage(1, 1))


def as_bits(latents: torch.Tensor) -> torch.Tensor:
    """Latents as kernels read them: fp8 as uint8, because sm_80 has no e4m3."""
    return latents.view(torch.uint8) if latents.dtype == torch.float8_e4m3fn else latents


_ROOMY: tuple[Arch, ...] = ("sm_80", "sm_90")
_HOPPER: tuple[Arch, ...] = ("sm_90",)
_SMALL = "small, so that short inputs span several tiles, splits and groups"
# Rows are latents of P numbers. These multiply latents as they are stored: converted, registers spill.
AS_STORED: tuple[Choice[LatentTile], ...] = (
    Choice(LatentTile(16, 16, 4, 1, 3, 128, True), _SMALL, precision=None, archs=("interpreter",)),
    Choice(LatentTile(32, 128, 8, 3, 0), "1.4 times as fast as resident sums; 80 KiB", (513, 1023), archs=_HOPPER),
    Choice(
        LatentTile(32, 128, 8, 3, 0, 128, True),
        "wgmma, 1.05 times as fast as rows of queries and 1.3 times as resident sums; 120 KiB",
        (1024, UNLIMITED),
        archs=_HOPPER,
    ),
)
# Latents that are converted.
CONVERTED: tuple[Choice[LatentTile], ...] = (
    Choice(
        LatentTile(32, 128, 8, 3, 0, 64),
        "with chunks of 128 fp8 spills 8 bytes; 70 KiB",
        (1025, UNLIMITED),
        archs=("sm_80",),
    ),
)
TILES: tuple[Choice[LatentTile], ...] = (
    Choice(LatentTile(16, 16, 4, 1, 3), _SMALL, precision=None, archs=("interpreter",)),
    Choice(LatentTile(32, 64, 8, 3, 3), "two buffers, 1.3 times as fast as wgmma; 221 KiB", (1, 384), archs=_HOPPER),
    Choice(LatentTile(32, 32, 8, 3, 4), "two buffers, 1.5 times as fast as one; 162 KiB", (385, 512), archs=_HOPPER),
    Choice(LatentTile(32, 32, 4, 2, 3, 64), "two programs share an SM", (1, 384)),
    Choice(LatentTile(32, 32, 8, 2, 3), "no spill", (385, 768), archs=_ROOMY),
    Choice(LatentTile(32, 32, 8, 2, 4), "no spill", (769, 1024), archs=_ROOMY),
    Choice(
        LatentTile(32, 128, 8, 3, 0),
        "the absorbed query no longer fits beside the keys: past 1,024 numbers, past 384 in 99 KiB",
        (385, UNLIMITED),
    ),
    Choice(
        LatentTile(32, 64, 8, 2, 0, 64),
        "products on tensor cores take three passes and three times the registers",
        precision="float32",
    ),
)


def latent_tile(P: int, precision: Precision, arch: Arch = "sm_80", *, converts: bool = False) -> LatentTile:
    """The tile for latents of width P under queries of a precision.

    Args:
        converts: latents are stored in another dtype than the query's.
    """
    return select((*(CONVERTED if converts else AS_STORED), *TILES), arch, precision, P)


def tile_of(call: LatentCall) -> LatentTile:
    """The tile for a call, on its device."""
    query, latents = call.query, call.latent_key
    converts = latents.dtype != query.dtype
    return latent_tile(latents.shape[1], precision_of(query.dtype), target_arch(query), converts=converts)


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


# Of the launches around the splits: rows of a head, and columns of a chunk of their latents.
ABSORB = Tile(16, 64, num_warps=4, num_stages=3)
PROJECT: dict[Precision, Tile] = {
    "half": Tile(4, 128, num_warps=4, num_stages=1),
    "float32": Tile(4, 64, num_warps=4, num_stages=1),  # 128 columns spill
}
# Of the output, that a program of the last launch writes.
PROJECT_COLUMNS = 64


def latent_split(M: int, tile: LatentTile, multiprocessors: int = GROUP * GROUPS) -> int:
    """Tokens of one split, whole tiles: no more splits than programs run at once, by the length of the list and the
    device alone."""
    most = min(multiprocessors, GROUP * GROUPS)
    return max(1, -(-M // (most * tile.block_m))) * tile.block_m


# Queries beyond this budget go into another block, which reads the latents again.
SCRATCH_BYTES = 128 * 2**20


def query_bytes(num_heads: int, P: int, D: int, M: int, T: int, tokens: int) -> int:
    """Bytes of one query, all heads, in float32: weighted sums, a maximum and a total of every partial result.

    Args:
        tokens: of one partial result of the knowledge, `latent_split` times the splits that a program folds.
    """
    return 4 * num_heads * (-(-M // tokens) * (P + 2) + -(-T // LATENT_PROMPT_SPLIT) * (D + 2))


def folded(rows: int, M: int, taken: int, tile: LatentTile, multiprocessors: int = GROUP * GROUPS) -> int:
    """How many splits a program folds into one partial result: as many as it can where groups fill the device, else 1.

    No bit depends on it.

    Args:
        rows: query rows, heads x queries x batch.
        taken: bytes of their partial results unfolded, which must fit the budget.
    """
    groups = -(-M // (latent_split(M, tile, multiprocessors) * GROUP))
    fills = 4 * -(-rows // tile.block_rows) * groups >= 3 * multiprocessors
    return tile.most_folded if fills or taken > SCRATCH_BYTES else 1


def queries_at_once(query_bytes: int) -> int:
    """How many queries, over all rows of the batch, share the scratch memory: at least one, however large."""
    return max(SCRATCH_BYTES // max(query_bytes, 1), 1)


def blocks(B: int, N: int, query_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Cuts B rows of N queries into blocks that fit the scratch memory: slices of rows, and of queries.

    Depends on sizes alone. A row's result does not depend on the rows around it, so cutting changes no bits.
    """
    most = queries_at_once(query_bytes)
    if most >= B * N:
        yield slice(0, B), slice(0, N)
        return
    # Whole rows of the batch first: their queries share the prompt.
    rows = max(most // N, 1)
    rows = -(-B // -(-B // rows))
    queries = min(N, max(most // rows, 1))
    if PROMPT_ROWS < queries < N:
        queries -= queries % PROMPT_ROWS
    for b in range(0, B, rows):
        for n in range(0, N, queries):
            yield slice(b, min(b + rows, B)), slice(n, min(n + queries, N))
