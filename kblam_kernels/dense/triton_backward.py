"""Gradients of attention to dense knowledge (Triton). The algorithm is described in this folder's README.

Takes what `triton_forward` takes. No atomics: a program owns what it writes, so two runs give the same bits.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.common import memory
from kblam_kernels.common.call import Saved, Sizes
from kblam_kernels.common.launch import SIZES, STRIDES, Knowledge, Strides, attention, heads, launch, target_arch
from kblam_kernels.common.tiles import precision_of
from kblam_kernels.common.triton_parts import (
    LN2,
    LOG2E,
    is_visible,
    load_range,
    load_vector,
    product,
    store_rows,
    zeros,
)
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.gradient import OF_KNOWLEDGE, OF_PROMPT, row_terms
from kblam_kernels.dense.tiles import backward_tile
from kblam_kernels.dense.triton_forward import kernel_tile, rows_of, shown
from kblam_kernels.dense.triton_spans import load_parts, nothing


@triton.jit
def products(held, streamed, TILE: tl.constexpr):
    """held @ streamed.T in float32."""
    found = zeros(TILE.BLOCK_N, TILE.BLOCK_M)
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        found = product(held[i], tl.trans(streamed[i]), found)
    return found  # [BLOCK_N, BLOCK_M]


@triton.jit
def add(acc, weights, streamed, TILE: tl.constexpr):
    """acc + weights @ streamed."""
    grown = ()
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        grown += (product(weights.to(streamed[i].dtype), streamed[i], acc[i]),)
    return grown


@triton.jit
def store_parts(heads, batch, head, start, stop, acc, factor, TILE: tl.constexpr):
    """Writes the gradients of the held rows."""
    base, stride = rows_of(heads, batch, head)
    stored = tl.arange(0, TILE.BLOCK_N) < stop - start
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        to = base + tl.cast(start, tl.int64) * stride
        store_rows(to, acc[i] * factor, stored, stride, TILE.STARTS[i], TILE.SIZES[i], TILE.WIDTH)


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, "window"])
def dense_backward_rows_kernel(
    prompt,
    knowledge,
    bias,
    knowledge_range,
    grad_output,
    level,
    delta,
    gradient,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    window,
    scale,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    IS_KNOWLEDGE: tl.constexpr,
):  # fmt: skip
    """One program: the gradient of BLOCK_N queries of one head, from the columns of one block that they see.

    `scale` and `level` have log2(e) folded in.
    """
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    B, Hq, N, T, M = sizes.B, sizes.Hq, sizes.N, sizes.T, sizes.M
    program = tl.program_id(0)
    row_tiles = tl.cdiv(N, TILE.BLOCK_N)
    first_row = (row_tiles - 1 - program % row_tiles) * TILE.BLOCK_N
    batch = (program // row_tiles % B).to(tl.int64)
    head = (program // row_tiles // B).to(tl.int64)
    if IS_KNOWLEDGE:
        query = knowledge.query
        key, value = rows_of(knowledge.key, batch, head), rows_of(knowledge.value, batch, head)
        start = 0
        stop = M
        if knowledge_range is not None:
            start, stop = load_range(knowledge_range.data + batch * strides.range, knowledge_range.column, M)
    else:
        query = prompt.query
        key, value = rows_of(prompt.key, batch, head // GROUP), rows_of(prompt.value, batch, head // GROUP)
        start = 0
        stop = tl.minimum(T - N + first_row + TILE.BLOCK_N, T)
        if window is not None:
            start = tl.maximum(T - N + first_row - window + 1, 0)
    held = load_parts(rows_of(query, batch, head), first_row, N, TILE.BLOCK_N, TILE)
    grad = load_parts(rows_of(grad_output, batch, head), first_row, N, TILE.BLOCK_N, TILE)
    row_base = (batch * Hq + head) * N
    row_level = load_vector(level + row_base, first_row, N, 1, float("inf"), TILE.BLOCK_N, True)
    row_delta = load_vector(delta + row_base, first_row, N, 1, 0.0, TILE.BLOCK_N, True)
    row = first_row + tl.arange(0, TILE.BLOCK_N)
    acc = nothing(TILE)
    for first in tl.range(start, stop, TILE.BLOCK_M):
        k = load_parts(key, first, stop, TILE.BLOCK_M, TILE)
        v = load_parts(value, first, stop, TILE.BLOCK_M, TILE)
        score = products(held, k, TILE) * scale
        column = first + tl.arange(0, TILE.BLOCK_M)
        if IS_KNOWLEDGE:
            visible = (column < stop)[None, :]
            if bias is not None:
                base = bias.data + batch * strides.bias
                score += load_vector(base, first, stop, bias.column, 0.0, TILE.BLOCK_M, True)[None, :] * LOG2E
        else:
            visible = is_visible(T - N + row[:, None], column[None, :], window)
            if prompt.mask is not None:
                base = prompt.mask.data + batch * strides.mask
                score += load_vector(base, first, stop, prompt.mask.column, 0.0, TILE.BLOCK_M, True)[None, :]
        p = tl.where(visible, tl.math.exp2(score - row_level[:, None]), 0.0)
        grad_score = p * (products(grad, v, TILE) - row_delta[:, None])
        acc = add(acc, grad_score, k, TILE)
    store_parts(gradient, batch, head, first_row, N, acc, scale * LN2, TILE)


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, "window"])
def dense_backward_columns_kernel(
    prompt,
    knowledge,
    bias,
    knowledge_range,
    grad_output,
    level,
    delta,
    grad_key,
    grad_value,
    grad_bias,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    window,
    scale,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    IS_KNOWLEDGE: tl.constexpr,
    IS_SHARED: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of BLOCK_N columns of one block and head, from BLOCK_M rows at a time that see them.

    Those are the rows of all heads of a prompt group, or of the batch rows that share knowledge. `grad_bias` is float32
    (B, Hq, M) or None.
    """
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    B, Hq, N, T, M = sizes.B, sizes.Hq, sizes.N, sizes.T, sizes.M
    COLUMNS: tl.constexpr = TILE.BLOCK_N
    length = M if IS_KNOWLEDGE else T
    column_tiles = tl.cdiv(length, TILE.BLOCK_N)
    first = tl.program_id(0) % column_tiles * TILE.BLOCK_N
    outer = tl.program_id(0) // column_tiles
    if IS_KNOWLEDGE:
        query, keys, values = knowledge.query, knowledge.key, knowledge.value
        repeats = B if IS_SHARED else 1
        own_head, own_batch = (outer % Hq).to(tl.int64), (outer // Hq).to(tl.int64)
    else:
        query, keys, values = prompt.query, prompt.key, prompt.value
        repeats = GROUP
        own_head, own_batch = (outer % sizes.Hkv).to(tl.int64), (outer // sizes.Hkv).to(tl.int64)
    k = load_parts(rows_of(keys, own_batch, own_head), first, length, TILE.BLOCK_N, TILE)
    v = load_parts(rows_of(values, own_batch, own_head), first, length, TILE.BLOCK_N, TILE)
    column = first + tl.arange(0, TILE.BLOCK_N)
    acc_key, acc_value = nothing(TILE), nothing(TILE)
    for i in range(repeats):
        batch = own_batch
        head = own_head
        low = 0
        high = N
        shift = tl.zeros([COLUMNS], dtype=tl.float32)
        inside = column < length
        if IS_KNOWLEDGE:
            batch += i
            if knowledge_range is not None:
                start, stop = load_range(knowledge_range.data + batch * strides.range, knowledge_range.column, M)
                inside = inside & (column >= start) & (column < stop)
                high = tl.where((first < stop) & (first + TILE.BLOCK_N > start), N, 0)
            if bias is not None:
                base = bias.data + batch * strides.bias
                shift = load_vector(base, first, M, bias.column, 0.0, TILE.BLOCK_N, True) * LOG2E
        else:
            head = own_head * GROUP + i
            low = tl.maximum(first - (T - N), 0) // TILE.BLOCK_M * TILE.BLOCK_M
            if window is not None:
                high = tl.minimum(N, tl.maximum(first + TILE.BLOCK_N - 1 - (T - N) + window, 0))
            if prompt.mask is not None:
                base = prompt.mask.data + batch * strides.mask
                shift = load_vector(base, first, T, prompt.mask.column, 0.0, TILE.BLOCK_N, True)
        rows, grads = rows_of(query, batch, head), rows_of(grad_output, batch, head)
        row_base = (batch * Hq + head) * N
        summed = tl.zeros([COLUMNS], dtype=tl.float32)
        for first_row in tl.range(low, high, TILE.BLOCK_M):
            q = load_parts(rows, first_row, N, TILE.BLOCK_M, TILE)
            grad = load_parts(grads, first_row, N, TILE.BLOCK_M, TILE)
            row_level = load_vector(level + row_base, first_row, N, 1, float("inf"), TILE.BLOCK_M, True)
            row_delta = load_vector(delta + row_base, first_row, N, 1, 0.0, TILE.BLOCK_M, True)
            score = products(k, q, TILE) * scale + shift[:, None]
            visible = inside[:, None]
            if not IS_KNOWLEDGE:
                row = first_row + tl.arange(0, TILE.BLOCK_M)
                visible = is_visible(T - N + row[None, :], column[:, None], window)
            p = tl.where(visible, tl.math.exp2(score - row_level[None, :]), 0.0)
            # Of a token that this row does not see a value may be NaN.
            grad_score = tl.where(visible, p * (products(v, grad, TILE) - row_delta[None, :]), 0.0)
            acc_value = add(acc_value, p, grad, TILE)
            acc_key = add(acc_key, grad_score, q, TILE)
            if grad_bias is not None:
                summed += tl.sum(grad_score, 1)
        if grad_bias is not None:
            to = grad_bias + (batch * Hq + head) * M + column
            tl.store(to, summed, mask=column < M)
    store_parts(grad_key, own_batch, own_head, first, length, acc_key, scale * LN2, TILE)
    store_parts(grad_value, own_batch, own_head, first, length, acc_value, 1.0, TILE)


def backward(call: DenseCall, saved: Saved) -> dict[str, Tensor]:
    """Gradients of `saved.wanted`: a launch for the queries of each block, one for its columns, of those needed."""
    terms = row_terms(call, saved)
    given, bias = call.bias, call.bias if call.num_tokens > 0 else None
    B, Hq, Hkv, N, T, M = call.sizes
    call = shown(call.but(query=terms.query, knowledge_query=terms.knowledge_query, bias=bias))
    grad_output = terms.grad_output if terms.grad_output.stride(-1) == 1 else terms.grad_output.contiguous()
    arguments = attention(call) | {
        "knowledge": Knowledge(heads(call.knowledge_query), heads(call.knowledge_key), heads(call.knowledge_value)),
        "grad_output": heads(grad_output),
        "level": (terms.level * LOG2E.value).contiguous(),
        "delta": terms.delta.contiguous(),
        "GROUP": Hq // Hkv,
    }
    made: dict[str, Tensor] = {}

    tile = backward_tile(target_arch(call.query), call.width, precision_of(call.query.dtype))
    # One part: of two, 64 + 32, the compiler makes three times the products of one padded to 128, and spills.
    width = triton.next_power_of_2(call.width)
    arguments["TILE"] = kernel_tile(call.width, tile, tile.num_stages, bias_per_token=False, width=width)

    def run(kernel: Any, length: int, programs: int, **more: Any) -> None:
        launch(kernel, (triton.cdiv(length, tile.block_rows) * programs,), tile, call.query, **arguments, **more)

    def unwritten(name: str) -> Tensor:
        shape = getattr(call, name).shape
        made[name] = memory.empty(call.query, *shape)
        return made[name]

    for (rows, key, value, *_), is_knowledge in ((OF_PROMPT, False), (OF_KNOWLEDGE, True)):
        if saved.wants(rows):
            gradient = heads(unwritten(rows))
            run(dense_backward_rows_kernel, N, B * Hq, gradient=gradient, IS_KNOWLEDGE=is_knowledge)
        of_bias = is_knowledge and saved.wants("bias")
        if not of_bias and not saved.wants(key, value):
            continue
        shared = is_knowledge and call.knowledge_key.dim() == 3
        length, programs = (M, Hq if shared else B * Hq) if is_knowledge else (T, B * Hkv)
        grad_bias = memory.empty(call.query, B, Hq, M, dtype=torch.float32) if of_bias else None
        run(
            dense_backward_columns_kernel,
            length,
            programs,
            grad_key=heads(unwritten(key)),
            grad_value=heads(unwritten(value)),
            grad_bias=grad_bias,
            IS_KNOWLEDGE=is_knowledge,
            IS_SHARED=shared,
        )
        if grad_bias is not None and given is not None:
            made["bias"] = grad_bias.sum(1).sum_to_size(given.shape)
    return {name: made[name] for name in saved.wanted}
