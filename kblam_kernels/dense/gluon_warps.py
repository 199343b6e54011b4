"""What the warps of `gluon_forward` do: one copies by TMA, two groups multiply (Triton's Gluon).

The order is that of FlashAttention-3 (arXiv 2407.08608, sections 3.1 and 3.2): the scores of a tile are taken while the
weights of the tile before meet its values. Buffers in shared memory: four of 64 query rows, (4, 64, D), those of the
prompt and those of the knowledge for each group; and some of keys and of values, (slots, BLOCK_M, D) each. A barrier
says of each that it is full, and of each tile's that both groups have read it.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from kblam_kernels.common.triton_parts import LN2

# Its name from Triton 3.8 on.
async_load = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
# Rows of one wgmma.
GROUP_ROWS = gl.constexpr(64)


@gluon.jit
def copy_rows(rows, batch, head, start, buffer, full):
    """Copies the rows from `start` on of one head, (1, 1, rows, D), zeros past the end, to a buffer (rows, D)."""
    target = buffer.reshape(rows.block_type.shape)
    async_load(rows, [batch, head, start, 0], full, target)


@gluon.jit
def copy_tile(rows, batch, head, start, buffers, full, empty, count):
    """Copies tile number `count` of keys or of values, once its buffer has been read."""
    slot = count % buffers.shape[0]
    mbarrier.wait(empty.index(slot), ((count // buffers.shape[0]) & 1) ^ 1)
    mbarrier.expect(full.index(slot), rows.block_type.nbytes)
    copy_rows(rows, batch, head, start, buffers.index(slot), full.index(slot))


@gluon.jit
def copy_queries(rows, batch, head, start, buffers, FIRST: gl.constexpr, full):
    """Copies the query rows of both warp groups."""
    mbarrier.expect(full, 2 * rows.block_type.nbytes)
    copy_rows(rows, batch, head, start, buffers.index(FIRST), full)
    copy_rows(rows, batch, head, start + GROUP_ROWS, buffers.index(FIRST + 1), full)


@gluon.jit
def copying_warp(prompt, knowledge, buffers, barriers, place, tiles, BLOCK_M: gl.constexpr):
    """Copies queries and columns, the prompt from its causal edge back to its start, then the knowledge."""
    query, key, value = prompt
    query_buffers, key_buffers, value_buffers = buffers
    query_full, key_full, value_full, key_empty, value_empty = barriers
    batch, head, first_row, prompt_head, knowledge_batch = place
    prompt_tiles, knowledge_tiles = tiles
    copy_queries(query, batch, head, first_row, query_buffers, 0, query_full.index(0))
    count = 0
    for j in range(prompt_tiles):
        start = (prompt_tiles - 1 - j) * BLOCK_M
        copy_tile(key, batch, prompt_head, start, key_buffers, key_full, key_empty, count)
        if j == 0:
            copy_queries(knowledge[0], batch, head, first_row, query_buffers, 2, query_full.index(1))
        copy_tile(value, batch, prompt_head, start, value_buffers, value_full, value_empty, count)
        count += 1
    query, key, value = knowledge
    for j in range(knowledge_tiles):
        copy_tile(key, knowledge_batch, head, j * BLOCK_M, key_buffers, key_full, key_empty, count)
        copy_tile(value, knowledge_batch, head, j * BLOCK_M, value_buffers, value_full, value_empty, count)
        count += 1


@gluon.jit
def weights_of(score, row_max, row_sum, scale, shift, limit, RAGGED: gl.constexpr, WEIGHTS: gl.constexpr, dtype):
    """One online-softmax step, see `triton_spans.absorb`. A row sees the columns of a RAGGED tile before its limit."""
    if RAGGED:
        column = gl.arange(0, score.shape[1], layout=gl.SliceLayout(0, score.type.layout))
        score = gl.where(column[None, :] < limit[:, None], score, float("-inf"))
    new_max = gl.maximum(row_max, gl.max(score, 1) * scale + shift)
    # A row that has seen nothing keeps -inf; subtracting that from itself would be NaN.
    safe_max = gl.where(new_max == float("-inf"), 0.0, new_max)
    p = gl.exp2(score * scale - (safe_max - shift)[:, None])
    shrink = gl.exp2(row_max - safe_max)
    row_sum = row_sum * shrink + gl.sum(p, 1)
    return gl.convert_layout(p.to(dtype), WEIGHTS), shrink, new_max, row_sum


@gluon.jit
def step(state, count, query, buffers, barriers, scale, shift, limit, RAGGED: gl.constexpr):
    """The scores of tile `count` while the weights of the tile before meet their values."""
    acc, p, row_max, row_sum = state
    _, key_buffers, value_buffers = buffers
    query_full, key_full, value_full, key_empty, value_empty = barriers
    SLOTS: gl.constexpr = key_buffers.shape[0]
    BLOCK_M: gl.constexpr = key_buffers.shape[1]
    SCORES: gl.constexpr = row_max.type.layout.parent
    WEIGHTS: gl.constexpr = p.type.layout
    dtype: gl.constexpr = p.dtype
    slot = count % SLOTS
    before = count - 1
    old = before % SLOTS
    mbarrier.wait(key_full.index(slot), (count // SLOTS) & 1)
    zero = gl.zeros([GROUP_ROWS, BLOCK_M], gl.float32, SCORES)
    score = warpgroup_mma(query, key_buffers.index(slot).permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(value_full.index(old), (before // SLOTS) & 1)
    acc = warpgroup_mma(p, value_buffers.index(old), acc, is_async=True)
    score = warpgroup_mma_wait(1, deps=[score])
    mbarrier.arrive(key_empty.index(slot), count=1)
    new_p, shrink, row_max, row_sum = weights_of(score, row_max, row_sum, scale, shift, limit, RAGGED, WEIGHTS, dtype)
    # Long complete: a branch, over which ptxas does not hoist the wait for the second product.
    mbarrier.wait(query_full.index(0), 0)
    acc, p = warpgroup_mma_wait(0, deps=[acc, p])
    mbarrier.arrive(value_empty.index(old), count=1)
    acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None]
    return acc, new_p, row_max, row_sum


@gluon.jit
def multiplying_group(GROUP: gl.constexpr, results, buffers, barriers, place, lengths, tiles, scale, shift):
    """One warp group: its 64 rows against all columns that they see."""
    output, lse = results
    query_buffers, key_buffers, value_buffers = buffers
    query_full, key_full, value_full, key_empty, _ = barriers
    batch, head, first_row = place
    Hq, N, T, tokens = lengths
    prompt_tiles, knowledge_tiles = tiles
    BLOCK_M: gl.constexpr = key_buffers.shape[1]
    D: gl.constexpr = key_buffers.shape[2]
    dtype: gl.constexpr = output.dtype.element_ty
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    VALUES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, VALUES, 2)
    ROWS: gl.constexpr = gl.SliceLayout(1, SCORES)
    local = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, layout=ROWS)
    end = T - N + first_row + local + 1  # of the prompt columns that a row sees
    row_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, ROWS)
    row_sum = gl.zeros([GROUP_ROWS], gl.float32, ROWS)
    acc = gl.zeros([GROUP_ROWS, D], gl.float32, VALUES)

    # The prompt, from its causal edge: the first tile has no weights before it, and the tiles before column
    # `whole * BLOCK_M` are seen by every row.
    mbarrier.wait(query_full.index(0), 0)
    query = query_buffers.index(GROUP)
    mbarrier.wait(key_full.index(0), 0)
    zero = gl.zeros([GROUP_ROWS, BLOCK_M], gl.float32, SCORES)
    score = warpgroup_mma(query, key_buffers.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
    score = warpgroup_mma_wait(0, deps=[score])
    mbarrier.arrive(key_empty.index(0), count=1)
    limit = end - (prompt_tiles - 1) * BLOCK_M
    p, _, row_max, row_sum = weights_of(score, row_max, row_sum, scale, 0.0, limit, True, WEIGHTS, dtype)
    state = (acc, p, row_max, row_sum)
    whole = gl.minimum((T - N + first_row + 1) // BLOCK_M, prompt_tiles - 1)
    count = 1
    for j in range(prompt_tiles - 1 - whole):
        limit = end - (prompt_tiles - 2 - j) * BLOCK_M
        state = step(state, count, query, buffers, barriers, scale, 0.0, limit, True)
        count += 1
    for _ in range(whole):
        state = step(state, count, query, buffers, barriers, scale, 0.0, end, False)
        count += 1
    sees_prompt = state[2] > float("-inf")

    # The knowledge: whole tiles, then one ragged tile.
    mbarrier.wait(query_full.index(1), 0)
    query = query_buffers.index(2 + GROUP)
    for _ in range(tokens // BLOCK_M):
        state = step(state, count, query, buffers, barriers, scale, shift, end, False)
        count += 1
    for j in range(tokens // BLOCK_M, knowledge_tiles):
        limit = gl.zeros([GROUP_ROWS], gl.int32, ROWS) + (tokens - j * BLOCK_M)
        state = step(state, count, query, buffers, barriers, scale, shift, limit, True)
        count += 1
    acc, p, row_max, row_sum = state
    old = (count - 1) % key_buffers.shape[0]
    mbarrier.wait(value_full.index(old), ((count - 1) // key_buffers.shape[0]) & 1)
    acc = warpgroup_mma(p, value_buffers.index(old), acc, is_async=True)
    acc, p = warpgroup_mma_wait(0, deps=[acc, p])

    total = gl.where(sees_prompt, row_sum, 1.0)
    row_lse = gl.where(sees_prompt, (row_max + gl.log2(total)) * LN2, float("-inf"))
    gl.store(lse + (batch * Hq + head) * N + first_row + local, row_lse, mask=local < N - first_row)
    inverse = gl.convert_layout(gl.where(sees_prompt, 1.0 / total, 0.0), gl.SliceLayout(1, VALUES))[:, None]
    result = gl.where(inverse == 0.0, 0.0, acc * inverse)  # a row that sees nothing may be NaN
    # Rows of 16 bytes a thread; in memory the output is (B, N, Hq, D).
    STORED: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    result = gl.convert_layout(result.to(dtype), STORED)
    row = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, STORED))
    column = gl.arange(0, D, layout=gl.SliceLayout(0, STORED))
    base = output + ((batch * N + first_row) * Hq + head) * D
    gl.store(base + (row * (Hq * D))[:, None] + column[None, :], result, mask=(row < N - first_row)[:, None])
