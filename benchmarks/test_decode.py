"""One new token over knowledge, ours beside peers: `pytest benchmarks/test_decode.py --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable

PHASE = "decode"


def test_decode(attention: Callable[[], None]) -> None:
    attention()
