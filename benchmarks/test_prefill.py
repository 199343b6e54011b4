"""Many new tokens over knowledge, ours beside peers: `pytest benchmarks/test_prefill.py --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable

PHASE = "prefill"


def test_prefill(attention: Callable[[], None]) -> None:
    attention()
