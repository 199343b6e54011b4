"""Loads the C++ kernels, building them on first use, and reports why they are unavailable."""

from __future__ import annotations

import functools
import importlib
import logging
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.softmax import empty_output
from kblam_kernels.errors import BuildError, refuse

logger = logging.getLogger("kblam_kernels")

BUILD_VARIABLE = "KBLAM_BUILD"
# Names a kernel table ("portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx") instead of the fastest that
# this processor runs.
ISA_VARIABLE = "KBLAM_CPU_ISA"


@torch.compiler.assume_constant_result  # tracing asks once and keeps the answer
def unavailable(module: str = __name__) -> str | None:
    """Why the C++ kernels cannot be used here, or None once they are built and loaded.

    A failure is logged in one line, once per process, and not tried again.

    Args:
        module: one that calls them; it is imported here, because `torch.compile` cannot trace an import by name.
    """
    importlib.import_module(module)
    if os.environ.get(BUILD_VARIABLE) == "0":
        return f"{BUILD_VARIABLE}=0 turns the C++ kernels off"
    failure = _load()
    if failure is not None:
        return failure
    if not instruction_set():
        return f"{ISA_VARIABLE}={wanted_instruction_set()!r} is not a kernel table that this processor runs"
    return None


@torch.compiler.assume_constant_result
def wanted_instruction_set() -> str:
    """The kernel table that KBLAM_CPU_ISA names; "" for the fastest."""
    return os.environ.get(ISA_VARIABLE, "")


def instruction_set() -> str:
    """Name of the kernel table in use, "" if KBLAM_CPU_ISA names none that runs; after `unavailable` is None."""
    return _instruction_set(wanted_instruction_set())


@functools.cache
def _instruction_set(wanted: str) -> str:
    return str(torch.ops.kblam_kernels.cpu_instruction_set(wanted))


@functools.cache
def _load() -> str | None:
    """Builds and loads the library; the reason if that fails."""
    try:
        # Imported late: only who computes on a CPU needs it.
        from kblam_kernels.common import build

        path = build.library()
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            _load_anew(path, error)
    # Whatever fails in here, a build, a loader or a package that it needs: plain PyTorch computes the same.
    except Exception as error:
        told = str(error) if isinstance(error, BuildError | OSError) else f"{type(error).__name__}: {error}"
        first, _, rest = told.partition("\n")
        if rest:
            first += " (python -m kblam_kernels build shows all)"
        logger.warning("no C++ kernels, plain PyTorch serves instead: %s", first)
        logger.debug("%s", rest)
        return f"the C++ kernels are not available: {first}"
    # For `torch.compile`: without gradients these ops are called directly, because another op around them costs as much
    # as attention to a thousand triples.
    torch.library.register_fake("kblam_kernels::latent_attention_cpu", _fake_latent_attention)
    torch.library.register_fake("kblam_kernels::dense_forward_cpu", _fake_dense_forward)
    return None


def _fake_dense_forward(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    # A single meta tensor among real ones would be dispatched here and silently compute nothing.
    for other in others:
        if isinstance(other, Tensor) and other.device != query.device:
            refuse(f"tensors must be on one device; got {query.device} and {other.device}")
    return empty_output(query)


def _fake_latent_attention(query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    B, Hq, N, D = query.shape
    query_weight = others[8]
    return *_fake_dense_forward(query, *others), query.new_empty(0 if query_weight is None else B, Hq, N, D)


def _load_anew(path: Path, error: OSError) -> None:
    """Rebuilds and loads a cached library that is damaged or was built on another system."""
    from kblam_kernels.common import build

    try:
        torch.ops.load_library(str(build.rebuilt(path)))
    except (BuildError, OSError) as again:
        raise BuildError(f"{path} cannot be loaded ({error}), nor built anew: {again}") from again


def kernel_layout(
    bias: Tensor | None, prompt_mask: Tensor | None, knowledge_range: Tensor | None, *, batch: int | None = None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Bias, mask and range with strides and dtypes that the C++ kernels read; copied only where needed.

    With `batch`, a range that the batch shares is repeated for each of its rows.
    """
    if bias is not None and bias.stride(1) not in (0, 1):
        # `contiguous` would leave the strides of one without rows as they are.
        bias = bias.clone(memory_format=torch.contiguous_format)
    if prompt_mask is not None and prompt_mask.stride(1) != 1:
        prompt_mask = prompt_mask.contiguous()
    if knowledge_range is not None:
        if knowledge_range.dtype == torch.int64:
            # No row sees 2 ** 31 tokens, but an int64 end may be larger, meaning "no end".
            knowledge_range = knowledge_range.clamp(0, 2**31 - 1)
        if batch is not None:
            knowledge_range = knowledge_range.expand(batch, 2)
        knowledge_range = knowledge_range.to(torch.int32).contiguous()
    return bias, prompt_mask, knowledge_range


def contiguous_or_none(tensor: Tensor | None) -> Tensor | None:
    """A contiguous tensor, as the C++ kernels read scales and norms."""
    return None if tensor is None else tensor.contiguous()
