"""Medians of repeated calls: CUDA events on a GPU, the wall clock on a CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# Larger than the L2 of any GPU: writing it leaves nothing of the operands there.
FLUSH_BYTES = 256 * 2**20


def median_seconds(call: Callable[[], object], device: str, *, budget: float = 0.5, at_least: int = 5) -> float:
    """Median time of one call, after warm-up, with a cold L2; `budget` seconds of calls, at least `at_least`."""
    if torch.device(device).type != "cuda":
        call()
        return statistics.median(_timed(call) for _ in range(at_least))
    for _ in range(3):
        call()
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    first = _cuda_times(call, flush, 3)
    repeats = max(at_least, min(200, int(budget / max(statistics.median(first), 1e-6))))
    return statistics.median(_cuda_times(call, flush, repeats))


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _cuda_times(call: Callable[[], object], flush: torch.Tensor, repeats: int) -> list[float]:
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in marks:
        flush.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in marks]
