"""What a C++ call must not depend on, pinned for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kblam_kernels.common import native

# Kernel tables that multiply int8 latents as int8 where it is allowed.
HAVE_BYTES = ("avx512vnni", "avx512bf16", "amx")


def multiplies_bytes() -> bool:
    """Whether this processor has one of those tables; the library is loaded."""
    return any(torch.ops.kblam_kernels.cpu_instruction_set(name) for name in HAVE_BYTES)


@contextmanager
def with_instruction_set(name: str) -> Iterator[None]:
    """For tests that draw the kernel table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.ISA_VARIABLE, name)
        yield


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Another number of PyTorch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
