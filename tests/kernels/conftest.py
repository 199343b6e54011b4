"""Memory that an op forgets to write must be seen; matrix products in the interpreter as an instruction makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.empty` gives NaN."""
    empty = torch.empty

    def poisoned(*sizes: Any, **options: Any) -> Tensor:
        tensor = empty(*sizes, **options)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture
def rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products row by row, as a matrix instruction makes them.

    The interpreter hands them to a BLAS, where a row's bits depend on its place in the matrix.
    """
    pytest.importorskip("triton")
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, acc: Any, *options: Any) -> Any:
        rows = [row.astype(np.float64) @ b.data.astype(np.float64) for row in a.data]
        return interpreter.TensorHandle(np.stack(rows).astype(np.float32) + acc.data, acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
