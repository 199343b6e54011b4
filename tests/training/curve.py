"""The loss curve that a run left in its log."""

from __future__ import annotations

import json
import math
from pathlib import Path

from kblam.training.run import LOG


def losses(output: Path, stage: int = 2) -> list[float]:
    """The loss of each step of a stage."""
    lines = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    name = "loss" if stage == 2 else "retrieval"
    return [line[name] for line in lines if line["stage"] == stage and name in line]


def same_curve(one: list[float], other: list[float]) -> bool:
    """Equal at the first step but for the order of sums; later ones start from weights that are a rounding apart.

    Of a random model the mass is near 1, where `-log(1 - mass)` makes a thousandth of a rounding.
    """
    pairs = list(zip(one, other, strict=True))
    return math.isclose(*pairs[0], rel_tol=1e-6) and all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairs)
