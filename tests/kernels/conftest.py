"""Memory that an op forgets to write must be seen."""

from __future__ import annotations

from typing import Any

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
