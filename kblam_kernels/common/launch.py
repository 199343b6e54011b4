"""How launchers hand tensors to Triton kernels, and how a launch is recorded instead of run. Needs no triton.

A tensor and its strides are passed as one named tuple. A kernel's machine code depends on its launch arguments, so
`python -m kblam_kernels resources` runs the launchers on tensors without memory and compiles what they would launch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kblam_kernels.common.call import AttentionCall
from kblam_kernels.common.tiles import Arch, Tile, arch_of

# tf32x3 splits a float32 into two tf32 parts and keeps three of the four products: tensor cores (52 TFLOP/s at most on
# an A100, against 19.5 of "ieee") at an error near float32's own. 16-bit inputs ignore it.
FLOAT32_PRECISION = "tf32x3"


class Heads(NamedTuple):
    """A tensor (batch, heads, rows, width) with a contiguous last dimension: strides in elements.

    An axis with one entry gets stride 0, so that its stride does not change the machine code.
    """

    data: Tensor
    batch: int
    head: int
    row: int


class Rows(NamedTuple):
    """A matrix with a contiguous last dimension."""

    data: Tensor
    row: int


class Columns(NamedTuple):
    """One number per column for each batch row.

    The batch stride grows with the length, so it is passed separately and not specialised.
    """

    data: Tensor
    column: int


class Sizes(NamedTuple):
    """Lengths of an attention, not specialised: a growing cache or knowledge base must not compile again."""

    B: int
    Hq: int
    Hkv: int
    N: int
    T: int
    M: int


def sizes_of(call: AttentionCall, M: int) -> Sizes:
    """The sizes of attention to M knowledge tokens."""
    B, Hq, N, _ = call.query.shape
    return Sizes(B, Hq, call.key.shape[1], N, call.key.shape[2], M)


class Cut(NamedTuple):
    """How a decode launch is cut into programs; it depends on lengths and is not specialised either.

    Args:
        rows: query rows that share a list, its range and its bias; they form one of `groups`.
        row_count: query rows of the call.
        row_tiles: row tiles of a group.
        knowledge_programs: programs of the knowledge, which come first; the prompt's follow.
        knowledge_splits, splits: number of splits of the knowledge, and of both blocks.
        split_size: knowledge tokens of a split.
        prompt_row_tiles: row tiles of the queries of one key head.
    """

    rows: int
    row_count: int
    row_tiles: int
    groups: int
    knowledge_programs: int
    knowledge_splits: int
    splits: int
    split_size: int
    prompt_row_tiles: int


class States(NamedTuple):
    """Partial results of the splits, float32: running maximum and sum (row, split), base 2."""

    maximum: Tensor
    total: Tensor


def masks(bias: Tensor | None, knowledge_range: Tensor | None) -> dict[str, Any]:
    """The kernel arguments that hide or shift knowledge tokens."""
    return {
        "bias": columns(bias),
        "knowledge_range": columns(knowledge_range),
        "bias_batch_stride": stride_of(bias, 0),
        "range_batch_stride": stride_of(knowledge_range, 0),
    }


def prompt(call: AttentionCall, prompt_mask: Tensor | None) -> dict[str, Any]:
    """The kernel arguments of the prompt block."""
    return {
        "query": heads(call.query),
        "key": heads(call.key),
        "value": heads(call.value),
        "prompt_mask": columns(prompt_mask),
        "mask_batch_stride": stride_of(prompt_mask, 0),
        "window": call.window,
        "GROUP": call.query.shape[1] // call.key.shape[1],
        "HEAD_DIM": call.query.shape[3],
        "PRECISION": FLOAT32_PRECISION,
    }


def heads(tensor: Tensor) -> Heads:
    """`Heads` of a tensor of rank 4, of rank 3 if the batch shares it, or of rank 2 if all heads share it too."""
    tensor = tensor[(None,) * (4 - tensor.dim())]
    return Heads(tensor, *(stride_of(tensor, axis) for axis in range(3)))


def columns(tensor: Tensor | None) -> Columns | None:
    """The columns of (B or 1, L). One column alone has stride 1, as columns side by side have."""
    return None if tensor is None else Columns(tensor, 1 if tensor.shape[1] == 1 else tensor.stride(1))


def scratch(like: Tensor, *shape: int) -> Tensor:
    """Unwritten float32 memory."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def stride_of(tensor: Tensor | None, axis: int) -> int:
    """The stride of an axis; 0 if there is no tensor, or one entry on that axis."""
    return 0 if tensor is None or tensor.shape[axis] == 1 else tensor.stride(axis)


@dataclass
class Recording:
    """Launches that were recorded instead of run.

    Args:
        arch: the architecture that launchers choose tiles for.
        launches: (kernel, grid, arguments by name, tile), in order.
    """

    arch: Arch
    launches: list[tuple[Any, tuple[int, ...], dict[str, Any], Tile]] = field(default_factory=list)


_RECORDING: ContextVar[Recording | None] = ContextVar("kblam_kernels_recording", default=None)


@contextlib.contextmanager
def recording(arch: Arch) -> Iterator[Recording]:
    """Records what launchers would launch on `arch`; their tensors may have no memory."""
    made = Recording(arch)
    token = _RECORDING.set(made)
    try:
        yield made
    finally:
        _RECORDING.reset(token)


def target_arch(tensor: Tensor) -> Arch:
    """The architecture that a launch on this tensor is for."""
    recorder = _RECORDING.get()
    if recorder is not None:
        return recorder.arch
    if tensor.device.type != "cuda":
        return "interpreter"
    return arch_of(torch.cuda.get_device_capability(tensor.device))


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, on: Tensor, **arguments: Any) -> None:
    """Launches a kernel on the device of the tensor `on`, with the warps and stages of a tile."""
    recorder = _RECORDING.get()
    if recorder is not None:
        recorder.launches.append((kernel, grid, arguments, tile))
        return
    with torch.cuda.device(on.device) if on.device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](**arguments, num_warps=tile.num_warps, num_stages=tile.num_stages)
