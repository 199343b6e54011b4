"""Errors that the kernels raise. Every message names the value that is wrong and what to do about it."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor


class KernelError(Exception):
    """Base of everything `kblam_kernels` raises on purpose."""


class UnsupportedInputError(KernelError, ValueError):
    """An argument has a shape, dtype, device or value that the operation does not take."""


class BackendUnavailableError(KernelError, RuntimeError):
    """A backend was asked for by name and cannot serve this call; the message has the reason."""


class BuildError(KernelError, RuntimeError):
    """The C++ kernels could not be built: no compiler, no sources, or a compilation that failed; the message says."""


def refuse(message: str) -> NoReturn:
    """Raises `UnsupportedInputError`."""
    raise UnsupportedInputError(message)


def expect(
    name: str,
    tensor: Tensor,
    axes: str,
    shape: tuple[int, ...],
    device: torch.device,
    *dtypes: torch.dtype,
    why: str = "",
) -> None:
    """Refuses a tensor of another shape, dtype or device.

    Args:
        axes: their letters for the message, such as "B, T"; a number for one without.
        dtypes: those it may have; the message names the first.
        why: what else the message says of the shape.
    """
    if tensor.shape != shape or tensor.dtype not in dtypes or tensor.device != device:
        kind = str(dtypes[0]).removeprefix("torch.")
        pairs = zip(axes.split(", "), shape, strict=True)
        sizes = ", ".join(letter if letter.isdecimal() else f"{letter}={size}" for letter, size in pairs)
        refuse(
            f"{name} must be {kind} ({sizes}{',' * (len(shape) == 1)}) on {device}{why}; "
            f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
