"""Whatever torch's default dtype is, an adapter is trained and calibrated in float32. Engines set it to the model's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.training import material
from kblam.training.estimate import estimate
from tests.training.conftest import Prepare, trainer_of


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def other_default(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, prepared: Prepare) -> Iterator[None]:
    """The default dtype is another, and the base model's is what is asked for."""
    base = material.load_base
    monkeypatch.setattr(material, "load_base", lambda name, dtype, **options: base(name, **options).to(dtype))
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("other_default")
@pytest.mark.parametrize("changes", [{}, {"question_head": None, "retrieval_steps": 0}], ids=["linear", "none"])
def test_a_run_learns_in_float32(changes: dict[str, Any], prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path / "run", **changes)
    estimate(trainer)
    trainer.fit()
    for name, value in trainer.finish().state_dict().items():
        assert value.dtype == torch.float32, name
        assert value.isfinite().all(), name
