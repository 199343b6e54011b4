"""The exponent of time over triples."""

from __future__ import annotations

import math

import pytest

from kblam.bench.growth import growth
from kblam.bench.rows import Row


def rows(times: dict[int, float], name: str = "kblam latent") -> list[Row]:
    return [Row(f"m decode B1 N1 T65 M{M}", "decode", name, None, "float32", seconds=s) for M, s in times.items()]


def test_a_power_of_the_size_is_found_exactly() -> None:
    (found,) = growth(rows({1000: 1.0, 10_000: 10.0**0.9, 100_000: 10.0**1.8, 1_000_000: 10.0**2.7}))
    assert found.of == ("kblam latent", "m decode B1 N1 T65", "float32")
    assert found.exponent == pytest.approx(0.9)
    assert found.margin == pytest.approx(0, abs=1e-9)
    assert found.sizes == (1000, 10_000, 100_000, 1_000_000)


def test_scatter_widens_the_interval() -> None:
    """Three points one natural logarithm apart, the middle one 0.3 above the line through the others."""
    sizes = [round(math.e**power) for power in (10, 11, 12)]
    times = {M: M * (math.e**0.3 if at == 1 else 1) for at, M in enumerate(sizes)}
    (found,) = growth(rows(times))
    assert found.exponent == pytest.approx(1, abs=1e-4)
    # Residuals 0.1, 0.2, 0.1; one degree of freedom; x has a spread of 2.
    assert found.margin == pytest.approx(12.71 * math.sqrt(0.06 / 2), rel=1e-3)


def test_two_sizes_no_triples_and_peers_have_none() -> None:
    assert growth(rows({0: 1.0, 1000: 1.0, 10_000: 10.0})) == []
    assert growth(rows({10: 1.0, 100: 10.0, 1000: 100.0}, "sdpa concat")) == []
