"""Errors that the kernels raise. Every message names the value that is wrong and what to do about it."""

from __future__ import annotations

from typing import NoReturn


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
