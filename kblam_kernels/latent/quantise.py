"""Latents with one byte per number: symmetric, one scale for each triple."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.errors import refuse, tensors
from kblam_kernels.knowledge import SCALED_DTYPES

# The number that the largest absolute number of a row is mapped to.
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def quantise(latents: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Latents as `scale[m] * quantised[m]`, rounded to nearest; the scale is the row's largest number over `LARGEST`.

    Each row is quantised on its own: a changed row alone gives the same result as in the whole list.

    Args:
        latents: (M, P), P at least 1, floating point and finite; a row that holds inf or NaN, or numbers for which no
            float32 is a scale, gets inf or NaN as its scale, so that it shows.
        dtype: torch.int8 or torch.float8_e4m3fn.

    Returns:
        (M, P) of `dtype` and the scale, float32 (M,); 0 for a row of zeros.

    Raises:
        UnsupportedInputError: another dtype, or latents that are not a floating-point matrix.
    """
    if dtype not in SCALED_DTYPES:
        refuse(f"dtype must be torch.int8 or torch.float8_e4m3fn; got {dtype}")
    tensors(latents=latents)
    if latents.dim() != 2 or latents.shape[1] == 0 or not latents.dtype.is_floating_point:
        got = f"{latents.dtype} of shape {tuple(latents.shape)}"
        refuse(f"latents must be floating point (M, P); got {got}, and P is at least 1")
    rows = latents if latents.dtype == torch.float64 else latents.float()  # which may hold what float32 does not
    top, largest = torch.linalg.vector_norm(rows, torch.inf, dim=1), LARGEST[dtype]
    scale = (top / largest).float()
    # Scales that float32 holds in few bits are rounded up, or the row's largest number would be none of the dtype.
    is_short = (scale < torch.finfo(torch.float32).tiny) & (scale * largest < top)
    scale = torch.where(is_short, torch.nextafter(scale, torch.full_like(scale, torch.inf)), scale)
    scaled = rows / torch.where(scale == 0, 1.0, scale)[:, None]
    return (scaled.round() if dtype == torch.int8 else scaled).to(dtype), scale
