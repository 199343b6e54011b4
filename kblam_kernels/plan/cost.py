"""What one knowledge layer costs on each path: bytes over bandwidth, operations over matrix rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

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
        bytes: that cross memory.
        operations: multiplications and additions.
        seconds: of whichever takes longer; of materialising, the sum of its two steps.
        memory: bytes that must be found for the path, for all layers.
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
    read = shape.latent_bytes + weights
    # Scores and mixtures over M latents; absorbing the query and projecting the mixture cost D more of them.
    operations = 4 * queries * shape.num_heads * shape.width * (shape.triples + shape.head_dim)
    seconds = max(read / rates.latent_bytes, operations / rates.latent)
    return Cost(read, operations, seconds, shape.latent_bytes)


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
    memory = shape.latent_bytes + shape.dense_layer_bytes
    return Cost(moved + dense.bytes, operations + dense.operations, making + dense.seconds, memory)
