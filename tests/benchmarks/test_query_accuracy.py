"""What query heads in fewer bytes cost, on the tests' model: its query heads alone find a triple."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import nn

from benchmarks import query_accuracy
from kblam.adapter import KnowledgeAdapter
from tests.models.tiny import tiny_adapter, tiny_model


def heads(adapter: KnowledgeAdapter) -> list[torch.Tensor]:
    return [cast(nn.Linear, head).weight for head in adapter.query_heads.values()]


def test_a_rank_is_that_of_the_nearest_matrix() -> None:
    adapter = tiny_adapter(tiny_model())
    before = [weight.clone() for weight in heads(adapter)]
    full = min(before[0].shape)
    for rank in (0, 3, full):
        near = heads(query_accuracy.low_rank(adapter, rank))
        assert [int(torch.linalg.matrix_rank(weight)) for weight in near] == [rank] * len(near)
        for weight, exact in zip(near, before, strict=True):
            lost = torch.linalg.svdvals(exact.double())[rank:].norm()
            assert (weight - exact).double().norm().item() == pytest.approx(lost.item(), abs=1e-5)
    assert all(torch.equal(weight, exact) for weight, exact in zip(heads(adapter), before, strict=True))


def test_the_bytes_of_a_head() -> None:
    adapter = tiny_adapter(tiny_model())
    outputs, inputs = heads(adapter)[0].shape
    found = [query_accuracy.head_bytes(adapter, way, 2) for way in ("full", "int8", "rank 3")]
    assert found == [2 * outputs * inputs, outputs * inputs + 2 * outputs, 2 * 3 * (outputs + inputs)]


def test_the_command_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "rows.json"
    query_accuracy.main(["--tiny", "--sizes", "20", "--questions", "6", "--ranks", "0", "--json", str(report)])
    full, int8, none = json.loads(report.read_text())["rows"]
    assert (full["query heads"], int8["query heads"], none["query heads"]) == ("full", "int8", "rank 0")
    assert full["exact"] == int8["exact"] == 1
    assert none["exact"] == 0
    assert full["answers_changed"] == int8["answers_changed"] == 0 < none["answers_changed"]
    assert "| 20 | full |" in capsys.readouterr().out
