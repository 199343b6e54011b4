"""Which kernels a call launches, and how long each runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from kblam.bench.profiling import profiled
from kblam.bench.timing import Call

CALLS = 10
NAME_LENGTH = 120  # templates have names of a thousand letters


@dataclass(frozen=True)
class Kernel:
    """Of one name, in one call: how often it is launched, and microseconds of all these launches."""

    name: str
    launches: float
    microseconds: float


def of(calls: Sequence[Call], device: str, *, count: int = CALLS) -> list[Kernel]:
    """Kernels of one call, the longest first, with copies and fills of memory; the mean of `count` calls, which take
    turns as in `timing` and have run before.

    A row of `rectangular_attention` on latents so tells its split, merge and projections apart. On a CPU the operators
    stand for kernels. Empty where the profiler sees nothing.
    """
    on_gpu = torch.device(device).type == "cuda"
    with profiled(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for number in range(count):
            calls[number % len(calls)]()
        if on_gpu:
            torch.cuda.synchronize()
    return ranked(profiler, device, count)


def ranked(profiler: profile, device: str, count: int) -> list[Kernel]:
    """What a profiler saw of so many calls, or tokens: of one of them, the longest first."""
    on_gpu = torch.device(device).type == "cuda"
    where = DeviceType.CUDA if on_gpu else DeviceType.CPU
    found = [
        Kernel(
            event.key[:NAME_LENGTH],
            event.count / count,
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / count,
        )
        for event in profiler.key_averages()
        if event.device_type == where
    ]
    return sorted(found, key=lambda kernel: -kernel.microseconds)
