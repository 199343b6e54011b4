"""One implementation on one shape: held against float64, then timed. What goes wrong becomes a row too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks import kernels, subjects, timing
from benchmarks.ceilings import Ceilings
from benchmarks.problems import Problem
from benchmarks.shapes import Shape
from benchmarks.subjects import Call, Subject
from tests import tolerances

# A peer may round its partial results to 16 bits before it merges them; the gate only asks whether it computes the
# same function. We are held to the tolerance of the tests.
PEER_FACTOR = 10.0
MEASURED, FAILED, TOO_LARGE, REFUSED = "measured", "failed", "does not fit", "not run"
# In place of an implementation, where a shape's inputs could not be made.
INPUTS = "inputs"


@dataclasses.dataclass(frozen=True)
class Row:
    """One implementation on one shape.

    Args:
        shape, phase, implementation, backend: what ran.
        status: "measured"; "failed" (a wrong result, or an exception of ours), "does not fit" (out of memory, its
            judge included), "not run" (a peer that is not here or refuses the shape): `note` says why.
        l2: "cold", or "warm" where every call meets the inputs of the one before.
        relative_error: against float64.
        seconds, p10, p90: of one call; `calls` make one sample.
        sm_clock: MHz while it was timed.
        peak_bytes: that a call takes beside its inputs.
        launches, kernels: of one call that is not in a graph.
        ratio_to_best_peer: the best peer's time over this one's, once all of a shape are there.
    """

    shape: str
    phase: str
    implementation: str
    backend: str | None
    status: str = MEASURED
    note: str = ""
    l2: str = "cold"
    relative_error: float | None = None
    seconds: float | None = None
    p10: float | None = None
    p90: float | None = None
    calls: int | None = None
    sm_clock: int | None = None
    tflops: float | None = None
    gigabytes_per_second: float | None = None
    of_matmul_ceiling: float | None = None
    of_copy_ceiling: float | None = None
    of_read_ceiling: float | None = None
    peak_bytes: int | None = None
    cuda_graph: bool | None = None
    launches: float | None = None
    kernels: list[kernels.Kernel] = dataclasses.field(default_factory=list)
    ratio_to_best_peer: float | None = None

    @property
    def is_ours(self) -> bool:
        """Not a peer's."""
        return self.implementation in (*subjects.OURS, INPUTS)


@dataclasses.dataclass(frozen=True)
class Run:
    """What all shapes of a run share."""

    device: str
    dtype: torch.dtype
    limits: Ceilings
    quick: bool = False
    budget: float = 0.5

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"


def rows_of(subject: Subject, x: Problem, shape: Shape, run: Run) -> Iterator[Row]:
    """Its rows: one, and for decode a second one with a warm L2 where the inputs fit into it."""
    row = Row(shape.name, shape.phase, subject.name, subject.backend)
    if subject.unavailable:
        yield dataclasses.replace(row, status=REFUSED, note=subject.unavailable)
        return
    try:
        judge = subject.judge()
    except torch.OutOfMemoryError as problem:
        yield dataclasses.replace(row, status=TOO_LARGE, note=f"its judge does not fit: {first_line(problem)}")
        return
    except Exception as problem:
        yield dataclasses.replace(row, status=FAILED, note=f"its judge: {described(problem)}")
        return
    try:
        call = subject.build(x)
        row = dataclasses.replace(row, relative_error=tolerances.relative_error(call(), judge.exact))
        factor = tolerances.FACTOR if subject.is_ours else PEER_FACTOR
        bound = factor * judge.allowed + tolerances.FLOOR[run.dtype]
        # So written that nan does not pass.
        if not row.relative_error <= bound:
            note = f"error {row.relative_error:.1e} is over {bound:.1e}: not timed"
            yield dataclasses.replace(row, status=FAILED, note=note)
            return
        yield from _timed(row, subject, call, x, run, shape)
    except torch.OutOfMemoryError as problem:
        yield dataclasses.replace(row, status=TOO_LARGE, note=first_line(problem))
    # A peer that refuses a shape is a result; our own exception is a failure. Neither is the end of the run.
    except Exception as problem:
        yield dataclasses.replace(row, status=FAILED if subject.is_ours else REFUSED, note=described(problem))


def _timed(row: Row, subject: Subject, call: Call, x: Problem, run: Run, shape: Shape) -> Iterator[Row]:
    peak = None
    if run.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peak = torch.cuda.max_memory_allocated() - before
    moved = subject.work.bytes_moved(run.dtype.itemsize)
    copies = timing.copies_for(moved, run.device)
    calls = [call, *(subject.build(x.clone()) for _ in range(copies - 1))]
    cold = with_time(row, timing.measure(calls, run.device, budget=run.budget), subject, run)
    launched = _kernels(calls, run)
    yield dataclasses.replace(
        cold,
        peak_bytes=peak,
        kernels=launched,
        launches=sum(kernel.launches for kernel in launched) if launched else None,
    )
    if shape.phase == "decode" and moved < timing.l2_bytes(run.device):
        warm = timing.measure(calls[:1], run.device, budget=run.budget)
        yield with_time(dataclasses.replace(row, l2="warm"), warm, subject, run)


def _kernels(calls: Sequence[Call], run: Run) -> list[kernels.Kernel]:
    try:
        return kernels.of(calls, run.device, count=kernels.CALLS if run.on_gpu else 2)
    # A profiler that is refused here costs this column, not the row.
    except Exception as problem:
        print(f"  no kernel times: {described(problem)}")
        return []


def with_time(row: Row, took: timing.Timing, subject: Subject, run: Run) -> Row:
    """The row with a time and what follows from it."""
    flops = subject.work.flops / took.median
    moved = subject.work.bytes_moved(run.dtype.itemsize) / took.median
    return dataclasses.replace(
        row,
        seconds=took.median,
        p10=took.p10,
        p90=took.p90,
        calls=took.calls,
        sm_clock=took.sm_clock,
        cuda_graph=took.cuda_graph,
        tflops=flops / 1e12,
        gigabytes_per_second=moved / 1e9,
        of_matmul_ceiling=flops / run.limits.matmul,
        of_copy_ceiling=moved / run.limits.copy,
        of_read_ceiling=moved / run.limits.read,
    )


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Each row with the best peer's time of its shape, as cold or as warm as itself, over its own."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        if row.seconds and not row.is_ours:
            key = (row.shape, row.l2)
            best[key] = min(row.seconds, best.get(key, row.seconds))
    return [
        dataclasses.replace(row, ratio_to_best_peer=best[row.shape, row.l2] / row.seconds)
        if row.seconds and (row.shape, row.l2) in best
        else row
        for row in rows
    ]


def first_line(problem: BaseException) -> str:
    """Of its message, which may be empty."""
    return next(iter(str(problem).splitlines()), "")


def described(problem: BaseException) -> str:
    """Its type, and the first line of its message."""
    return f"{type(problem).__name__}: {first_line(problem)}".rstrip(": ")


def row_from(stored: dict[str, Any]) -> Row:
    """A row as a report has it."""
    fields = {field.name for field in dataclasses.fields(Row)}
    known = {name: value for name, value in stored.items() if name in fields}
    return Row(**known | {"kernels": [kernels.Kernel(**kernel) for kernel in stored.get("kernels", [])]})


def line_of(row: Row) -> str:
    """For people."""
    name = f"{row.implementation} ({row.backend})" if row.backend else row.implementation
    if row.seconds is None:
        return f"{name:36} {row.status}: {row.note}"
    launched = "" if row.launches is None else f"  {row.launches:.0f} launches"
    return (
        f"{name + (' warm' if row.l2 == 'warm' else ''):36} {row.seconds * 1e6:10.1f} us  "
        f"{row.tflops:8.2f} TFLOP/s ({row.of_matmul_ceiling:6.1%})  {row.gigabytes_per_second:8.1f} GB/s "
        f"({row.of_read_ceiling:6.1%} of read)  error {row.relative_error:.1e}{launched}"
    )
