"""What a CPU can do at all, measured in every turn beside the implementations that are held to it.

The ceiling of a call is the least time its work can take: its bytes at the rate of a stream over the same knowledge, or
its operations at the rate of matrix products, whichever is longer. A rate is the fastest known way on this machine: the
best of the probes below, and of the implementations themselves, ours among them. The speed of a shared machine drifts,
so a share is computed within a turn, and the median of the turns is reported.
"""

from __future__ import annotations

import math
import statistics
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam.bench.problems import Problem
from kblam.bench.shapes import Shape
from kblam.bench.subjects import Subject

SIDE = 1024  # of the square matrices whose product is a ceiling of arithmetic
# Some kinds of number are multiplied in plain loops where the processor has no instruction for them: a square of SIDE
# then takes seconds. One that would take longer than this is probed on squares of SMALL_SIDE, which tell by how much.
SLOW_SECONDS, SMALL_SIDE = 0.1, 128
# Of the other product, which PyTorch hands to oneDNN's brgemm: a tile of tokens by the width of a key, times queries;
# so many that every thread has some.
TILE_TOKENS, TILE_QUERIES = 128, 256
Multiply = Callable[[Tensor, Tensor], Tensor]
READ, PRODUCT, INT8 = "read, ", "product, ", "int8"
FLAGGED = 1.05


@dataclass(frozen=True)
class Probe:
    """A call, and the bytes or operations of it."""

    call: Callable[[], Any]
    amount: float


@dataclass(frozen=True)
class Share:
    """Of what the machine can do.

    Args:
        of_ceiling: at most 1, or a little more where turns differ.
        of_probes: the same against the probes alone; over FLAGGED they are too slow to be a ceiling, and the
            implementations themselves are.
        ceiling: seconds that the work takes at least.
        bound: "read" or "product", whichever takes longer.
    """

    of_ceiling: float
    of_probes: float
    ceiling: float
    bound: str


def probes(shape: Shape, subjects: Sequence[Subject], x: Problem) -> dict[str, Probe]:
    """A stream for each layout, and products of the subjects' dtype, float32, and int8 where one multiplies so."""
    dtype = x.query.dtype
    found: dict[str, Probe] = {}
    for subject in subjects:
        tensors = [tensor for tensor in subject.streams(x) if tensor.numel()]
        if tensors:
            found[READ + subject.layout] = Probe(
                lambda tensors=tensors: [read(tensor) for tensor in tensors],  # type: ignore[misc]
                float(sum(tensor.nbytes for tensor in tensors)),
            )
    for kind in dict.fromkeys((dtype, torch.float32)):
        of_kind = "" if kind == dtype else f" {str(kind).removeprefix('torch.')}"
        # float32 has its instructions on every processor, and on a busy one a small product would look slow.
        side = SIDE if kind == torch.float32 else _side(torch.matmul, kind)
        found[f"{PRODUCT}square{of_kind}"] = _product(torch.matmul, kind, (side, side), (side, side))
        for width in {shape.model.head_dim, shape.model.latent_width} if side == SIDE else ():
            tiles = 4 * torch.get_num_threads()
            found[f"{PRODUCT}{width}{of_kind}"] = _product(
                torch.matmul, kind, (tiles, TILE_TOKENS, width), (tiles, width, TILE_QUERIES)
            )
    if any(subject.is_rounded for subject in subjects):
        side = _side(torch._int_mm, torch.int8)
        found[PRODUCT + INT8] = _product(torch._int_mm, torch.int8, (side, side), (side, side))
    return found


def _product(multiply: Multiply, dtype: torch.dtype, left: tuple[int, ...], right: tuple[int, ...]) -> Probe:
    a, b = (torch.randint(-3, 4, size, dtype=torch.int8).to(dtype) for size in (left, right))
    return Probe(lambda: multiply(a, b), 2.0 * math.prod(left) * right[-1])


def _side(multiply: Multiply, dtype: torch.dtype) -> int:
    """Of the square matrices that are multiplied."""
    small = _product(multiply, dtype, (SMALL_SIDE, SMALL_SIDE), (SMALL_SIDE, SMALL_SIDE))
    expected = min(timeit.repeat(small.call, number=1, repeat=9)) * (SIDE / SMALL_SIDE) ** 3
    return SIDE if expected < SLOW_SECONDS else SMALL_SIDE


def read(tensor: Tensor) -> Tensor:
    """A pass of all threads over memory that does next to nothing with it; the last dimension is contiguous."""
    flat = tensor if tensor.is_contiguous() else tensor.contiguous()
    flat = flat.view(-1).view(torch.uint8)
    words = len(flat) // 4 * 4
    return flat[:words].view(torch.int32).amax()


def shares(
    subjects: Sequence[Subject],
    probed: dict[str, Probe],
    turns: Sequence[dict[str, float]],
    element_size: int,
) -> dict[str, Share]:
    """Of each subject, from the seconds of subjects and probes in each turn; subjects' are of all heads."""
    found: dict[str, list[tuple[float, float, float, bool]]] = {subject.name: [] for subject in subjects}
    for turn in turns:
        rates = {name: probe.amount / turn[name] for name, probe in probed.items()}
        of_probes = {kind: max(_products(rates, kind)) for kind in {subject.is_rounded for subject in subjects}}
        best = dict(of_probes)
        read_rates: dict[str, float] = {}
        for subject in subjects:
            took = turn[subject.name]
            best[subject.is_rounded] = max(best[subject.is_rounded], subject.work.flops / took)
            moved = subject.work.bytes_moved(element_size) / took
            read_rates[subject.layout] = max(read_rates.get(subject.layout, 0.0), moved)
        for subject in subjects:
            flops, moved = subject.work.flops, subject.work.bytes_moved(element_size)
            # No triple, no stream: then arithmetic alone is a bound.
            probe = rates.get(READ + subject.layout, float("inf"))
            reading = moved / max(probe, read_rates[subject.layout])
            multiplying = flops / best[subject.is_rounded]
            alone = max(moved / probe, flops / of_probes[subject.is_rounded])
            floor, took = max(reading, multiplying), turn[subject.name]
            found[subject.name].append((floor / took, alone / took, floor, reading >= multiplying))
    return {name: _median(of) for name, of in found.items()}


def _products(rates: dict[str, float], is_rounded: bool) -> list[float]:
    """What a call may multiply by: one that rounds may do so in int8, and any in float32."""
    return [rate for name, rate in rates.items() if name.startswith(PRODUCT) and (is_rounded or name != PRODUCT + INT8)]


def _median(turns: Sequence[tuple[float, float, float, bool]]) -> Share:
    of_ceiling, of_probes, floor, reads = zip(*turns, strict=True)
    bound = "read" if sum(reads) * 2 >= len(reads) else "product"
    return Share(statistics.median(of_ceiling), statistics.median(of_probes), statistics.median(floor), bound)
