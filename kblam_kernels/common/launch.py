"""How launchers hand tensors to Triton kernels, and how a launch is recorded instead of run. Needs no triton.

A tensor and its strides are passed as one named tuple. A kernel's machine code depends on its launch arguments, so
`python -m kblam_kernels resources` runs the launchers on tensors without memory and compiles what they would launch.

No launcher synchronises with the host, and no shape depends on data: a CUDA graph can capture a call. CPU tensors are
taken when TRITON_INTERPRET=1 was set before triton was imported.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kblam_kernels.common import memory
from kblam_kernels.common.call import AttentionCall, Sizes
from kblam_kernels.common.splits import prompt_block
from kblam_kernels.common.tiles import MULTIPROCESSORS, Arch, Tile, arch_of

# Folded into the scale that kernels get, so that exp is exp2.
LOG2E = math.log2(math.e)


class Heads(NamedTuple):
    """A tensor (batch, heads, rows, width) with a contiguous last dimension: strides in elements.

    An axis with one entry, or that is not there, gets stride 0, so that it does not change the machine code.
    """

    data: Tensor
    batch: int
    head: int
    row: int


class Columns(NamedTuple):
    """One number per column for each batch row; the batch stride is one of `Strides`."""

    data: Tensor
    column: int


class Strides(NamedTuple):
    """Batch strides of `Columns`. They grow with lengths, so they are not specialised."""

    bias: int
    range: int
    mask: int


class Prompt(NamedTuple):
    """The prompt block."""

    query: Heads
    key: Heads
    value: Heads
    mask: Columns | None


class Knowledge(NamedTuple):
    """The knowledge block, of keys and values."""

    query: Heads
    key: Heads
    value: Heads


class Cut(NamedTuple):
    """How a decode launch is cut into programs; it depends on lengths and is not specialised either.

    Args:
        rows: query rows that share a list, its range and its bias; they form one of `groups`.
        row_count: query rows of the call.
        row_tiles: row tiles of a group.
        knowledge_programs, prompt_programs: programs of each block.
        knowledge_splits, splits: number of partial results of the knowledge, and of both blocks.
        split_size: knowledge tokens of a split.
        prompt_row_tiles: row tiles of the queries of one key head.
        is_spanned: 1 if splits are counted from the start of a row's range, 0 if from that of the list.
    """

    rows: int
    row_count: int
    row_tiles: int
    groups: int
    knowledge_programs: int
    prompt_programs: int
    knowledge_splits: int
    splits: int
    split_size: int
    prompt_row_tiles: int
    is_spanned: int


def cut_of(
    call: AttentionCall,
    tile: Tile,
    *,
    rows: int,
    programs: int,
    split_size: int,
    prompt_rows: int,
    prompt_split: int,
    folded: int = 1,
    is_shared: bool = True,
) -> Cut:
    """The cut of a decode launch.

    Args:
        rows: query rows of one row of the batch. Rows of the batch fold if they share the list, its range and its bias.
        programs: of each row tile and partial result of the knowledge.
        split_size: knowledge tokens of a split.
        prompt_rows, prompt_split: query rows and columns of a program of the prompt.
        folded: splits of the knowledge that make one partial result.
        is_shared: whether they share the list. All this is known from shapes, without reading the device.
    """
    B, Hq, Hkv, N, T, _ = call.sizes
    folds = is_shared and all(t is None or t.shape[0] == 1 for t in (call.bias, call.knowledge_range))
    groups, rows = (1, B * rows) if folds else (B, rows)
    row_tiles, prompt_row_tiles = -(-rows // tile.block_rows), -(-(Hq // Hkv * N) // prompt_rows)
    knowledge_splits, prompt_splits = -(-call.span // (split_size * folded)), -(-T // prompt_split)
    return Cut(
        rows=rows,
        row_count=B * Hq * N,
        row_tiles=row_tiles,
        groups=groups,
        knowledge_programs=knowledge_splits * groups * row_tiles * programs,
        prompt_programs=prompt_splits * B * Hkv * prompt_row_tiles,
        knowledge_splits=knowledge_splits,
        splits=knowledge_splits + prompt_splits,
        split_size=split_size,
        prompt_row_tiles=prompt_row_tiles,
        is_spanned=int(call.is_spanned),
    )


class Chunks(NamedTuple):
    """How rows of WIDTH numbers are cut, compiled in: COUNT chunks of SIZE; IS_PADDED if they reach past the width."""

    WIDTH: int
    SIZE: int
    COUNT: int
    IS_PADDED: bool


def chunks(width: int, size: int) -> Chunks:
    """The whole width in chunks of `size`."""
    count = -(-width // size)
    return Chunks(width, size, count, count * size != width)


class PromptTile(NamedTuple):
    """How decode cuts the prompt, compiled in: ROWS rows of GROUP query heads against BLOCK columns of a SPLIT."""

    GROUP: int
    ROWS: int
    BLOCK: int
    SPLIT: int


def prompt_tile(call: AttentionCall, rows: int, split: int) -> PromptTile:
    """The tile of a call's prompt: so many rows against so many columns."""
    block = prompt_block(call.query.shape[3], call.query.element_size())
    return PromptTile(call.query.shape[1] // call.key.shape[1], rows, block, split)


class States(NamedTuple):
    """Partial results of the splits, float32: running maximum and sum (row, split), base 2."""

    maximum: Tensor
    total: Tensor


def states_of(cut: Cut, like: Tensor) -> States:
    """Unwritten states on the device of a tensor."""
    return States(*(memory.empty(like, cut.row_count, cut.splits, dtype=torch.float32) for _ in range(2)))


def attention(call: AttentionCall) -> dict[str, Any]:
    """The arguments that every kernel of attention takes."""
    return {
        "prompt": Prompt(heads(call.query), heads(call.key), heads(call.value), columns(call.prompt_mask)),
        **visibility(call.bias, call.knowledge_range, call.prompt_mask),
        "sizes": call.sizes,
        "window": call.window,
        "scale": call.scale * LOG2E,
    }


def visibility(
    bias: Tensor | None, knowledge_range: Tensor | None, prompt_mask: Tensor | None = None
) -> dict[str, Any]:
    """The arguments that hide or shift knowledge tokens, and the strides of all columns."""
    return {
        "bias": columns(bias),
        "knowledge_range": columns(knowledge_range),
        "strides": Strides(*(stride_of(tensor, 0) for tensor in (bias, knowledge_range, prompt_mask))),
    }


def heads(tensor: Tensor) -> Heads:
    """`Heads` of a tensor of rank 4, of rank 3 if the batch shares it, or of rank 2 if all heads share it too."""
    tensor = tensor[(None,) * (4 - tensor.dim())]
    return Heads(tensor, *(stride_of(tensor, axis) for axis in range(3)))


def columns(tensor: Tensor | None) -> Columns | None:
    """The columns of (B or 1, L). One column alone has stride 1, as columns side by side have."""
    return None if tensor is None else Columns(tensor, 1 if tensor.shape[1] == 1 else tensor.stride(1))


def stride_of(tensor: Tensor | None, axis: int) -> int:
    """The stride of an axis; 0 if there is no tensor, or one entry on that axis."""
    return 0 if tensor is None or tensor.shape[axis] == 1 else tensor.stride(axis)


def is_fetched_whole(*tensors: Tensor) -> bool:
    """Whether Triton fetches the rows of these tensors by vectors of 16 bytes, and so ahead of a loop's needs.

    It must see that addresses and strides are multiples of 16, and a row that is cut off must end at a whole vector.
    """
    return all(
        tensor.data_ptr() % 16 == 0
        and tensor.shape[-1] * tensor.element_size() % 16 == 0
        and all(stride % 16 == 0 for stride in heads(tensor)[1:])
        for tensor in tensors
    )


# Triton compiles a kernel anew where a number of a tuple becomes 1 or a multiple of 16, whatever do_not_specialize says
# of the tuple. So numbers that follow lengths are handed over one by one, by these names.
_ONE_BY_ONE = {
    name: [f"{name}_{field}" for field in kind._fields]
    for name, kind in (("strides", Strides), ("sizes", Sizes), ("cut", Cut))
}
STRIDES, SIZES, CUT = _ONE_BY_ONE.values()


def one_by_one(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a launch as its kernel takes them: `strides`, `sizes` and `cut` number by number."""
    apart = dict(arguments)
    for name, names in _ONE_BY_ONE.items():
        if name in apart:
            apart.update(zip(names, apart.pop(name), strict=True))
    return apart


class Launch(NamedTuple):
    """A launch that was recorded."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    tile: Tile


class Recording(NamedTuple):
    """Launches that were recorded instead of run, and the architecture that launchers chose tiles for."""

    arch: Arch
    launches: list[Launch]


_RECORDING: ContextVar[Recording | None] = ContextVar("kblam_kernels_recording", default=None)


@contextlib.contextmanager
def recording(arch: Arch) -> Iterator[Recording]:
    """Records what launchers would launch on `arch`; their tensors may have no memory."""
    made = Recording(arch, [])
    token = _RECORDING.set(made)
    try:
        yield made
    finally:
        _RECORDING.reset(token)


def is_recorded() -> bool:
    """Whether launches are recorded instead of run."""
    return _RECORDING.get() is not None


def target_arch(tensor: Tensor) -> Arch:
    """The architecture that a launch on this tensor is for."""
    recorder = _RECORDING.get()
    if recorder is not None:
        return recorder.arch
    if tensor.device.type != "cuda":
        return "interpreter"
    return arch_of(torch.cuda.get_device_capability(tensor.device))


def multiprocessors(tensor: Tensor) -> int:
    """How many the device of a launch on this tensor has."""
    if _RECORDING.get() is None and tensor.device.type == "cuda":
        return torch.cuda.get_device_properties(tensor.device).multi_processor_count
    return MULTIPROCESSORS[target_arch(tensor)]


def options(tile: Tile) -> dict[str, Any]:
    """How Triton compiles a launch with a tile. A product and a sum are one fma, whatever a release does by itself."""
    return {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}


def launch(
    kernel: Any, grid: tuple[int, ...], tile: Tile, on: Tensor, *, follows: bool = False, **arguments: Any
) -> None:
    """Launches a kernel on the device of the tensor `on`, with the warps and stages of a tile.

    Args:
        follows: it waits for the launch before by itself (`triton_parts.wait_for_previous`), so it may start before
            that one has ended: a programmatic dependent launch.
    """
    recorder = _RECORDING.get()
    if recorder is not None:
        recorder.launches.append(Launch(kernel, grid, arguments, tile))
        return
    if 0 in grid:
        return  # neither knowledge nor a prompt: there is only a merge
    with torch.cuda.device(on.device) if on.device.type == "cuda" else contextlib.nullcontext():
        chained = {"launch_pdl": True} if follows else {}
        kernel[grid](**one_by_one(arguments), **options(tile), **chained)
