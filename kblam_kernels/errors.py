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
    name: str, tensor: Tensor, sizes: dict[str, int], device: torch.device, *dtypes: torch.dtype, why: str = ""
) -> None:
    """Refuses a tensor of another shape, dtype or device.

    Args:
        sizes: of its axes, by their letters; "" for an axis without one.
        dtypes: those it may have; the message names the first.
        why: what else the message says of the shape.
    """
    if tuple(tensor.shape) != tuple(sizes.values()) or tensor.dtype not in dtypes or tensor.device != device:
        kind = str(dtypes[0]).removeprefix("torch.")
        axes = ", ".join(f"{letter}={size}" if letter else str(size) for letter, size in sizes.items())
        refuse(
            f"{name} must be {kind} ({axes}{',' * (len(sizes) == 1)}) on {device}{why}; "
            f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
