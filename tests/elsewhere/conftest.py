"""Only in a process of their own, since torch knows such a device until its end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tests.elsewhere.device import elsewhere
from tests.training.conftest import cache, prepared, stand_ins

__all__ = ["cache", "prepared", "stand_ins"]

collect_ignore_glob = [] if os.environ.get("KBLAM_TEST_ELSEWHERE") else ["test_*.py"]


@pytest.fixture
def there() -> Iterator[torch.device]:
    """A device that is not the CPU."""
    with elsewhere() as device:
        yield device
