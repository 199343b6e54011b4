"""What an answer's tokens weigh in the loss of stage 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kblam.data.batch import IGNORE
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
