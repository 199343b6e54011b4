"""Kernels as they are tested: memory poisoned, in Triton's interpreter, or in C++ for each instruction set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kblam_kernels.common import build, native
from kblam_kernels.errors import BuildError
from tests.interpreter import made_once  # noqa: F401 - a fixture

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx")


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` gives NaN."""
    empty = torch.empty

    def poisoned(*sizes: Any, **options: Any) -> Tensor:
        tensor: Tensor = empty(*sizes, **options)
        # Detached: Inductor asks for leaves that require gradients, which must not be written to.
        if tensor.is_floating_point():
            tensor.detach().fill_(float("nan"))
        return tensor

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def interpreted(poisoned_memory: None) -> None:
    """Triton kernels run in the interpreter, on poisoned memory."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET=0: kernels are compiled in this run")


@pytest.fixture
def rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products row by row, as a matrix instruction makes them.

    The interpreter hands them to a BLAS, where a row's bits depend on its place in the matrix.
    """
    pytest.importorskip("triton")
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, acc: Any, *options: Any) -> Any:
        columns = b.data.astype(np.float64)
        rows = [row @ columns for row in a.data.astype(np.float64)]
        return interpreter.TensorHandle(np.stack(rows).astype(np.float32) + acc.data, acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """`torch.compile` remembers nothing of other tests."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def library() -> None:
    """Loads the C++ kernels, built once for the whole suite. Without a compiler tests are skipped, and say so; a
    compiler that fails is an error.
    """
    reason = native.unavailable()
    try:
        build.compiler()
    except BuildError:
        if reason is not None:
            pytest.skip(reason)
    assert reason is None


@pytest.fixture
def served(way: Any, request: pytest.FixtureRequest) -> None:
    """What serves a way is there."""
    request.getfixturevalue("interpreted" if way.backend == "triton" else "library")


@pytest.fixture(scope="session")
def instruction_sets(library: None) -> list[str]:
    """The kernel tables that this processor runs, to draw from."""
    return [name for name in INSTRUCTION_SETS if torch.ops.kblam_kernels.cpu_instruction_set(name)]


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest, library: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kernel table that this processor runs."""
    if not torch.ops.kblam_kernels.cpu_instruction_set(request.param):
        pytest.skip(f"this processor does not run {request.param}")
    monkeypatch.setenv(native.ISA_VARIABLE, request.param)
    return str(request.param)
