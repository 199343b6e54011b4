"""What every faster version of an op is held to; the numbers, and why, are in `kblam/bench/tolerances.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam.bench.tolerances import FACTOR, FLOOR, relative_error

# The lse is float32 whatever the inputs; its error is absolute, because it is a logarithm, and grows with its size.
LSE_TOLERANCE = 2e-5


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
