"""The scratch memory of latent decode on a GPU: how much a query needs, and how many queries share it.

Needs no triton, because the planner counts it too.
"""

from __future__ import annotations

from collections.abc import Iterator

from kblam_kernels.common.splits import PROMPT_ROWS, PROMPT_SPLIT, split_tokens
from kblam_kernels.latent.tiles import LatentTile

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
