"""Tiles of latent decode on a GPU, how stored numbers are scaled, and how many queries share the scratch memory.

Needs no triton, because the planner uses it too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kblam_kernels.common.splits import MAX_CHUNK, PROMPT_ROWS, PROMPT_SPLIT, chunk_of, head_chunk_of, split_tokens
from kblam_kernels.common.tiles import UNLIMITED, Arch, Choice, Precision, Tile, select


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
    """

    value_chunks: int
    widest_chunk: int = 128

    @property
    def resident(self) -> bool:
        """Whether a row tile's absorbed query and its sums stay on the chip."""
        return self.value_chunks > 0

    def __str__(self) -> str:
        """The tile, and where the sums are."""
        return f"{super().__str__()} {f'{self.value_chunks} chunks' if self.resident else 'streamed'}"


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


_ROOMY: tuple[Arch, ...] = ("sm_80", "sm_90", "interpreter")
# Rows are latents of P numbers.
TILES: tuple[Choice[LatentTile], ...] = (
    Choice(LatentTile(32, 32, 4, 2, 3), "two programs share an SM of an A100; 76 KiB", (1, 384)),
    Choice(LatentTile(32, 32, 8, 2, 6), "no spill", (385, 768), archs=_ROOMY),
    Choice(
        LatentTile(32, 32, 8, 2, 4),
        "eight chunks of values need more than 255 registers: two programs of four; 162 KiB",
        (769, 1024),
        archs=_ROOMY,
    ),
    Choice(
        LatentTile(32, 128, 8, 3, 0),
        "the absorbed query no longer fits beside the keys: past 1,024 numbers, past 384 in 99 KiB",
        (385, UNLIMITED),
    ),
    Choice(
        LatentTile(32, 64, 8, 2, 0, widest_chunk=64),
        "products on tensor cores take three passes and three times the registers",
        precision="float32",
    ),
)


def latent_tile(P: int, precision: Precision, arch: Arch = "sm_80") -> LatentTile:
    """The tile for latents of width P under queries of a precision."""
    return select(TILES, arch, precision, P)


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


# Queries beyond this budget go into another block, which reads the latents again. The budget holds about 340 rows of
# MiniLM's 384 columns, at the most splits: a byte of 16-bit latents read again serves 340 operations. An H100 at half
# its matrix rate does 148 in the time of a byte, so reading again hides behind arithmetic, and more memory would gain
# nothing.
SCRATCH_BYTES = 128 * 2**20


def query_bytes(num_heads: int, P: int, D: int, M: int, T: int, tile: LatentTile) -> int:
    """Bytes of one query, all heads: weighted sums, a maximum and a total of every split, in float32."""
    knowledge_splits, prompt_splits = -(-M // split_tokens(M, tile.block_m)), -(-T // PROMPT_SPLIT)
    return 4 * num_heads * (knowledge_splits * (P + 2) + prompt_splits * (D + 2))


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
