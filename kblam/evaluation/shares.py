"""A share of questions, with the interval that its count supports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(hits: float, of: float, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial share; (0, 1) where there was nothing to count.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if of == 0:
        return 0.0, 1.0
    share, square = hits / of, z * z
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, centre - half), min(1.0, centre + half)


def clustered(groups: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Interval of a share pooled over groups of (hits, of) whose members stand or fall together, 95 %.

    Wilson's, of as many independent members as would scatter like the groups do: their number is told by the variance
    of the ratio estimator between groups, is never over the number of members, and is less for few groups by Student's
    t. Where all or none are hits nothing scatters, and of a single group nobody knows how much: members of one group
    then count as one.

    Source: E. L. Korn and B. I. Graubard, "Confidence intervals for proportions with small expected number of positive
    counts estimated from survey data", Survey Methodology 24 (1998); with Wilson's interval: N. Dean and M. Pagano,
    "Evaluating confidence interval methods for binomial proportions in clustered surveys", Journal of Survey
    Statistics and Methodology 3 (2015).
    """
    hits, of, count = sum(hit for hit, _ in groups), sum(size for _, size in groups), len(groups)
    if of == 0:
        return 0.0, 1.0
    share = hits / of
    independent = of * of / sum(size * size for _, size in groups)  # L. Kish: groups of unequal sizes count for fewer
    if count > 1 and 0 < hits < of:
        square = sum((hit - share * size) ** 2 for hit, size in groups)
        variance = count / (count - 1) * square / (of * of)
        # Groups that are all alike scatter less than chance would.
        independent = min(of, share * (1 - share) / variance) if variance else of
        independent *= (Z_95 / _student(count - 1)) ** 2
    return wilson(share * independent, independent)


def _student(freedom: int) -> float:
    """97.5 % point of Student's t: within 1 % from 3 degrees of freedom on.

    Source: M. Abramowitz and I. A. Stegun, "Handbook of mathematical functions" (1964), 26.7.5.
    """
    z = Z_95
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


class Share(float):
    """`hits` of `of` as a number between 0 and 1; NaN if there were none, so that it passes for no result.

    Attributes:
        hits, of: the counts.
        groups: their parts, where what was counted comes in groups that stand or fall together; empty otherwise.
    """

    hits: int
    of: int
    groups: tuple[tuple[int, int], ...]

    def __new__(cls, hits: int, of: int, groups: Sequence[tuple[int, int]] = ()) -> Share:
        made = super().__new__(cls, hits / of if of else math.nan)
        made.hits, made.of, made.groups = hits, of, tuple(groups)
        return made

    @classmethod
    def of_all(cls, right: Iterable[bool]) -> Share:
        """The share of those that are true."""
        counted = list(right)
        return cls(sum(counted), len(counted))

    @classmethod
    def pooled(cls, groups: Iterable[Iterable[bool]]) -> Share:
        """The share of those that are true in all groups together."""
        counted = [[bool(right) for right in group] for group in groups]
        parts = [(sum(group), len(group)) for group in counted if group]
        return cls(sum(hits for hits, _ in parts), sum(of for _, of in parts), parts)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval: Wilson's, or over groups (`clustered`)."""
        return clustered(self.groups) if self.groups else wilson(self.hits, self.of)

    def __getnewargs__(self) -> tuple[int, int, tuple[tuple[int, int], ...]]:  # type: ignore[override]
        return self.hits, self.of, self.groups
