"""No pin of the environment, and rates of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kblam_kernels.plan import devices, remembered


@pytest.fixture(autouse=True)
def no_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBLAM_PLAN", raising=False)


@pytest.fixture(autouse=True)
def own_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of rates are the test's own."""
    monkeypatch.setattr(remembered, "cache_root", lambda: tmp_path / "rates")
    devices._device.cache_clear()
    yield
    devices._device.cache_clear()
