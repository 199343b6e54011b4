"""Whatever torch's default dtype is, an adapter is trained and calibrated in float32. Engines set it to the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.training import material, properties
from kblam.training.estimate import estimate
from kblam.training.losses import evidence_weight
from kblam.training.questions import targets
from kblam.training.retrieval import RetrievalData
from kblam.training.start import Measured, initialise, measure
from tests.models.tiny import tiny_model
from tests.training.conftest import Prepare, trainer_of


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def other_default(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, prepared: Prepare) -> Iterator[None]:
    """The default dtype is another, and the base model's is what is asked for."""
    base = material.load_base
    monkeypatch.setattr(material, "load_base", lambda name, dtype, **options: base(name, **options).to(dtype))
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=[torch.bfloat16, torch.float64], ids=str)
def under_both(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], None]:
    """What a call gives is float32 and the same, whatever the default dtype is."""

    def compared(call: Callable[[], Any]) -> None:
        expected = call()
        torch.set_default_dtype(request.param)
        try:
            found = call()
        finally:
            torch.set_default_dtype(torch.float32)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            assert value.dtype == torch.float32 or not value.is_floating_point(), name
            assert torch.equal(found[name], value), name

    return compared


def test_what_a_step_reads_is_the_same(prepared: Prepare, tmp_path: Path, under_both: Any) -> None:
    trainer = trainer_of(prepared, tmp_path / "run")
    made = trainer.material
    data = RetrievalData(made.train, made.asked, made.vectors, size=8, virtual_triples=500, seed=0)
    under_both(lambda: vars(data.batch(3)))
    under_both(lambda: vars(trainer.builder.build(2).batch))
    place = torch.arange(len(made.train))
    under_both(lambda: {"targets": targets(made.asked, place, len(made.train))})
    batch: Any = SimpleNamespace(evidence=torch.tensor([[0, 5, 1], [0, 6, 1]]), first=torch.tensor([5]))
    under_both(lambda: {"weight": evidence_weight(batch)})


@pytest.mark.parametrize("question_head", ["linear", "mlp", None])
def test_training_starts_from_the_same(question_head: Any, under_both: Any) -> None:
    model = tiny_model()
    hidden = 8 if question_head == "mlp" else 0
    config = AdapterConfig.for_model(model.config, 16, question_head=question_head, question_hidden_dim=hidden)

    def measured() -> dict[str, torch.Tensor]:
        return {str(layer): lse for layer, lse in measure(model, config, [[5, 6, 7], [9]]).prompt_lse.items()}

    def started() -> dict[str, torch.Tensor]:
        adapter = KnowledgeAdapter(config).float()
        initialise(adapter, Measured.usual(config, 1.7), seed=3)
        return {name: weight for name, weight in adapter.state_dict().items() if "down" not in name}

    under_both(measured)
    under_both(started)


def test_property_heads_are_learned_in_float32(under_both: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    keys, questions = (torch.randn(count, 16, generator=draw, dtype=torch.float32) for count in (12, 30))
    meant, further = torch.arange(30) % 12, torch.arange(30) % 3 == 0
    under_both(lambda: {"weights": properties._weights(further)})

    def learned() -> dict[str, torch.Tensor]:
        always = torch.ones(12, dtype=torch.bool)
        head = properties._learned(keys, questions, meant, properties._weights(further), always, 2, layers=0)
        mean = properties._mean([head, head], keys, questions)
        adapter = properties.with_head(KnowledgeAdapter(AdapterConfig(16, 32, 2, 2, 16)).float(), mean)
        return {name: torch.tensor(weight.dtype == torch.float32) for name, weight in adapter.state_dict().items()}

    under_both(learned)
    assert all(learned().values())


@pytest.mark.usefixtures("other_default")
@pytest.mark.parametrize("changes", [{}, {"question_head": None, "retrieval_steps": 0}], ids=["linear", "none"])
def test_a_run_learns_in_float32(changes: dict[str, Any], prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path / "run", **changes)
    estimate(trainer)
    trainer.fit()
    for name, value in trainer.finish().state_dict().items():
        assert value.dtype == torch.float32, name
        assert value.isfinite().all(), name
