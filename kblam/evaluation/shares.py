"""A share of questions, with the interval that its count supports."""

from __future__ import annotations

import math
from collections.abc import Iterable

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(hits: int, of: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial share; (0, 1) where there was nothing to count.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if of == 0:
        return 0.0, 1.0
    share, square = hits / of, z * z
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


class Share(float):
    """`hits` of `of` questions as a number between 0 and 1; NaN if there were none, so that it passes for no result.

    Attributes:
        hits, of: the counts.
    """

    hits: int
    of: int

    def __new__(cls, hits: int, of: int) -> Share:
        made = super().__new__(cls, hits / of if of else math.nan)
        made.hits, made.of = hits, of
        return made

    @classmethod
    def of_all(cls, right: Iterable[bool]) -> Share:
        """The share of those that are true."""
        counted = list(right)
        return cls(sum(counted), len(counted))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.hits, self.of)

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return self.hits, self.of
