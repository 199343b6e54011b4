"""Small launches of every kernel variant, for compute-sanitizer: `python -m benchmarks.sanitize_shapes`.

The results are checked by `pytest -m gpu`; here only the memory accesses matter.
"""

from __future__ import annotations

import sys

import torch

from kblam_kernels.errors import BackendUnavailableError
from tests.kernels.cases import GRID, on


def main() -> int:
    """Runs the case grid on the GPU in two dtypes; returns the exit status."""
    if not torch.cuda.is_available():
        error = BackendUnavailableError("no CUDA device here")
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for case in GRID:
        for dtype in (torch.bfloat16, torch.float32):
            on(case.problem(dtype), "cuda").run("triton")
        torch.cuda.synchronize()
        print(case.name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
