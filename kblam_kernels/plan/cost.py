"""What one knowledge layer costs on each path: bytes over bandwidth, operations over matrix rate."""

from __future__ import annotations

import bisect
import sys
from dataclasses import dataclass
from typing import Literal, get_args

from kblam_kernels.knowledge import PIECE_BYTES
from kblam_kernels.latent.tiles import LatentTile, folded, latent_split, latent_tile, queries_at_once, query_bytes
from kblam_kernels.plan.devices import Device
from kblam_kernels.plan.workload import Workload

KnowledgePath = Literal["latent", "dense", "materialise"]
PATHS: tuple[KnowledgePath, ...] = get_args(KnowledgePath)
Phase = Literal["prefill", "decode"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Cost:
    """One layer, one forward pass.

    Args:
        bytes: read from and written to memory, scratch memory included.
        operations: multiplications and additions.
        seconds: the longer of memory and arithmetic; for materialising, the sum of its two steps.
        memory: bytes needed beside the latents: keys and values that are kept for all layers, or scratch.
    """

    bytes: int
    operations: int
    seconds: float
    memory: int


def cost_of(path: KnowledgePath, workload: Workload, device: Device, queries: int) -> Cost:
    """The cost of `queries` new tokens, those of all rows of the batch together.

    Only knowledge counts: the prompt part costs the same on every path.
    """
    costs = {"latent": _latent, "dense": _dense, "materialise": _materialise}
    return costs[path](workload, device, queries)


def _latent(workload: Workload, device: Device, queries: int) -> Cost:
    rates = device.rates(workload.element_size)
    weights = 2 * workload.num_heads * workload.head_dim * workload.width * workload.element_size
    read, taken = workload.latent_bytes + weights, 0
    if device.has_scratch:
        each = _partial_sums(workload, _fold(workload, queries))
        at_once = queries_at_once(each)
        # Each block of queries reads the latents again; partial sums are written, and read to be merged.
        read += (-(-queries // at_once) - 1) * workload.latent_bytes + 2 * queries * each
        taken = min(queries, at_once) * each
    # Scores and mixtures over M latents; absorbing the query and projecting the mixture cost as much as D more.
    operations = 4 * queries * workload.num_heads * workload.width * (workload.triples + workload.head_dim)
    seconds = max(read / rates.latent_bytes, operations / rates.latent)
    return Cost(read, operations, seconds, taken)


def falls_at(workload: Workload, device: Device, most: int) -> int:
    """The only number of queries, at most `most`, at which a path costs less than with one query fewer; else `most`.

    From there on programs of attention to latents fold their partial sums. Everywhere else a cost stays or grows.
    """
    if not device.has_scratch:
        return most
    least = _fold(workload, 1)
    # No sequence of Python is longer, and so many queries fold long before.
    most = min(most, sys.maxsize)
    return 1 + bisect.bisect_left(range(1, most), True, key=lambda queries: _fold(workload, queries) > least)


def _fold(workload: Workload, queries: int) -> int:
    """Splits that a program folds into one partial result of so many queries."""
    unfolded = queries * _partial_sums(workload, 1)
    return folded(queries * workload.num_heads, workload.triples, unfolded, _tile(workload))


def _partial_sums(workload: Workload, fold: int) -> int:
    """Their bytes for one query, without the prompt's part."""
    tokens = latent_split(workload.triples, _tile(workload)) * fold
    return query_bytes(workload.num_heads, workload.width, workload.head_dim, workload.triples, 0, tokens)


def _tile(workload: Workload) -> LatentTile:
    return latent_tile(workload.width, "half" if workload.element_size <= 2 else "float32")


def _dense(workload: Workload, device: Device, queries: int) -> Cost:
    rates = device.rates(workload.element_size)
    operations = 4 * queries * workload.num_heads * workload.head_dim * workload.triples
    seconds = max(workload.dense_layer_bytes / rates.dense_bytes, operations / rates.dense)
    return Cost(workload.dense_layer_bytes, operations, seconds, workload.dense_bytes)


def _materialise(workload: Workload, device: Device, queries: int) -> Cost:
    rates = device.rates(workload.element_size)
    # Latents are read; in the model's dtype, those of keys with their norm, they are written and read again; keys and
    # values are written. A piece of them is in memory at a time.
    rows = 2 * workload.triples * workload.width * workload.element_size
    moved = workload.latent_bytes + 2 * rows + workload.dense_layer_bytes
    share = min(1.0, PIECE_BYTES / max(workload.dense_layer_bytes, 1))
    operations = 4 * workload.triples * workload.num_heads * workload.head_dim * workload.width
    making = max(moved / rates.bytes_per_second, operations / rates.projection)
    dense = _dense(workload, device, queries)
    taken = int(share * (workload.dense_layer_bytes + rows))
    return Cost(moved + dense.bytes, operations + dense.operations, making + dense.seconds, taken)
