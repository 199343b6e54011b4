"""Times of a call: many calls in one CUDA graph on a GPU, the wall clock on a CPU.

A decode call takes 40 us, an event between two launches several of them: a graph of many calls is replayed between two
events. With a cold L2 the calls take turns over copies of their inputs that together are several times the L2, so that
each meets memory as a layer of a model does, whose inputs other layers have pushed out; with a warm one they share one.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from kblam_kernels.common.graphs import captured

Call = Callable[[], object]
# Copies of inputs are this many times the L2. At twice a cache that evicts at random still finds a fifth of them.
L2_TIMES = 4
MAX_COPIES = 64
# Of calls between two events, as long as they take one by one, most of which may be launching: in a graph it is a
# millisecond or more, of which the events' own microseconds are a few thousandths.
SAMPLE_SECONDS = 10e-3
MAX_CALLS = 64
FLUSH_BYTES = 256 * 2**20  # more than the L2 of any GPU
MAX_SAMPLES = 200
# Of a CPU run, which only walks the code: toy inputs then have a few copies too.
TINY_L2 = 2**14
# Seconds after which a shape gets no more turns on a CPU, and how many it gets whatever they take.
TURN_SECONDS, LEAST_TURNS = 20.0, 3
# A call that takes longer than this on a CPU is timed once: its first call, whose overhead is nothing beside it.
ONCE_SECONDS = 1.0
PRODUCTS = 3  # in a turn: the first of them wakes the threads


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, and the tenth and ninetieth percentile, over samples.

    Args:
        calls: in one sample, whose mean it is.
        sm_clock: of the multiprocessors, in MHz, while the samples ran; None where nobody can say.
        cuda_graph: whether a sample is one replay of a graph; None on a CPU.
    """

    median: float
    p10: float
    p90: float
    calls: int
    sm_clock: int | None = None
    cuda_graph: bool | None = None


def l2_bytes(device: str) -> int:
    """Size of the last cache before memory."""
    if torch.device(device).type != "cuda":
        return TINY_L2
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def copies_for(bytes_read: int, device: str) -> int:
    """How many copies of so many bytes of inputs leave nothing of one in the L2 when it is its turn again."""
    return min(MAX_COPIES, max(1, math.ceil(L2_TIMES * l2_bytes(device) / max(1, bytes_read))))


def sm_clock(device: str) -> int | None:
    """Clock of the multiprocessors in MHz over the last sample of the driver; None on a CPU or without NVML."""
    if torch.device(device).type != "cuda":
        return None
    try:
        return int(torch.cuda.clock_rate(device))
    # pynvml is missing, or the driver refuses: a time without its clock is still a time.
    except Exception:
        return None


def measure(calls: Sequence[Call], device: str, *, budget: float = 0.5, at_least: int = 5) -> Timing:
    """Times calls that take turns, each on its own copy of the inputs; one call alone meets whatever it left itself.

    Args:
        calls: the same work on each copy.
        device: where.
        budget: seconds of samples.
        at_least: samples, whatever the budget.
    """
    if torch.device(device).type != "cuda":
        calls[0]()
        return _timing([_wall_seconds(calls[n % len(calls)]) for n in range(at_least)], 1, None, None)
    for call in calls:
        call()
    flush = _buffer(device)
    once = statistics.median(_flushed(calls, flush, 3)[0])
    rounds = max(1, min(MAX_CALLS // len(calls), math.ceil(SAMPLE_SECONDS / (once * len(calls)))))

    def sample() -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    replay = captured(sample)
    count = rounds * len(calls) if replay is not None else 1
    repeats = max(at_least, min(MAX_SAMPLES, int(budget / max(once * count, 1e-6))))
    if replay is None:
        times, clock = _flushed(calls, flush, repeats)
    else:
        del flush
        times, clock = _event_seconds([replay] * repeats, device)
    return _timing([seconds / count for seconds in times], count, clock, replay is not None)


def in_turn(calls: Sequence[Call], device: str, repeats: int) -> list[Timing]:
    """Times calls that are long enough for one sample each, one after the other, so that all meet the same clock."""
    for call in calls:
        call()
    if torch.device(device).type == "cuda":
        times, clock = _event_seconds(list(calls) * repeats, device)
        on_gpu = True
    else:
        times, clock, on_gpu = [_wall_seconds(call) for _ in range(repeats) for call in calls], None, None
    return [_timing(times[n :: len(calls)], 1, clock, on_gpu) for n in range(len(calls))]


def turns(calls: Mapping[str, Call], repeats: int, *, several: Collection[str] = ()) -> list[dict[str, float]]:
    """Seconds of each call in each of so many turns on a CPU, after one that warms up; fewer past TURN_SECONDS.

    Every turn times each call once, so that a change of the machine's load affects all of them; a call starts with what
    the others left in the caches. Of `several` the fastest of PRODUCTS counts.
    """
    found = []
    began = time.perf_counter()
    for turn in range(repeats + 1):
        if turn > LEAST_TURNS and time.perf_counter() - began > TURN_SECONDS:
            break
        took = {
            name: min(_wall_seconds(call) for _ in range(PRODUCTS if name in several else 1))
            for name, call in calls.items()
        }
        if turn:
            found.append(took)
    return found


def over(seconds: Sequence[float]) -> Timing:
    """Of calls that were timed one by one on a CPU."""
    return _timing(list(seconds), 1, None, None)


def _buffer(device: str) -> torch.Tensor:
    return torch.ones(FLUSH_BYTES // 4, dtype=torch.float32, device=device)


def _timing(seconds: list[float], calls: int, clock: int | None, graph: bool | None) -> Timing:
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[round(share * (len(ordered) - 1))]

    return Timing(statistics.median(ordered), at(0.1), at(0.9), calls, clock, graph)


def _wall_seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _event_seconds(calls: Sequence[Call], device: str, before: Call | None = None) -> tuple[list[float], int | None]:
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in calls]
    for call, (start, end) in zip(calls, marks, strict=True):
        if before is not None:
            before()
        start.record()
        call()
        end.record()
    # Asked while the device still works: it slows down as soon as it waits.
    clock = sm_clock(device)
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in marks], clock


def _flushed(calls: Sequence[Call], flush: torch.Tensor, repeats: int) -> tuple[list[float], int | None]:
    """Calls one by one, each after a pass over more than the L2 holds.

    The pass reads: what is written would still have to leave the L2 while the call runs.
    """
    in_order = [calls[n % len(calls)] for n in range(repeats)]
    return _event_seconds(in_order, str(flush.device), before=flush.amax)
