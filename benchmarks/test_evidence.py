"""How much attention each triple got, ours beside peers: `pytest benchmarks/test_evidence.py --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable

PHASE = "evidence"


def test_evidence(attention: Callable[[], None]) -> None:
    attention()
