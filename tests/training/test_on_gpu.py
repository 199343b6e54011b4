"""A whole run on a GPU, the default device where there is one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kblam.adapter import KnowledgeAdapter
from kblam.training.estimate import estimate
from kblam.training.material import Material
from kblam.training.run import Trainer
from kblam.training.start import initialise
from tests.training.conftest import small

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("question_head", ["linear", "mlp", None])
def test_all_stages_run_where_the_model_is(
    prepared: Callable[..., Material], tmp_path: Path, question_head: str | None
) -> None:
    changes = {"question_head": question_head, **({} if question_head else {"retrieval_steps": 0})}
    made = prepared(**changes)
    material = dataclasses.replace(made, model=made.model.to("cuda"))
    lse = {layer: torch.full((made.adapter_config.num_heads,), 4.0) for layer in made.adapter_config.knowledge_layers}
    here, there = KnowledgeAdapter(made.adapter_config), KnowledgeAdapter(made.adapter_config).to("cuda")
    for adapter in (here, there):
        initialise(adapter, lse, seed=3)
    for name, weight in here.state_dict().items():
        assert torch.equal(weight, there.state_dict()[name].cpu()), name

    trainer = Trainer(small(**changes), material, tmp_path / "run")
    assert "stage 2 takes" in estimate(trainer)
    trainer.fit()
    adapter = trainer.finish()
    assert {weight.device.type for weight in adapter.parameters()} == {"cuda"}
    loaded = KnowledgeAdapter.from_pretrained(tmp_path / "run")
    for name, weight in loaded.state_dict().items():
        assert torch.isfinite(weight).all(), name
        assert torch.equal(weight, adapter.state_dict()[name].cpu()), name

    again = Trainer(small(**changes), material, tmp_path / "again")
    again.fit(stop_after=3)
    resumed = Trainer(small(**changes), material, tmp_path / "again")
    resumed.fit(resume=True)
    assert resumed.resumed
