"""Every stage of training runs where the model lies; calibration too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.adapter import KnowledgeAdapter
from kblam.training import calibration_run
from kblam.training.material import Material
from kblam.training.run import Trainer
from tests.elsewhere.device import Elsewhere
from tests.fakes import HashingEncoder
from tests.training.conftest import HEADS, small, small_head
from tests.training.on_device import trained_and_resumed

# Each step is as every other, and Python computes it.
FEWER: dict[str, Any] = {
    "max_steps": 4,
    "save_steps": 2,
    "eval_steps": 2,
    "retrieval_steps": 2,
    "property_steps": 2,
    "per_device_train_batch_size": 2,
}


@pytest.mark.parametrize("head", HEADS)
def test_all_stages(prepared: Callable[..., Material], tmp_path: Path, there: torch.device, head: str) -> None:
    made = prepared(**HEADS[head])
    material = dataclasses.replace(made, model=made.model.to(there))
    trained_and_resumed(small(**FEWER | HEADS[head]), material, tmp_path)


def test_a_confidence_is_learned_anew(
    prepared: Callable[..., Material], tmp_path: Path, there: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = prepared()
    trainer = Trainer(small(**FEWER), made, tmp_path / "run", say=[].append)
    trainer.fit()
    trainer.finish()
    before = KnowledgeAdapter.from_pretrained(tmp_path / "run")
    monkeypatch.setattr(calibration_run, "load_base", lambda name, **options: made.model.to(there))
    monkeypatch.setattr(calibration_run, "load_tokenizer", lambda name: made.texts.tokenizer)
    after, found = calibration_run.recalibrate(
        before, "tiny", HashingEncoder(before.config.embedding_dim), cache=tmp_path, questions=40, **small_head()
    )
    assert after.config.confidence == found.confidence
    assert all(isinstance(weight, Elsewhere) for weight in after.parameters())
