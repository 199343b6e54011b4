"""What a batch of stage 2 has: what an answer's tokens weigh, and rows for each forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.data.batch import IGNORE
from kblam.errors import TrainingError
from tests.training.conftest import Prepare, trainer_of


def test_the_values_count_in_full_where_no_pointer_copies_them(prepared: Prepare, tmp_path: Path) -> None:
    def batch_of(**changes: Any) -> Any:
        return trainer_of(prepared, tmp_path, **changes).builder.build(3).batch

    copied, said = batch_of(), batch_of(pointer=False)
    assert torch.equal(copied.labels, said.labels)
    changed = copied.weight != said.weight
    assert changed.any()
    assert torch.allclose(said.weight[changed], 10 * copied.weight[changed])
    tokens = (said.labels != IGNORE).sum(1, keepdim=True)
    first = torch.arange(said.labels.shape[1]) == said.first[:, None]
    others = (said.labels != IGNORE) & ~first
    assert torch.allclose(said.weight[others], (1 / tokens).expand_as(said.weight)[others]), "all others count alike"


def test_fewer_entities_than_forward_passes_are_refused_before_any_step(prepared: Prepare, tmp_path: Path) -> None:
    few: dict[str, Any] = {"train_entities": 3, "calibration_entities": 1, "gradient_accumulation_steps": 4}
    with pytest.raises(TrainingError, match=r"about \d entities in 4 forward passes a step.*train_entities"):
        trainer_of(prepared, tmp_path / "out", **few)
    assert not (tmp_path / "out").exists()
    trainer_of(prepared, tmp_path / "out", **few, max_steps=0)
