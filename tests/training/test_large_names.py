"""A name with very many properties: what it costs stays bounded, and small names are drawn as without the bound."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.data.batch import IGNORE
from kblam.data.entities import Entity
from kblam.models import attach, detach
from kblam.training import calibrate, questions
from kblam.training.batches import BatchBuilder
from kblam.training.material import Material
from kblam.training.questions import Asked, Facts, Kind, draw_questions
from kblam.training.retrieval import RetrievalData
from kblam.training.run import Trainer
from kblam.training.vectors import Vectors
from tests.fakes import HashingEncoder
from tests.training.conftest import small

LARGE = Entity("Registry", {f"entry {n}": f"value {n}" for n in range(2000)})
FACTS = Facts([LARGE, *(Entity(f"Tool {n}", {"color": "red", "weight": f"{n} kg"}) for n in range(30))])


@pytest.fixture
def vectors(tmp_path: Path) -> Callable[..., Vectors]:
    return lambda *texts: Vectors([*FACTS.key_texts, *FACTS.values, *texts], HashingEncoder(16), tmp_path, None)


def test_a_batch_of_stage_one_has_a_part_of_a_large_name(vectors: Callable[..., Vectors]) -> None:
    single = [Asked(f"single {fact}", Kind.SINGLE, (fact,)) for fact in range(0, 2000, 100)]
    asked = [*single, Asked("all", Kind.OPEN, tuple(FACTS.of_entity(0))), Asked("color", Kind.SINGLE, (2000,))]
    data = RetrievalData(
        FACTS, asked, vectors(*(one.text for one in asked)), size=len(asked), virtual_triples=100, seed=0
    )
    hidden = 0
    for step in range(6):
        batch = data.batch(step)
        assert batch.keys.shape[0] <= questions.MOST_OF_ENTITY + 60
        sums = batch.wanted.sum(1)
        assert ((sums - 1).abs() < 1e-4).logical_or(sums == 0).all(), "each fact that is asked for is there"
        assert (batch.bias[batch.wanted > 0] == 0).all()
        hidden += int(((batch.bias < -1e8).sum(1) == 1).sum())
    assert hidden, "and may be hidden alone"


def test_a_batch_of_stage_two_has_a_part_of_a_large_name(prepared: Callable[..., Material], vectors: Any) -> None:
    builder = BatchBuilder(
        FACTS, vectors(), prepared().texts, rows=31, triples=100, unanswerable=0.5, virtual_triples=100, seed=0
    )
    for step in range(6):
        batch = builder.build(step).batch
        assert batch.key_rows.shape[0] <= questions.MOST_OF_ENTITY + 60
        assert (batch.bias == -math.inf).any(1).sum() > 3


def test_a_value_of_any_length_makes_no_row_longer_than_its_first_words(
    prepared: Callable[..., Material], tmp_path: Path
) -> None:
    values = ["red", "a " * 60, "a " * 5000]
    facts = Facts([Entity(f"Tool {n}", {"color": value}) for n, value in enumerate(values)])
    vectors = Vectors([*facts.key_texts, *facts.values], HashingEncoder(16), tmp_path, None)
    texts = prepared().texts
    builder = BatchBuilder(facts, vectors, texts, rows=3, triples=3, unanswerable=0.0, virtual_triples=3, seed=0)
    seen = set[bool]()
    for step in range(6):
        asked = builder.build(step)
        batch = asked.batch
        assert batch.input_ids.shape[1] < 200
        assert int(batch.evidence[:, 1].max()) < batch.input_ids.shape[1]
        for line, (labels, asks) in enumerate(zip(batch.labels, asked.questions, strict=True)):
            if len(set(batch.evidence[batch.evidence[:, 0] == line][:, 2].tolist())) > 1:
                continue  # a question about two
            is_long = "tool 2" in asks.lower()
            ends = int(labels[labels != IGNORE][-1]) == texts.end_id
            assert ends is not is_long, "what is cut is a beginning of the answer, and none that ends"
            seen.add(is_long)
    assert seen == {True, False}


def test_small_names_are_drawn_as_without_a_bound(vectors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    few = Facts(FACTS.entities[1:])
    asked = draw_questions(few, 60, 0)
    data = RetrievalData(few, asked, vectors(*(one.text for one in asked)), size=20, virtual_triples=100, seed=0)
    before = data.batch(3)
    monkeypatch.setattr(questions, "MOST_OF_ENTITY", 10**9)
    for one, other in zip(vars(before).values(), vars(data.batch(3)).values(), strict=True):
        assert torch.equal(one, other)
    rng = random.Random(0)
    assert FACTS.part_of(1, rng) == FACTS.of_entity(1)
    assert rng.random() == random.Random(0).random(), "nothing is drawn"


def test_a_calibration_looks_at_as_many_triples_of_a_name_as_a_question_does(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, given = Trainer(small(), prepared(), tmp_path, say=[].append), list[Any]()
    real = calibrate.candidates
    monkeypatch.setattr(calibrate, "candidates", lambda *all_: (given.extend(all_[-2]), real(*all_))[1])
    monkeypatch.setattr(calibrate, "MOST_OF_NAME", 3)
    trainer.finish()
    assert max(map(len, given)) == 3


def test_what_is_hidden_is_looked_up_and_not_searched_for_each_triple(prepared: Callable[..., Material]) -> None:
    """Name after name with 20,000 properties, that was hours."""

    class Hidden(tuple[int, ...]):
        def __contains__(self, place: object) -> bool:
            pytest.fail("it is searched")

    material = prepared()
    trainer = Trainer(small(), material, Path("nowhere"), say=[].append)
    attachment = attach(material.model, trainer.adapter)
    try:
        vectors = torch.randn(6, material.adapter_config.embedding_dim)
        knowledge = trainer.adapter.project(vectors, vectors)
        found = calibrate.candidates(attachment, knowledge, [[5, 6, 7]], vectors[:1], [[0, 1]], [Hidden((1,))])
    finally:
        detach(material.model)
    assert 1 not in {place for place, _ in found[0]}
