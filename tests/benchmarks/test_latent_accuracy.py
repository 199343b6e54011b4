"""The cost of storing latents, measured on toy shapes: the order is known, and so is what costs nothing."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch

from benchmarks import latent_accuracy
from kblam_kernels.common import native


@pytest.fixture(scope="module")
def rows() -> dict[tuple[str, str], latent_accuracy.Error]:
    data = latent_accuracy.draw(50, 2.0, width=24, heads=4)
    return {(row.dtype, row.storage): row for row in latent_accuracy.errors(data, "peaked", ("reference",))}


def test_fewer_bits_cost_more(rows: dict[tuple[str, str], latent_accuracy.Error]) -> None:
    names = ("float32", "float16", "bfloat16", "int8", "float8_e4m3fn")
    stored = [rows["float32", name].stored for name in names]
    assert stored == sorted(stored)
    assert stored[0] < 1e-5 < stored[1] < stored[2] < stored[3] < stored[4] < 0.3
    assert len(rows) == 3 * 5 - 2  # float32 latents are for float32 models


def test_the_kernel_error_does_not_hold_the_cost_of_storing(rows: dict[tuple[str, str], latent_accuracy.Error]) -> None:
    for (dtype, storage), row in rows.items():
        assert row.backend == "reference"
        assert row.kernel < 50 * torch.finfo(getattr(torch, dtype)).eps, storage


def test_int8_products_are_rows_of_their_own() -> None:
    if native.unavailable():
        pytest.skip("no C++ kernels here")
    data = latent_accuracy.draw(300, 2.0, width=64, heads=4)
    rows = [row for row in latent_accuracy.errors(data, "flat", ("cpu",)) if row.storage == "int8"]
    assert [(row.dtype, row.products) for row in rows] == [
        (dtype, products) for dtype in ("float32", "float16", "bfloat16") for products in ("exact", "int8")
    ]
    for exact, rounded in zip(rows[::2], rows[1::2], strict=True):
        assert rounded.stored < 5 * exact.stored + 0.02


def test_the_command_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "rows.json"
    latent_accuracy.main(["--tokens", "3", "--backends", "reference", "--json", str(report)])
    assert len(json.loads(report.read_text())["rows"]) == 2 * 13
    assert "| reference | float32 | int8 | exact |" in capsys.readouterr().out


def test_backends_that_cannot_run_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(native.BUILD_VARIABLE, "0")
    monkeypatch.setattr(latent_accuracy, "draw", functools.partial(latent_accuracy.draw, width=24, heads=4))
    with pytest.raises(SystemExit, match="2"):
        latent_accuracy.main(["--tokens", "3", "--backends", "cpu"])
    assert "--backends: cpu cannot run here" in capsys.readouterr().err
