"""Shapes are toys here, and so are the products that ceilings are measured by."""

from __future__ import annotations

import pytest

from kblam.bench import probes


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "SIDE", 64)
