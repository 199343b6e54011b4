"""What the device can do at all, measured in the run that the figures come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from kblam.bench.timing import Call, Timing, measure
from kblam.errors import BenchmarkError


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second of a large copy (read and write counted) and of a pass that only reads, operations a second of a
    large matrix product; `timings` has the times they follow from, with percentiles and clocks."""

    copy: float
    read: float
    matmul: float
    timings: dict[str, Timing]

    @property
    def as_json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any], file: object) -> Ceilings:
        """Of a report.

        Raises:
            BenchmarkError: the file does not have them.
        """
        try:
            timings = {name: Timing(**timing) for name, timing in stored["timings"].items()}
            return cls(float(stored["copy"]), float(stored["read"]), float(stored["matmul"]), timings)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise BenchmarkError(f"{file} has no ceilings that can be read: {problem!r}") from problem

    def __str__(self) -> str:
        clocks = {timing.sm_clock for timing in self.timings.values() if timing.sm_clock is not None}
        return (
            f"copy {self.copy / 1e9:.0f} GB/s, read {self.read / 1e9:.0f} GB/s, matmul {self.matmul / 1e12:.2f} TFLOP/s"
            + (f", SM clock {min(clocks)} to {max(clocks)} MHz" if clocks else "")
        )


def of(device: str, dtype: torch.dtype, *, tiny: bool = False) -> Ceilings:
    """All ceilings of `device`, now."""
    count, side = (2**16, 128) if tiny else (2**30, 8192)
    # Random, not constant: memory and matrix units draw less power on zeros, and may run faster.
    source = torch.randn(count // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    row = torch.randn(256, dtype=torch.float32, device=device)
    # Decode barely writes. Which of PyTorch's passes reads fastest depends on the card: the best counts.
    reads: dict[str, Call] = {
        "read: sum": source.sum,
        "read: max": source.amax,
        "read: matrix times vector": lambda: source.view(-1, 256) @ row,
    }
    timings = {"copy": measure([lambda: target.copy_(source)], device)}
    timings |= {name: measure([call], device) for name, call in reads.items()}
    a, b = (torch.randn(side, side, dtype=torch.float32, device=device).to(dtype) for _ in range(2))
    timings["matmul"] = measure([lambda: a @ b], device)
    size = source.numel() * source.element_size()
    return Ceilings(
        copy=2 * size / timings["copy"].median,
        read=size / min(timings[name].median for name in reads),
        matmul=2 * side**3 / timings["matmul"].median,
        timings=timings,
    )
