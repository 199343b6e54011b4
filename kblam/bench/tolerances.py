"""How far a result may be from float64: the same numbers for tests, benchmarks, locally and in CI.

The measure is the largest error over the root mean square of the exact result, computed in float64 from the very
inputs that the version got. A version may err

    FACTOR x (what plain PyTorch of the same dtype errs on the same inputs) + FLOOR[dtype]

Plain PyTorch is `reference.forward`: it accumulates in float32 and rounds once, at the end. A flash kernel also
rounds the weights of a tile to the input dtype before they meet the values, and orders its sums otherwise; FACTOR is
for that. FLOOR is for results so easy that the reference is exact: no kernel can beat an error of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

FACTOR = 3.0
# About the spacing of the dtype's numbers around 1: 2^-7, 2^-10; for float32 a hundred times 2^-23, because the
# exponentials and the tf32x3 products of a GPU are a few units off.
FLOOR = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float32: 1e-5, torch.float64: 1e-13}


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest error over the root mean square of the exact values; inf if anything is not finite."""
    if exact.numel() == 0:
        return 0.0
    error = (actual.double() - exact.double()).abs().max()
    scale = exact.double().square().mean().sqrt().clamp_min(1e-30)
    return (error / scale).item() if bool(error.isfinite()) else float("inf")
