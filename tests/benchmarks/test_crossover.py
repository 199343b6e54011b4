"""Predicted and measured crossovers: the benchmark runs, and reads its points right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import crossover
from benchmarks.crossover import SHAPES, Point
from kblam_kernels.plan.workload import MODELS


def test_it_times_every_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "points.json"
    arguments = ["--triples", "50", "--queries", "1", "3", "--shapes", "demo model", "--json", str(file)]
    crossover.main(arguments)
    points = json.loads(file.read_text())["points"]
    assert [(p["path"], p["queries"]) for p in points] == [
        (path, queries) for queries in (1, 3) for path in ("latent", "dense", "materialise")
    ]
    assert all(p["measured"] > 0 < p["predicted"] for p in points)
    assert all((p["shape"], p["triples"]) == ("demo model", 50) for p in points), "a row says what it is of"
    assert "dense is quicker than latent from" in capsys.readouterr().out


def test_the_planners_models_are_measured() -> None:
    assert list(SHAPES) == ["demo model", *(model.title for model in MODELS.values())]
    phi = SHAPES["Phi-3-mini"]
    assert (phi.num_heads, phi.head_dim, phi.layers) == (32, 96, 11)


def test_a_crossover_holds_from_there_on() -> None:
    dense = {1: 3.0, 2: 1.0, 4: 5.0, 8: 2.0, 16: 2.0}
    points = [Point("s", 9, "latent", n, predicted=4.0, measured=4.0 * (n > 8)) for n in dense]
    points += [Point("s", 9, "dense", n, predicted=ms, measured=3.0) for n, ms in dense.items()]
    assert crossover.crossover(points, "dense", predicted=True) == 8, "at 4 it is slower again"
    assert crossover.crossover(points, "dense", predicted=False) == 16
    never = [*points[:8], *(Point("s", 9, "dense", n, predicted=9.0, measured=9.0) for n in (8, 16))]
    assert crossover.crossover(never, "dense", predicted=True) is None
