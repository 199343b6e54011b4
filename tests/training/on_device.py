"""A whole run on the device where its model lies."""

from __future__ import annotations

from pathlib import Path

import torch

from kblam.adapter import KnowledgeAdapter
from kblam.training.config import TrainingConfig
from kblam.training.estimate import estimate
from kblam.training.material import Material
from kblam.training.run import Trainer
from kblam.training.start import Measured, initialise


def trained_and_resumed(config: TrainingConfig, material: Material, folder: Path) -> None:
    """Trains an adapter through all stages, compares it with what was saved, and resumes a run that was stopped."""
    device, settings = material.model.device, material.adapter_config
    here, there = KnowledgeAdapter(settings), KnowledgeAdapter(settings).to(device)
    for adapter in (here, there):
        initialise(adapter, Measured.usual(settings, 4.0), seed=3)
    for name, weight in here.state_dict().items():
        assert torch.equal(weight, there.state_dict()[name].cpu()), name

    trainer = Trainer(config, material, folder / "run")
    assert "stage 2 takes" in estimate(trainer)
    trainer.fit()
    adapter = trainer.finish()
    assert {weight.device for weight in adapter.parameters()} == {device}
    loaded = KnowledgeAdapter.from_pretrained(folder / "run")
    for name, weight in loaded.state_dict().items():
        assert torch.isfinite(weight).all(), name
        assert torch.equal(weight, adapter.state_dict()[name].cpu()), name

    again = Trainer(config, material, folder / "again")
    again.fit(stop_after=config.save_steps)
    resumed = Trainer(config, material, folder / "again")
    resumed.fit(resume=True)
    assert resumed.resumed
