"""Which backend serves a call: an ordered list, each with a verifier that returns the reason of a refusal.

`backend="auto"` takes the first that can serve. A backend asked for by name, in the call or through the
environment variable KBLAM_BACKEND, serves or raises: it never falls back.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kblam_kernels.errors import BackendUnavailableError, UnsupportedInputError

logger = logging.getLogger("kblam_kernels")

AUTO = "auto"
BACKEND_VARIABLE = "KBLAM_BACKEND"
# Looks for the package without importing it.
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
MAX_TRITON_HEAD_DIM = 256
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CPU_DTYPES = TRITON_DTYPES

# A tensor or several, as the op at hand has it.
Forward = Callable[..., Any]


@dataclass(frozen=True)
class Request:
    """What a verifier looks at: nothing that needs the tensors' contents."""

    dtype: torch.dtype
    device: torch.device
    head_dim: int
    last_dim_contiguous: bool
    by_name: bool
    storage_dtype: torch.dtype | None = None  # of latents


@dataclass(frozen=True)
class Backend:
    """One implementation of the op."""

    name: str
    verify: Callable[[Request], str | None]
    load: Callable[[], Forward]


@dataclass(frozen=True)
class Explanation:
    """The outcome of a choice; `str()` of it is meant for people."""

    backend: str | None
    rejected: dict[str, str]

    def __str__(self) -> str:
        lines = [f"backend: {self.backend or 'none'}"]
        lines += [f"  not {name}: {reason}" for name, reason in self.rejected.items()]
        return "\n".join(lines)


def _verify_triton(request: Request) -> str | None:
    if not TRITON_INSTALLED:
        return "triton is not installed (pip install 'kblam-kernels[triton]')"
    if request.device.type != "cuda":
        interpreted = os.environ.get("TRITON_INTERPRET") == "1"
        if not (request.device.type == "cpu" and request.by_name and interpreted):
            return f"tensors are on {request.device.type}; triton runs on cuda (or, by name, with TRITON_INTERPRET=1)"
    if request.dtype not in TRITON_DTYPES:
        return f"dtype {request.dtype} is not one of float32, float16, bfloat16"
    if request.head_dim > MAX_TRITON_HEAD_DIM:
        return f"head_dim {request.head_dim} is over {MAX_TRITON_HEAD_DIM}"
    if not request.last_dim_contiguous:
        return "the last dimension of a tensor is not contiguous; call .contiguous() on it"
    return None


def verify_cpu(request: Request) -> str | None:
    """Why the C++ kernels cannot serve; the first call that they could serve builds them."""
    if request.device.type != "cpu":
        return f"tensors are on {request.device.type}; the C++ kernels run on cpu"
    if request.dtype not in CPU_DTYPES:
        return f"dtype {request.dtype} is not one of float32, float16, bfloat16"
    if request.head_dim % 2:
        return f"head_dim {request.head_dim} is odd"
    if not request.last_dim_contiguous:
        return "the last dimension of a tensor is not contiguous; call .contiguous() on it"
    from kblam_kernels import native

    return native.unavailable()


def _load_triton() -> Forward:
    from kblam_kernels.rectangular import triton_backend

    return triton_backend.forward


def _load_cpu() -> Forward:
    from kblam_kernels.rectangular import cpu

    return cpu.forward


def _load_reference() -> Forward:
    from kblam_kernels.rectangular import reference

    return reference.forward


BACKENDS: tuple[Backend, ...] = (
    Backend("triton", _verify_triton, _load_triton),
    Backend("cpu", verify_cpu, _load_cpu),
    Backend("reference", lambda request: None, _load_reference),
)


@functools.cache
def forward_of(name: str, backends: tuple[Backend, ...] | None = None) -> Forward:
    """The forward function of a backend, imported on first use."""
    return next(backend for backend in backends or BACKENDS if backend.name == name).load()


def requested(backend: str) -> str:
    """The backend asked for: the argument if it names one, else KBLAM_BACKEND, else "auto".

    Raises:
        UnsupportedInputError: if the name is not a backend.
    """
    source = "backend"
    if backend == AUTO:
        source, backend = BACKEND_VARIABLE, os.environ.get(BACKEND_VARIABLE) or AUTO
    names = [b.name for b in BACKENDS]
    if backend != AUTO and backend not in names:
        raise UnsupportedInputError(f"{source}={backend!r} is not one of {', '.join([AUTO, *names])}")
    return backend


def explain_request(
    request_for: Callable[[bool], Request], backend: str, backends: tuple[Backend, ...] | None = None
) -> Explanation:
    """Runs the verifiers in order; `request_for(by_name)` builds what they look at.

    `backends` are those of another op than `rectangular_forward`.
    """
    backends = backends or BACKENDS
    wanted = requested(backend)
    if wanted != AUTO:
        by_name = [b for b in backends if b.name == wanted]
        reason = by_name[0].verify(request_for(True)) if by_name else "it does not have this operation"
        return Explanation(None, {wanted: reason}) if reason else Explanation(wanted, {})
    request = request_for(False)
    rejected: dict[str, str] = {}
    for candidate in backends:
        reason = candidate.verify(request)
        if reason is None:
            return Explanation(candidate.name, rejected)
        rejected[candidate.name] = reason
    return Explanation(None, rejected)


def choose(request_for: Callable[[bool], Request], backend: str, backends: tuple[Backend, ...] | None = None) -> str:
    """The backend that serves.

    Raises:
        BackendUnavailableError: if the one asked for by name cannot; the message has its reason.
    """
    explanation = explain_request(request_for, backend, backends)
    if explanation.backend is None:
        name, reason = next(iter(explanation.rejected.items()))
        raise BackendUnavailableError(f"backend {name!r} cannot serve this call: {reason}")
    if explanation.rejected and not torch.compiler.is_compiling():
        _log_once(str(explanation))
    return explanation.backend


@functools.cache
def _log_once(message: str) -> None:
    logger.info(message)
