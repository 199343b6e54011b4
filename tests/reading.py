"""A block in which no tensor's value may reach Python: on a GPU that waits for everything before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# What turns values into Python objects. On the CPU some go past the dispatcher, and a dispatch mode does not see into
# the body of a custom op, where these still are what is called.
READING = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")


class _RefuseReading(TorchDispatchMode):
    """Sees what C++ does on its own account, such as indexing by a mask."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise AssertionError(f"{func} reads from the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_reading() -> Iterator[None]:
    """Raises AssertionError, "reads from the device", where something does."""

    def refusing(name: str) -> Any:
        def refuse(*arguments: object, **options: object) -> None:
            raise AssertionError(f"Tensor.{name} reads from the device")

        return refuse

    with pytest.MonkeyPatch.context() as patch, _RefuseReading():
        for name in READING:
            patch.setattr(Tensor, name, refusing(name))
        yield
