"""What a launcher hands to its kernels, and what it may not look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Recorder:
    """Stands in for a kernel: notes what it is launched with, and calls it if there is one."""

    def __init__(self, kernel: Any = None) -> None:
        self.kernel, self.launches = kernel, list[dict[str, Any]]()

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(isinstance(size, int) for size in grid)

        def launch(**arguments: Any) -> None:
            self.launches.append(arguments)
            if self.kernel is not None:
                self.kernel[grid](**arguments)

        return launch


def without_data(**arguments: Any) -> dict[str, Any]:
    """Arguments whose tensors have no values: reading one raises."""
    return {name: value.to("meta") if isinstance(value, Tensor) else value for name, value in arguments.items()}
