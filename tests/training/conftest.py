"""A run small enough for a test: a tiny random Llama, hashed sentence vectors, a world of a few entities."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kblam.data.open_world import build_world as _build_world
from kblam.models.loading import load_tokenizer
from kblam.shipped import DEMO
from kblam.training import calibration_data, material
from kblam.training.config import TrainingConfig
from kblam.training.material import Material, gather
from kblam.training.properties import PropertyQuestions
from kblam.training.run import Trainer
from tests.fakes import HashingEncoder
from tests.models.tiny import EMBEDDING_DIM, tiny_model

SMALL: dict[str, Any] = {
    "model": "tiny",
    "encoder": "hashing",
    "layers": [0, 2],
    "question_hidden_dim": 24,
    "prompt": "question: {question} answer:",
    "seed": 4,
    "train_entities": 60,
    "calibration_entities": 20,
    "retrieval_questions": 80,
    "retrieval_steps": 6,
    "retrieval_batch_size": 12,
    "property_questions": 200,
    "property_steps": 20,
    "calibration_questions": 40,
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "triples": 24,
    "warmup_steps": 2,
    "save_steps": 3,
    "eval_steps": 3,
    "logging_steps": 1,
    "bf16": False,
}

# After so few steps of stage 1 a refused question can have a mass within a millionth of 1, and -log(1 - mass) is then
# rounding. Curves are compared after so many that, with this seed, none is within 1e-4.
SETTLED: dict[str, Any] = {"retrieval_steps": 200}

Prepare = Callable[..., Material]

# What stages there are depends on it.
HEADS: dict[str, dict[str, Any]] = {
    "linear": {"question_head": "linear"},
    "mlp": {"question_head": "mlp"},
    "none": {"question_head": None, "retrieval_steps": 0},
}


def small_head() -> dict[str, int]:
    """What a small run says of its property head."""
    return {name: SMALL[name] for name in ("property_questions", "property_steps")}


def small(**changes: Any) -> TrainingConfig:
    """The config of a small run."""
    return TrainingConfig(**{**SMALL, **changes})


def trainer_of(prepared: Prepare, output: Path, said: list[str] | None = None, **changes: Any) -> Trainer:
    """A small run; `said` gets what it tells."""
    return Trainer(small(**changes), prepared(**changes), output, say=(said if said is not None else []).append)


# What every run draws alike is drawn once a process. Nothing changes what was drawn.
build_world = functools.cache(_build_world)
_property_questions = functools.cache(PropertyQuestions.draw)
_tokenizer = functools.cache(lambda: load_tokenizer(DEMO / "model"))


def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the small model, its tokenizer and the encoder in place of what a config names; draws few entities."""
    tokenizer = _tokenizer()

    def base(name: str, **options: Any) -> Any:
        return tiny_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)

    monkeypatch.setattr(material, "load_base", base)
    monkeypatch.setattr(material, "load_tokenizer", lambda name: tokenizer)
    monkeypatch.setattr(material, "load_encoder", lambda name, **options: HashingEncoder(EMBEDDING_DIM))
    # Drawing the thousands that come before takes seconds.
    monkeypatch.setattr(calibration_data, "held_out_entities", lambda seed: build_world(seed, 80, 0).train[60:])
    monkeypatch.setattr(material, "build_world", build_world)
    drawn = lambda own=(), **options: _property_questions(tuple(own), **options)  # noqa: E731
    monkeypatch.setattr(calibration_data.PropertyQuestions, "draw", drawn)


Trained = Callable[..., Path]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Gives the folder of an unbroken small run, made once a process; `finish` writes the adapter too.

    Tests read it, or copy it.
    """
    cache = tmp_path_factory.mktemp("vectors")

    @functools.cache
    def train(*, finish: bool = False, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("trained")
        with pytest.MonkeyPatch.context() as monkeypatch:
            stand_ins(monkeypatch)
            trainer = Trainer(small(**changes), gather(small(**changes), cache=cache), output, say=[].append)
            trainer.fit()
            if finish:
                trainer.finish()
        return output

    return train


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sentence vectors, not in the one that a run writes."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def prepared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Material]:
    """Makes the material of a small run; `changes` are the config's, `triples` the user's."""
    stand_ins(monkeypatch)

    def prepare(triples: Any = (), **changes: Any) -> Material:
        return gather(small(**changes), cache=cache, triples=triples)

    return prepare
