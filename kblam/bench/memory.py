"""The most memory that a call takes beside its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from kblam.bench.profiling import profiled


def peak(call: Callable[[], object], device: str) -> int | None:
    """Bytes that PyTorch's allocator hands out during the call, at most at a time; None where it does not tell.

    What the C++ kernels keep of their own, a few megabytes a thread, is not among them.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profiled(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results = profiler.profiler.kineto_results if profiler.profiler is not None else None
    if results is None:
        return None
    events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]
    changes = [(event.start_ns(), event.nbytes()) for event in events]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
