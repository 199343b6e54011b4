"""What every faster version of an op is held to: one module, the same numbers locally and in CI.

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
# The lse is float32 whatever the inputs; its error is absolute, because it is a logarithm, and grows with its size.
LSE_TOLERANCE = 2e-5


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """Largest error over the root mean square of the exact values; inf if anything is not finite."""
    if exact.numel() == 0:
        return 0.0
    error = (actual.double() - exact.double()).abs().max()
    scale = exact.double().square().mean().sqrt().clamp_min(1e-30)
    return (error / scale).item() if bool(error.isfinite()) else float("inf")


def check_output(actual: Tensor, exact: Tensor, plain: Tensor) -> None:
    """Fails unless `actual` is as near to `exact` as the bound above allows; `plain` is the reference's own result."""
    bound = FACTOR * relative_error(plain, exact) + FLOOR[actual.dtype]
    error = relative_error(actual, exact)
    assert error <= bound, f"relative error {error:.3g} is over {bound:.3g}"


def check_lse(actual: Tensor, exact: Tensor) -> None:
    """Fails unless the finite entries agree within LSE_TOLERANCE x max(1, |exact|) and the others are equal."""
    assert actual.dtype == torch.float32
    empty = exact == float("-inf")
    assert torch.equal(actual == float("-inf"), empty), "other rows are empty than should be"
    error = (actual.double() - exact).abs() / exact.abs().clamp_min(1.0)
    worst = error.masked_fill(empty, 0.0).nan_to_num(nan=float("inf")).max().item() if exact.numel() else 0.0
    assert worst <= LSE_TOLERANCE, f"lse error {worst:.3g} is over {LSE_TOLERANCE:.3g}"
