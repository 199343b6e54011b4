"""In which dtypes a block computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def exactly(device: torch.device) -> AbstractContextManager[Any]:
    """A block that computes in the dtypes of its tensors, also under autocast."""
    is_on = device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if is_on else nullcontext()
