"""What the device can do at all, measured in the run that the figures come from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.timing import median_seconds


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second of a large copy (read and write counted), and operations a second of a large matmul."""

    bytes_per_second: float
    flops_per_second: float


def measure(device: str, dtype: torch.dtype, *, tiny: bool = False) -> Ceilings:
    """Both ceilings of `device`, now."""
    count, side = (2**16, 128) if tiny else (2**30, 8192)
    source = torch.empty(count, dtype=torch.int8, device=device).fill_(1)
    target = torch.empty_like(source)
    copy_seconds = median_seconds(lambda: target.copy_(source), device)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    matmul_seconds = median_seconds(lambda: a @ b, device)
    return Ceilings(2 * count / copy_seconds, 2 * side**3 / matmul_seconds)
