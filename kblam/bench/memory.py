"""The most memory that a call takes beside its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity

from kblam.bench.profiling import profiled

Result = TypeVar("Result")


def peak(call: Callable[[], object], device: str) -> int | None:
    """Bytes that PyTorch's allocator hands out during the call, at most at a time; None where it does not tell.

    What the C++ kernels keep of their own, a few megabytes a thread, is not among them.
    """
    return watched(call, device)[1]


def watched(call: Callable[[], Result], device: str) -> tuple[Result, int | None]:
    """What the call returns, and its `peak`."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        return result, int(torch.cuda.max_memory_allocated() - before)
    with profiled(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    return result, _most_at_a_time(profiler)


def _most_at_a_time(profiler: Any) -> int | None:
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
