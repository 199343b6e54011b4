"""The loss curve that a run left in its log."""

from __future__ import annotations

import json
import math
from pathlib import Path

from kblam.training.checkpoints import LOG


def losses(output: Path, stage: int = 2) -> list[float]:
    """The loss of each step of a stage."""
    lines = [json.loads(line) for line in (output / LOG).read_text().splitlines()]
    name = "loss" if stage == 2 else "retrieval"
    return [line[name] for line in lines if line["stage"] == stage and name in line]


def same_curve(one: list[float], other: list[float]) -> bool:
    """Equal but for the order of sums."""
    return all(math.isclose(a, b, rel_tol=1e-5) for a, b in zip(one, other, strict=True))
