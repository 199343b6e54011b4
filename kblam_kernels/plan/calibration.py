"""Short measurements of the kernels that would serve on a device: a few milliseconds each, never at import.

The sizes are those of a medium model; only the ratio of the rates matters, because it decides between paths.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import torch

from kblam_kernels.attention.interface import rectangular_attention
from kblam_kernels.common.graphs import captured
from kblam_kernels.common.tiles import precision_of
from kblam_kernels.knowledge import DenseKnowledge, LatentKnowledge, LatentProjection
from kblam_kernels.latent.tiles import latent_split, latent_tile, query_bytes

HEADS, HEAD_DIM, WIDTH = 8, 64, 384
# The smaller number of triples would fit in a GPU's cache.
TRIPLES, GPU_TRIPLES = 2**13, 2**17
# Calls queued on a GPU at once, so that it never waits for one. They are replays of a graph, without Python.
QUEUED = 8
# Enough queries that the matrix units bound the time.
QUERIES = 16
# More than the caches of a server core hold.
READ_BYTES = 192 * 2**20


def read_rate(device: torch.device) -> float:
    """Bytes a second when summing more than a cache holds."""
    data = torch.ones(READ_BYTES // 4, dtype=torch.float32, device=device)
    return READ_BYTES / _seconds(data.sum, device)


def latent_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes a second of attention to latents by one query, operations a second by many."""
    latents = _latents(device, dtype)
    triples = latents.num_tokens
    moved = 2 * triples * WIDTH * latents.key.element_size()
    if device.type == "cuda":
        split = latent_split(triples, latent_tile(WIDTH, precision_of(dtype)))
        moved += 2 * query_bytes(HEADS, WIDTH, HEAD_DIM, triples, 1, split)
    return _attention_rates(latents, moved, WIDTH, device, dtype)


def dense_rates(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes a second of attention to dense keys and values by one query, operations a second by many."""
    key = _drawn((HEADS, _triples(device), HEAD_DIM), device, dtype)
    moved = 2 * key.numel() * key.element_size()
    return _attention_rates(DenseKnowledge(key, key.clone()), moved, HEAD_DIM, device, dtype)


def projection_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of making dense keys and values from latents."""
    latents = _latents(device, dtype)
    return 4 * latents.num_tokens * HEADS * HEAD_DIM * WIDTH / _seconds(latents.to_dense, device)


def _triples(device: torch.device) -> int:
    return GPU_TRIPLES if device.type == "cuda" else TRIPLES


def _latents(device: torch.device, dtype: torch.dtype) -> LatentKnowledge:
    # As a resident knowledge base stores them.
    key = _drawn((_triples(device), WIDTH), device, torch.float16 if dtype == torch.float32 else dtype)
    weight = _drawn((HEADS, HEAD_DIM, WIDTH), device, dtype) * WIDTH**-0.5
    bias = torch.zeros(HEADS, HEAD_DIM, device=device, dtype=dtype)
    norm = torch.ones(len(key), dtype=torch.float32, device=device)
    return LatentKnowledge(key, key.clone(), norm, LatentProjection(weight, bias, weight, bias))


def _drawn(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers, drawn without changing the caller's random state."""
    draw = torch.Generator(device).manual_seed(0)
    return torch.randn(shape, generator=draw, dtype=torch.float32, device=device).to(dtype)


def _attention_rates(
    knowledge: DenseKnowledge | LatentKnowledge, moved: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    one, many = (_drawn((1, HEADS, queries, HEAD_DIM), device, dtype) for queries in (1, QUERIES))
    reading = _seconds(lambda: rectangular_attention(one, one, one, knowledge), device)
    computing = _seconds(lambda: rectangular_attention(many, many, many, knowledge), device)
    return moved / reading, 4 * HEADS * QUERIES * knowledge.num_tokens * width / computing


@torch.no_grad()
def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The fastest of a few calls, because other work can only slow a call down; short calls are repeated more often."""
    if device.type == "cpu":
        return _fastest(lambda: _undisturbed(call))
    if device.type != "cuda":
        return _fastest(lambda: _on_device(call, device, 1))
    with torch.cuda.device(device):  # a graph is of the current device, and would else be empty
        queued = captured(call) or call
        return _fastest(lambda: _on_device(queued, device, QUEUED))


def _fastest(timed: Callable[[], float]) -> float:
    timed()
    times: list[float] = []
    while len(times) < 3 or (len(times) < 12 and sum(times) < 0.03):
        times.append(timed())
    return min(times)


def _on_device(call: Callable[[], object], device: torch.device, queued: int) -> float:
    torch.accelerator.synchronize(device)
    began = time.perf_counter()
    for _ in range(queued):
        call()
    torch.accelerator.synchronize(device)
    return (time.perf_counter() - began) / queued


def _undisturbed(call: Callable[[], object]) -> float:
    """Seconds of a call on a CPU, without those in which one of its threads waited for other work to leave a core.

    On a busy machine every call of some milliseconds is interrupted, and the rates, which are kept, would be those of
    whatever else ran: wrong by a factor for one kernel and right for the next.
    """
    waits, computed, began = _waits(), time.process_time(), time.perf_counter()
    call()
    seconds, computed = time.perf_counter() - began, time.process_time() - computed
    waited = max((now - waits.get(thread, now) for thread, now in _waits().items()), default=0) / 1e9
    # A wait between these lines is none of the call's: that takes no less than its arithmetic, shared out.
    return min(seconds, max(seconds - waited, computed / torch.get_num_threads()))


def _waits() -> dict[str, int]:
    """Nanoseconds that each thread of this process was kept from running; empty where the system does not tell."""
    waits: dict[str, int] = {}
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):  # one that has ended since
                waits[thread.name] = int((thread / "schedstat").read_text(encoding="ascii").split()[1])
    return waits
