"""Attention for engines that attend to the prompt themselves: to knowledge alone, and the merge of two parts.

The tokens of all requests of a step lie one after the other. A kernel is given them as a batch of one token each, with
the range and bias of its request: every shape then follows from the number of rows, whatever requests they are of.
"""

from __future__ import annotations

import bisect
import itertools
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.attention.interface import call_of
from kblam_kernels.common.call import AttentionCall
from kblam_kernels.common.checks import check_computed, check_range
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.launch import multiprocessors
from kblam_kernels.common.op import Op
from kblam_kernels.common.softmax import accumulation_dtype, merged
from kblam_kernels.common.splits import MAX_DENSE_SPLITS, MIN_DENSE_SPLIT
from kblam_kernels.errors import expect, number, refuse, tensors, whole
from kblam_kernels.knowledge import DenseKnowledge, Knowledge, check_layout
from kblam_kernels.latent.call import LatentCall
from kblam_kernels.latent.tiles import (
    LatentTile,
    folded,
    latent_split,
    queries_at_once,
    query_bytes,
    tile_of,
)
from kblam_kernels.precision import exactly


def partial_knowledge_attention(
    knowledge_query: Tensor,
    knowledge: Knowledge,
    query_start_loc: Tensor,
    knowledge_range: Tensor | None = None,
    *,
    knowledge_bias: float | Tensor = 0.0,
    max_span: int | None = None,
    scale: float | None = None,
    int8_products: bool = False,
    backend: str = AUTO,
) -> tuple[Tensor, Tensor]:
    """Attention of the packed tokens of several requests to knowledge alone, each request to its part of one list.

    `merge_states` joins it with attention to the prompt; the result is that of `rectangular_attention`.

    Args:
        knowledge_query: (total_tokens, Hq, D), never rotated; float32, float16, bfloat16 (float64: reference backend).
            A contiguous last dimension.
        knowledge: `DenseKnowledge` of (Hq, M, D) or `LatentKnowledge` of (M, P), one list for all requests.
        query_start_loc: int32 (num_requests + 1,), ascending from 0: request i has the tokens from entry i to entry
            i + 1. Tokens after the last entry are padding. A request may have none.
        knowledge_range: int32 or int64 (num_requests, 2), the [start, stop) of M that each request sees; an empty one
            is a request without knowledge. No other token is read. None is (0, M) for all.
        knowledge_bias: added to the scores: a number, or float32 (num_requests,).
        max_span: the longest range that occurs, where the list is a pool of many bases: on CUDA a range is then cut
            among programs as if it were the list, and has the same bits wherever it lies. A longer one is refused on
            the CPU; on CUDA, where reading it would mean waiting, no more of it is seen.
        scale: factor of the scores; None means D ** -0.5.
        int8_products: as `rectangular_attention` takes it.
        backend: "auto", "triton", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".

    All tensors are on one device. On CUDA nothing is read back to the host. On the CPU requests of as many tokens as
    their neighbours are one call of the kernel.

    Returns:
        Output (total_tokens, Hq, D) in the dtype of `knowledge_query`, and the natural-log lse (Hq, total_tokens),
        float32 (float64 for float64 input), as FlashAttention lays it out. A token that sees no knowledge, and
        padding, whatever it holds, has output 0 and lse -inf. Dense knowledge and the query get gradients.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit, or latents where a gradient is
            asked for; the message names it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reasons.

    Example:
        >>> import torch
        >>> from kblam_kernels import DenseKnowledge, partial_knowledge_attention
        >>> knowledge = DenseKnowledge(torch.randn(8, 1000, 64), torch.randn(8, 1000, 64))
        >>> starts, spans = torch.tensor([0, 5, 6]).int(), torch.tensor([[0, 400], [400, 1000]])
        >>> output, lse = partial_knowledge_attention(torch.randn(6, 8, 64), knowledge, starts, spans)
        >>> output.shape, lse.shape
        (torch.Size([6, 8, 64]), torch.Size([8, 6]))
    """
    check_packed(knowledge_query, query_start_loc)
    check_shared(knowledge)
    R, T, M = len(query_start_loc) - 1, len(knowledge_query), knowledge.num_tokens
    starts = starts_of(query_start_loc, T)
    ranges, biases = of_requests(R, M, knowledge_range, knowledge_bias, knowledge_query, max_span)
    request = request_of_each(query_start_loc, T)
    op, call = call_of_each(
        knowledge_query,
        knowledge,
        max_span,
        knowledge_range=of_each(ranges, request),
        knowledge_bias=of_each(biases, request)[:, None].expand(-1, M),
        scale=scale,
        int8_products=int8_products,
    )
    name = op.choose(call, backend)
    parts, row = [], 0
    for B, N in cuts_of(call, name, starts):
        rows, row = slice(row, row + B * N), row + B * N
        parts.append(packed_results(*op(of_rows(call, rows, B, N), name)))
    if not parts:  # no row, or padding alone: what has a gradient has one of zeros all the same
        parts.append(packed_results(*op(of_rows(call, slice(0, 0), 0, 1), "reference")))
    padding = knowledge_query[row:]
    if len(padding) > 0:
        lse = torch.full(padding.shape[1::-1], float("-inf"), dtype=accumulation_dtype(padding), device=padding.device)
        parts.append((torch.zeros_like(padding), lse))
    if len(parts) == 1:
        return parts[0][0], parts[0][1].contiguous()
    outputs, lses = zip(*parts, strict=True)
    with exactly(knowledge_query.device):  # autocast takes no half precision but its own here
        return torch.cat(outputs), torch.cat(lses, 1)


def merge_states(output_a: Tensor, lse_a: Tensor, output_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two lists of columns together, from attention to each: one softmax over both.

    Of three parts, merge two and then the third. Plain PyTorch, in float32 (float64 for float64 outputs): it is
    differentiable, and compiled it is one kernel.

    Args:
        output_a, output_b: (total_tokens, Hq, D), of one dtype and device.
        lse_a, lse_b: (Hq, total_tokens), natural logarithms, float32 (float64 for float64 outputs). -inf says that a
            token saw nothing of that part; what its output holds is then not read. So does +inf, which FlashAttention 2
            writes for such a token, and for one whose scores are NaN: NaN in its output stays NaN.

    Returns:
        Output (total_tokens, Hq, D) in the dtype of the outputs, and lse (Hq, total_tokens): 0 and -inf where both
        lse are -inf.

    Raises:
        UnsupportedInputError: a shape, dtype or device that does not fit; the message names it.

    Example:
        >>> import torch
        >>> from kblam_kernels import merge_states
        >>> outputs, lse = torch.tensor([[[[1.0]]], [[[5.0]]]]), torch.tensor([[[0.0]], [[-torch.inf]]])
        >>> merge_states(outputs[0], lse[0], outputs[1], lse[1])
        (tensor([[[1.]]]), tensor([[0.]]))
    """
    T, Hq, D = check_rows(output_a, "output_a").shape
    dtype = accumulation_dtype(output_a)
    for name, tensor in (("lse_a", lse_a), ("lse_b", lse_b)):
        expect(name, tensor, "Hq, total_tokens", (Hq, T), output_a.device, dtype)
    expect("output_b", output_b, "total_tokens, Hq, D", (T, Hq, D), output_a.device, output_a.dtype)
    output, lse = merged(output_a, lse_a.T, output_b, lse_b.T)
    return output.to(output_a.dtype), lse.T


def check_rows(rows: Tensor, name: str) -> Tensor:
    """Packed rows: their rank, and numbers that attention can be made of."""
    tensors(**{name: rows})
    if rows.dim() != 3 or rows.shape[2] == 0 or not rows.dtype.is_floating_point:
        refuse(
            f"{name} must be a floating-point tensor (total_tokens, Hq, D), D at least 1; "
            f"got {rows.dtype} {tuple(rows.shape)}"
        )
    return rows


def check_packed(query: Tensor, query_start_loc: Tensor, name: str = "knowledge_query") -> None:
    """Packed rows and where those of each request begin."""
    check_computed(name, check_rows(query, name))
    tensors(query_start_loc=query_start_loc)
    starts = query_start_loc
    if starts.dim() != 1 or len(starts) == 0 or starts.dtype != torch.int32 or starts.device != query.device:
        refuse(
            f"query_start_loc must be int32 (num_requests + 1,) on {query.device}; "
            f"got {starts.dtype} {tuple(starts.shape)} on {starts.device}"
        )


def check_shared(knowledge: Knowledge) -> None:
    """Requests differ in their range alone."""
    check_layout(knowledge)
    if isinstance(knowledge, DenseKnowledge) and not knowledge.is_shared:
        refuse(f"packed requests share one list, knowledge (Hq, M, D); got {tuple(knowledge.key.shape)}")


def of_requests(
    R: int,
    M: int,
    knowledge_range: Tensor | None,
    knowledge_bias: float | Tensor,
    like: Tensor,
    max_span: int | None,
) -> tuple[Tensor, Tensor]:
    """Range (R, 2) and bias (R,) of each request, checked, as tensors."""
    if knowledge_range is None:
        knowledge_range = torch.zeros(R, 2, dtype=torch.int32, device=like.device)
        knowledge_range[:, 1] = M
    check_range(knowledge_range, "num_requests", R, like.device)
    if max_span is not None:
        knowledge_range = _within(whole("max_span", max_span), knowledge_range.clamp(0, M), M)
    if not isinstance(knowledge_bias, Tensor):
        knowledge_bias = number("knowledge_bias", knowledge_bias, or_minus_infinity=True)
        knowledge_bias = torch.full((R,), knowledge_bias, dtype=torch.float32, device=like.device)
    expect("knowledge_bias", knowledge_bias, "num_requests", (R,), like.device, torch.float32, why=", or a number")
    return knowledge_range, knowledge_bias


def _within(max_span: int, ranges: Tensor, M: int) -> Tensor:
    """Ranges (R, 2) of at most so many tokens; they lie within [0, M]."""
    # Numbers that an int32 range may not hold, `max_span` and what it is added to, would wrap around.
    most = min(max_span, M)
    start, stop = ranges.unbind(1)
    length = stop - start
    if _is_readable(ranges) and bool((length > most).any()):
        refuse(f"a range is longer than max_span={max_span}: {ranges.tolist()}")
    return torch.stack([start, start + length.clamp(max=most)], 1)


def _is_readable(tensor: Tensor) -> bool:
    """Whether its numbers can be read without waiting for a device, and no compiler traces."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def starts_of(query_start_loc: Tensor, T: int) -> list[int] | None:
    """Where the rows of each request begin, checked; None where only the device knows it, or a compiler traces."""
    if not _is_readable(query_start_loc):
        return None
    starts: list[int] = query_start_loc.tolist()
    if starts[0] != 0 or any(b < a for a, b in itertools.pairwise(starts)) or starts[-1] > T:
        refuse(f"query_start_loc must ascend from 0 to at most total_tokens={T}; got {starts}")
    return starts


def request_of_each(query_start_loc: Tensor, T: int) -> Tensor:
    """The request of each of T rows, int64 (T,); num_requests, or -1, for padding."""
    row = torch.arange(T, dtype=torch.int32, device=query_start_loc.device)
    return torch.searchsorted(query_start_loc, row, right=True) - 1


def of_each(of_requests: Tensor, request: Tensor) -> Tensor:
    """(R, ...) -> (T, ...): what is said of a request, for each of its rows; 0 for padding."""
    return torch.cat([of_requests, of_requests.new_zeros(1, *of_requests.shape[1:])])[request]


def call_of_each(
    knowledge_query: Tensor, knowledge: Knowledge, max_span: int | None, **options: Any
) -> tuple[Op[Any], Any]:
    """The op and its checked call for packed rows: a batch of one token each."""
    rows = knowledge_query[:, :, None]
    nothing = rows[:, :, :0]
    return call_of(rows, nothing, nothing, knowledge, None, True, max_span, **options)


def packed_results(output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """(B, Hq, N, D) and (B, Hq, N) -> (B * N, Hq, D) and (Hq, B * N)."""
    return output.transpose(1, 2).flatten(0, 1), lse.transpose(0, 1).flatten(1)


def cuts_of(call: AttentionCall, name: str, starts: list[int] | None) -> list[tuple[int, int]]:
    """How the rows of a call are cut into calls of a backend: (B, N), B requests of N tokens.

    On the CPU neighbours of as many tokens go together, in any number. Triton gets a batch of one token each, as many
    as its scratch memory holds, whatever requests they are of.
    """
    T = len(call.query)
    if name == "triton":
        most = _rows_at_once(call)
        return [(min(most, T - first), 1) for first in range(0, T, most)]
    if starts is None:
        return [(T, 1)]
    lengths = itertools.groupby(b - a for a, b in itertools.pairwise(starts))
    return [(len(list(group)), N) for N, group in lengths if N > 0]


def _rows_at_once(call: AttentionCall) -> int:
    """How many rows of one token share the scratch memory of a launch."""
    if isinstance(call, LatentCall):
        tile, tokens, _ = _cut_of(call)
        return queries_at_once(_bytes_of(call, tokens * tile.most_folded))
    splits = min(-(-call.span // MIN_DENSE_SPLIT), MAX_DENSE_SPLITS)
    return queries_at_once(4 * call.sizes.Hq * splits * (call.width + 2))


def rows_that_take_most(call: AttentionCall, name: str) -> tuple[int, ...]:
    """Numbers of rows, one of which takes the most memory: all, and the most whose partial results are not folded."""
    T = len(call.query)
    if name != "triton" or not isinstance(call, LatentCall):
        return (T,)
    tile, tokens, units = _cut_of(call)
    each = _bytes_of(call, tokens)

    def folds(rows: int) -> bool:
        return folded(rows * call.sizes.Hq, call.span, rows * each, tile, units) > 1

    return (T, max(bisect.bisect_left(range(1, T + 1), True, key=folds), 1))


def _cut_of(call: LatentCall) -> tuple[LatentTile, int, int]:
    """Tile, tokens of a split, and multiprocessors of a launch."""
    tile, units = tile_of(call), multiprocessors(call.query)
    return tile, latent_split(call.span, tile, units), units


def _bytes_of(call: LatentCall, tokens: int) -> int:
    return query_bytes(call.sizes.Hq, call.latent_key.shape[1], call.width, call.span, 0, tokens)


def of_rows(call: AttentionCall, rows: slice, B: int, N: int) -> AttentionCall:
    """The part of a call of packed rows that B requests of N tokens make."""
    query = call.query[rows, :, 0].unflatten(0, (B, N)).transpose(1, 2)
    bias, seen = (None if t is None else t[rows][::N] for t in (call.bias, call.knowledge_range))
    return call.but(
        query=query, knowledge_query=query, key=call.key[:B], value=call.value[:B], bias=bias, knowledge_range=seen
    )
