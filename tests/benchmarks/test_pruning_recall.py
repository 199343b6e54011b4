"""The recall table: its arithmetic on attention whose masses are known, and one walk through the demo model."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import pruning_recall
from kblam_kernels import DenseKnowledge


def test_recall_is_the_mass_of_the_chosen_over_that_of_the_best() -> None:
    # Two heads. The sum of scores ranks token 0 first; by mass, a sum of exponentials, it is token 1.
    query, key = torch.ones(1, 2, 1, 1), torch.tensor([[[1.0], [3.0]], [[1.5], [-2.0]]])
    recorder = pruning_recall.Recorder()
    lse = torch.zeros(1, 2, 1)
    recorder(query=query, knowledge=DenseKnowledge(key, key), lse=lse, scale=1.0, bias=0.0, knowledge_range=None)
    masses = key.exp().sum((0, 2))
    rows = {row.k: row for row in recorder.rows(2)}
    assert rows[1].phase == "answer"
    assert rows[1].recall == pytest.approx((masses[0] / masses[1]).item())
    assert rows[1].keeps_the_best == 0
    assert rows[1].share_of_attention == pytest.approx(masses[0].item() / 2)
    assert (rows[4].recall, rows[4].keeps_the_best) == (pytest.approx(1.0), 1)


def test_a_small_table_of_the_demo_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning_recall, "ANSWER_TOKENS", 2)
    assert pruning_recall.main(["--triples", "40", "--questions", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["phase"], row["k"]) for row in rows} == {
        (phase, k) for phase in ("answer", "prompt") for k in pruning_recall.KEPT
    }
    assert all(0 < row["recall"] <= 1 + 1e-5 for row in rows)
