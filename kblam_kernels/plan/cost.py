"""What one knowledge layer costs on each path: bytes over bandwidth, operations over matrix rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kblam_kernels.latent import scratch
from kblam_kernels.latent.tiles import latent_tile
from kblam_kernels.plan.devices import Device
from kblam_kernels.plan.shape import Shape

Path = Literal["latent", "dense", "materialise"]
PATHS: tuple[Path, ...] = get_args(Path)
Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Cost:
    """One layer, one forward pass.

    Args:
        bytes: that cross memory, scratch memory included.
        operations: multiplications and additions.
        seconds: of whichever takes longer; of materialising, the sum of its two steps.
        memory: bytes that must be found beside the latents: keys and values that are kept for all layers, or scratch.
    """

    bytes: int
    operations: int
    seconds: float
    memory: int


def cost_of(path: Path, shape: Shape, device: Device, queries: int) -> Cost:
    """The cost of `queries` new tokens, those of all rows of the batch together.

    Only knowledge counts: the prompt part costs the same on every path.
    """
    if path == "latent":
        return _latent(shape, device, queries)
    if path == "dense":
        return _dense(shape, device, queries)
    return _materialise(shape, device, queries)


def _latent(shape: Shape, device: Device, queries: int) -> Cost:
    rates = device.rates(shape.element_size)
    weights = 2 * shape.num_heads * shape.head_dim * shape.width * shape.element_size
    read, taken = shape.latent_bytes + weights, 0
    if device.has_scratch:
        each = _scratch_bytes(shape)
        at_once = scratch.queries_at_once(each)
        # A block of queries reads the latents anew; partial sums are written, and read to be merged.
        read += (-(-queries // at_once) - 1) * shape.latent_bytes + 2 * queries * each
        taken = min(queries, at_once) * each
    # Scores and mixtures over M latents; absorbing the query and projecting the mixture cost D more of them.
    operations = 4 * queries * shape.num_heads * shape.width * (shape.triples + shape.head_dim)
    seconds = max(read / rates.latent_bytes, operations / rates.latent)
    return Cost(read, operations, seconds, taken)


def _scratch_bytes(shape: Shape) -> int:
    """Of one query in Triton's latent decode, without the prompt's part."""
    tile = latent_tile(shape.width, "half" if shape.element_size <= 2 else "float32")
    return scratch.query_bytes(shape.num_heads, shape.width, shape.head_dim, shape.triples, 0, tile)


def _dense(shape: Shape, device: Device, queries: int) -> Cost:
    rates = device.rates(shape.element_size)
    operations = 4 * queries * shape.num_heads * shape.head_dim * shape.triples
    seconds = max(shape.dense_layer_bytes / rates.dense_bytes, operations / rates.dense)
    return Cost(shape.dense_layer_bytes, operations, seconds, shape.dense_bytes)


def _materialise(shape: Shape, device: Device, queries: int) -> Cost:
    rates = device.rates(shape.element_size)
    # Latents are read, keys and values written, keys read and written again for their norm.
    moved = shape.latent_bytes + 2 * shape.dense_layer_bytes
    operations = 4 * shape.triples * shape.num_heads * shape.head_dim * shape.width
    making = max(moved / rates.bytes_per_second, operations / rates.projection)
    dense = _dense(shape, device, queries)
    return Cost(moved + dense.bytes, operations + dense.operations, making + dense.seconds, shape.dense_layer_bytes)
