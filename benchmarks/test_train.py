"""A step of each training stage, from drawing its batch to the optimizer: `pytest benchmarks/test_train.py
--benchmark-only --triples 100,1K`.

The demo's tiny model, whose steps take milliseconds: what is timed is the trainer's own work. Sentence vectors are
random. --triples is the knowledge base of a batch of stage 2; stage 1 draws its own sizes, a new one each step.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import suite
from benchmarks.conftest import words
from benchmarks.test_build import RandomVectors
from kblam.bench.cases import count_of
from kblam.models import attach, detach
from kblam.shipped import DEMO

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'kblam-kernels[train]'")

from kblam.training import material
from kblam.training.config import TrainingConfig
from kblam.training.language import Learner, counts_of, total_loss
from kblam.training.retrieval import retrieval_losses
from kblam.training.run import Trainer
from kblam.training.start import Measured

# What the prompt weighs, which no time depends on.
PROMPT_LSE = 4.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "triples" in metafunc.fixturenames:
        option = metafunc.config.option
        counts = [count_of(text) for text in words(option.triples) or ["120"]]
        metafunc.parametrize("triples", counts, ids=lambda M: f"M{M}")


@functools.lru_cache(maxsize=1)
def trainer(triples: int, device: str) -> Trainer:
    """Of the tiny model over a synthetic world with entities enough for such a batch."""
    config = TrainingConfig(
        model=str(DEMO / "model"),
        layers=(2,),
        prompt="question: {question} answer:",
        train_entities=max(200, triples),
        calibration_entities=40,
        retrieval_questions=400,
        property_questions=10,
        calibration_questions=40,
        triples=max(1, triples),
        bf16=False,
    )
    stand_in = mock.patch.object(material, "load_encoder", return_value=RandomVectors())
    with tempfile.TemporaryDirectory() as cache, stand_in:
        made = material.gather(config, cache=Path(cache), device=device)
    return Trainer(config, made, Path("unused"), say=lambda text: None)


def timed(
    benchmark: BenchmarkFixture,
    group: str,
    step: Callable[[], None],
    made: Trainer,
    *,
    triples: int | None,
    rows: int,
    device: str,
) -> None:
    benchmark.group = group
    benchmark.extra_info |= {
        "implementation": "kblam",
        "triples": triples,
        "rows": rows,
        "learned_weights": sum(weight.numel() for weight in made.adapter.parameters()),
    }
    suite.with_peak(benchmark, step, device)


def test_stage_one(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """Questions against facts, without the language model."""
    device = request.config.option.device
    made = trainer(120, device)
    data, config = made.retrieval_data(), made.adapter.config
    measured = Measured.usual(config, PROMPT_LSE)
    optimizer = torch.optim.AdamW(made.adapter.parameters(), lr=1e-4)
    steps = itertools.count()

    def step() -> None:
        batch = data.batch(next(steps))
        lse = torch.full((len(config.knowledge_layers), config.num_heads, len(batch.question)), PROMPT_LSE)
        retrieval, refusal = retrieval_losses(made.adapter, batch, lse, measured.scale, bf16=False)
        optimizer.zero_grad(set_to_none=True)
        (retrieval + refusal).backward()
        optimizer.step()

    timed(benchmark, "train stage 1", step, made, triples=None, rows=data.size, device=device)


def test_stage_two(triples: int, benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> None:
    """Questions with their answers, through the frozen model and back."""
    device = request.config.option.device
    made = trainer(triples, device)
    model = made.material.model
    learner = Learner(made.adapter, attach(model, made.adapter.train(), trainable=True))
    optimizer = torch.optim.AdamW(made.adapter.parameters(), lr=1e-4)
    steps = itertools.count()

    def step() -> None:
        asked = made.builder.build(next(steps))
        found = learner(*made.inputs(asked, 0, 1))
        optimizer.zero_grad(set_to_none=True)
        total_loss(found, counts_of(asked.batch)).backward()
        torch.nn.utils.clip_grad_norm_(made.adapter.parameters(), 1.0)
        optimizer.step()

    timed(benchmark, f"train stage 2 M{triples}", step, made, triples=triples, rows=made.rows, device=device)
    detach(model)
