"""How time grows with the number of triples: the exponent b of time = a * M ** b, fitted to logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kblam.bench.rows import Row

# Of Student's t: what 95 % of the estimates lie within, by degrees of freedom; two points have none.
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31}
_T_MANY = 2.26


@dataclass(frozen=True)
class Growth:
    """Of one implementation over the sizes of knowledge that it was timed with.

    Args:
        of: implementation, shape without its number of triples, dtype.
        exponent: 1 where time grows linearly.
        margin: half of the interval that holds it with 95 %, if times scatter around a line of logarithms.
        sizes: in triples, the least first.
    """

    of: tuple[str, str, str]
    exponent: float
    margin: float
    sizes: tuple[int, ...]


def growth(rows: Sequence[Row]) -> list[Growth]:
    """Of every implementation of ours with three sizes or more, zero left out."""
    times: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        shape, _, triples = row.shape.rpartition(" M")
        if row.is_ours and row.seconds and row.l2 == "cold" and triples.isdecimal() and int(triples):
            times.setdefault((row.implementation, shape, row.dtype), {})[int(triples)] = row.seconds
    return [_fitted(of, sizes) for of, sizes in times.items() if len(sizes) > 2]


def _fitted(of: tuple[str, str, str], times: dict[int, float]) -> Growth:
    sizes = sorted(times)
    x, y = [math.log(size) for size in sizes], [math.log(times[size]) for size in sizes]
    count, free = len(sizes), len(sizes) - 2
    mean_x, mean_y = sum(x) / count, sum(y) / count
    spread = sum((each - mean_x) ** 2 for each in x)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - mean_y - slope * (a - mean_x)) ** 2 for a, b in zip(x, y, strict=True))
    return Growth(of, slope, _T.get(free, _T_MANY) * math.sqrt(left / free / spread), tuple(sizes))
