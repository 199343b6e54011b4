"""What is said of one implementation on one shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from kblam.bench import kernels, subjects

MEASURED, FAILED, TOO_LARGE, REFUSED = "measured", "failed", "does not fit", "not run"
# In place of an implementation, where a shape's inputs could not be made.
INPUTS = "inputs"


@dataclasses.dataclass(frozen=True)
class Row:
    """One implementation on one shape.

    Args:
        shape, phase, dtype, implementation, backend: what ran.
        status: "measured"; "failed" (a wrong result, or an exception of ours), "does not fit" (out of memory, its
            judge included), "not run" (a peer that is not here or refuses the shape): `note` says why.
        l2: "cold", or "warm" where every call meets the inputs of the one before.
        relative_error: against float64.
        seconds, p10, p90: of one call; `calls` make one sample.
        sm_clock: MHz while it was timed.
        of_matmul_ceiling, of_copy_ceiling, of_read_ceiling: of the run's ceilings, on a GPU.
        ceiling_seconds, bound: the least time that the work can take at the fastest known rates of this machine, and
            whether reading or multiplying takes it.
        share_of_ceiling: that time over its own.
        share_of_probes: the same at the rates of the probes alone; over 1.05 these are too slow to be a ceiling.
        knowledge_bytes: that a call reads.
        peak_bytes: that a call takes beside its inputs; None where some heads are timed for all.
        launches, kernels: of one call that is not in a graph.
        ratio_to_best_peer: the best peer's time over this one's, once all of a shape are there.
    """

    shape: str
    phase: str
    implementation: str
    backend: str | None
    dtype: str = ""
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
    ceiling_seconds: float | None = None
    bound: str | None = None
    share_of_ceiling: float | None = None
    share_of_probes: float | None = None
    knowledge_bytes: int | None = None
    peak_bytes: int | None = None
    cuda_graph: bool | None = None
    launches: float | None = None
    kernels: list[kernels.Kernel] = dataclasses.field(default_factory=list)
    ratio_to_best_peer: float | None = None

    @property
    def case(self) -> tuple[str, str, str]:
        """What rows share that are compared."""
        return self.shape, self.dtype, self.l2

    @property
    def is_ours(self) -> bool:
        """Not a peer's."""
        return self.implementation in (*subjects.OURS, INPUTS)


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """Each row with the best peer's time of its shape, as cold or as warm as itself, over its own."""
    best: dict[tuple[str, str, str], float] = {}
    for row in rows:
        if row.seconds and not row.is_ours:
            best[row.case] = min(row.seconds, best.get(row.case, row.seconds))
    return [
        dataclasses.replace(row, ratio_to_best_peer=best[row.case] / row.seconds)
        if row.seconds and row.case in best
        else row
        for row in rows
    ]


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Rows of a GPU with their shares of the ceiling: of the run's, or of the fastest row where that is faster.

    A warm cache has no ceiling here.
    """
    cold = [row for row in rows if row.l2 == "cold" and row.of_matmul_ceiling and row.of_read_ceiling]
    # Float32 multiplies at another rate than 16 bits, and each dtype's rows are shares of a product of its own.
    matmul: dict[str, float] = {}
    for row in cold:
        matmul[row.dtype] = max(1.0, row.of_matmul_ceiling or 0.0, matmul.get(row.dtype, 0.0))
    read = max([1.0, *(row.of_read_ceiling or 0.0 for row in cold)])
    shares = {
        id(row): (
            max((row.of_matmul_ceiling or 0.0) / matmul[row.dtype], (row.of_read_ceiling or 0.0) / read),
            max(row.of_matmul_ceiling or 0.0, row.of_read_ceiling or 0.0),
        )
        for row in cold
    }
    return [
        dataclasses.replace(row, share_of_ceiling=shares[id(row)][0], share_of_probes=shares[id(row)][1])
        if id(row) in shares
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
    name += " warm" if row.l2 == "warm" else ""
    if row.seconds is None:
        return f"{name:36} {row.status}: {row.note}"
    figures = [f"{row.seconds * 1e6:10.1f} us", f"{row.tflops:8.2f} TFLOP/s", f"{row.gigabytes_per_second:8.1f} GB/s"]
    if row.of_matmul_ceiling is not None:
        figures[1] += f" ({row.of_matmul_ceiling:6.1%})"
        figures[2] += f" ({row.of_read_ceiling:6.1%} of read)"
    figures.append(f"error {row.relative_error:.1e}")
    if row.launches is not None:
        figures.append(f"{row.launches:.0f} launches")
    return f"{name:36} " + "  ".join(figures)
