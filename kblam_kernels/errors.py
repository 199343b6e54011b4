"""Errors that the kernels raise. Every message names the value that is wrong and what to do about it."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, NoReturn

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


def tensors(**given: Any) -> None:
    """Refuses arguments that are no tensors, or none whose numbers lie at strides."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            refuse(f"{name} must be a tensor; got {type(value).__name__}")
        if value.layout is not torch.strided or value.is_nested:
            kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            refuse(f"{name} must be a tensor with strides; got a {kind} one: call .to_dense() on it, or pad it")


def whole(name: str, value: Any, least: int | None = 1) -> int:
    """A whole number that a 64-bit integer holds; others are refused. With `least` None its caller looks at that."""
    if type(value) is not int:
        if isinstance(value, torch.SymInt):
            return value  # type: ignore[return-value]
        try:
            value = operator.index(value)
        except TypeError:
            refuse(f"{name} must be a whole number; got {value!r}"[:200])
    if least is not None and value < least:
        refuse(f"{name} must be at least {least}; got {value}")
    if value >= 2**63:
        refuse(f"{name} must be below 2**63; got {value:.4g}" if value < 10**300 else f"{name} must be below 2**63")
    return int(value)


# The largest number that float32 holds, in which the kernels compute.
_LARGEST = torch.finfo(torch.float32).max


def number(name: str, value: Any, *, or_minus_infinity: bool = False) -> float:
    """A number that float32 holds; others are refused."""
    if isinstance(value, torch.SymFloat):
        return value  # type: ignore[return-value]
    if not isinstance(value, numbers.Real):
        refuse(f"{name} must be a number; got {value!r}"[:200])
    if or_minus_infinity and value == -math.inf:
        return -math.inf
    if not -_LARGEST <= value <= _LARGEST:  # type: ignore[operator]  # NaN neither
        is_whole = isinstance(value, int)  # of any length
        shown = f"a number of {len(str(abs(value)))} digits" if is_whole else f"{float(value):.4g}"
        where = " in float32" if is_whole or math.isfinite(value) else ""
        refuse(f"{name} must be finite{' or -inf' * or_minus_infinity}{where}; got {shown}")
    return float(value)


def switch(name: str, value: Any) -> bool:
    """True or False, numpy's too; others are refused."""
    if value is not True and value is not False and type(value).__name__ not in ("bool", "bool_"):
        refuse(f"{name} must be True or False; got {value!r}"[:200])
    return bool(value)


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
    if not isinstance(tensor, Tensor) or tensor.is_sparse:
        tensors(**{name: tensor})
    if tensor.shape != shape or tensor.dtype not in dtypes or tensor.device != device:
        kind = str(dtypes[0]).removeprefix("torch.")
        pairs = zip(axes.split(", "), shape, strict=True)
        sizes = ", ".join(letter if letter.isdecimal() else f"{letter}={size}" for letter, size in pairs)
        refuse(
            f"{name} must be {kind} ({sizes}{',' * (len(shape) == 1)}) on {device}{why}; "
            f"got {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}"
        )
