"""Backends as tests of engines take them."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each, where it can run; Triton in its interpreter."""
    fixture = {"cpu": "library", "triton": "interpreted"}.get(request.param)
    if fixture is not None:
        request.getfixturevalue(fixture)
    return str(request.param)
