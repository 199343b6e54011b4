"""How decode cuts columns: fixed splits of tokens, power-of-two chunks of widths. Needs no triton."""

from __future__ import annotations

from kblam_kernels.common.tiles import Tile

# Prompt columns of a program. Over latents shorter programs end sooner, and the launch with them; over dense knowledge,
# whose programs take longer, more splits only cost more to merge.
PROMPT_SPLIT = 256
LATENT_PROMPT_SPLIT = 128
# Query rows per program in the prompt part: the minimum of a matrix instruction. With 32, registers spill.
PROMPT_ROWS = 16
# Latents are cut into GROUPS groups of GROUP splits at most: as many splits as an A100 or H100 has multiprocessors. A
# group is summed split by split, by one program or in the merge, so that its bits are the same either way.
GROUP, GROUPS = 8, 16
# Dense knowledge has a program for each head and split: fewer and longer splits fill a GPU and leave less to merge.
MAX_DENSE_SPLITS = 64
MIN_DENSE_SPLIT = 256
# Calls on dense knowledge with at most this many new queries are split: the rows of one matrix instruction. A single
# pass would have too few programs for a GPU, one for each head and batch row; above this, wider row tiles read less. It
# depends on the number of queries alone, so that a row's bits do not depend on the batch.
MAX_DECODE_QUERIES = 16
# Splits, and output columns, that a merge handles at a time.
MERGE = Tile(64, 64, num_warps=4, num_stages=3)
MAX_CHUNK = 128
MAX_CHUNKS = 12


def split_tokens(M: int, block_m: int) -> int:
    """Dense tokens of one split, whole tiles: set by the (over-allocated) length of the list, never by the batch."""
    return max(MIN_DENSE_SPLIT, -(-M // (MAX_DENSE_SPLITS * block_m)) * block_m)


def chunk_of(width: int, widest: int = MAX_CHUNK) -> int:
    """Columns of one chunk: a power of two that divides the width, or, where that takes many chunks, one that pads it.

    128 for 384, 32 for 96, 16 for 80; 32 for 24, 128 for 1008.
    """
    dividing = min(width & -width, widest)
    if dividing == widest or (dividing >= 16 and width <= MAX_CHUNKS * dividing):
        return dividing
    return _padded(width, widest)


def head_chunk_of(D: int, element_size: int) -> int:
    """Columns of one chunk of a head. Padding is not read, and decode has arithmetic to spare: 128 for 80 and 96.

    Half as many for float32, which takes three products and more registers.
    """
    return _padded(D, MAX_CHUNK if element_size == 2 else MAX_CHUNK // 2)


def _padded(width: int, widest: int) -> int:
    """The least power of two that holds a row, 16 at least and `widest` at most."""
    return max(16, 1 << (min(width, widest) - 1).bit_length())


def prompt_block(D: int, element_size: int) -> int:
    """Prompt columns processed at a time; a divisor of PROMPT_SPLIT. Wider rows leave room for fewer of them."""
    row_bytes = max(D, 64) * element_size
    return 64 if row_bytes <= 256 else 32 if row_bytes <= 512 else 16
