"""The user's own triples as training sees them: facts known by another word, and key texts of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.data.open_world import build_world
from kblam.knowledge import Triple
from kblam.training import calibrate
from kblam.training.calibration_data import entities_of
from kblam.training.material import Material
from kblam.training.questions import Facts
from kblam.training.retrieval import RetrievalData
from kblam.training.run import Trainer
from tests.training.conftest import small

OWN = [
    Triple(f"Machine {number}", prop, f"{prop} {number}")
    for number in range(12)
    for prop in ("engineer", "lead engineer", "torque")
]


@pytest.fixture
def material(prepared: Callable[..., Material]) -> Material:
    return prepared(triples=OWN)


def check_hidden(facts: Facts, hidden: Collection[int], seen: set[int]) -> None:
    """What is hidden is hidden by every word; notes how many facts were."""
    assert hidden == {other for fact in hidden for other in facts.alike(fact)}
    seen.add(len(hidden))


def test_facts_of_one_meaning_are_found() -> None:
    facts = Facts(build_world(4, 2000, 0).train)
    assert all(facts.alike(fact) == [fact] for fact in range(len(facts))), "an invented thing has none"


def test_a_name_in_another_case_answers_too() -> None:
    named = (("Oak", "height"), ("Elm", "height"), ("oak", "heights"), ("oak", "use"), ("Oak tree", "height"))
    facts = Facts(entities_of([Triple(name, prop, "9 m") for name, prop in named]))
    assert [facts.alike(fact) for fact in range(5)] == [[0, 2], [1], [0, 2], [3], [4]]
    assert [facts.of_name(entity) for entity in range(4)] == [[0, 2, 3], [1], [0, 2, 3], [4]]


def test_no_question_of_a_calibration_sees_its_hidden_name_in_another_case(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = prepared(triples=[*OWN[:3], Triple("MACHINE 0", "torque", "9 Nm")])
    given, real = list[Any](), calibrate.candidates
    monkeypatch.setattr(calibrate, "candidates", lambda *all_: (given.extend(all_[-1]), real(*all_))[1])
    Trainer(small(), material, tmp_path, say=[].append).finish()
    assert set(map(len, given)) == {0, 2, 4}


def test_no_row_sees_its_hidden_name_in_another_case(prepared: Callable[..., Material], tmp_path: Path) -> None:
    material = prepared(triples=[*OWN[:3], Triple("MACHINE 0", "torque", "9 Nm")])
    builder = Trainer(small(), material, tmp_path, say=[].append).checker
    hidden = {int((bias == -math.inf).sum()) for step in range(60) for bias in builder.build(step).batch.bias}
    assert hidden == {0, 2, 4}
    facts, vectors = material.calibration.facts, material.calibration.vectors
    single = [one for one in material.calibration.asked if len(one.facts) == 1]
    stage_one = RetrievalData(facts, single, vectors, size=12, virtual_triples=100, seed=0)
    assert {int((bias < -1e8).sum()) for step in range(20) for bias in stage_one.batch(step).bias} == {0, 2, 4}


def test_no_row_of_a_batch_sees_its_hidden_fact_by_another_word(material: Material, tmp_path: Path) -> None:
    builder, facts = Trainer(small(), material, tmp_path, say=[].append).checker, material.checks
    of_key, seen = {int(row): fact for fact, row in enumerate(builder._key_rows)}, set[int]()
    for step in range(40):
        batch = builder.build(step).batch
        for bias in batch.bias:
            check_hidden(facts, {of_key[int(row)] for row in batch.key_rows[bias == -math.inf]}, seen)
    assert seen == {0, 1, 2, 3}


def test_no_row_of_stage_one_sees_its_hidden_fact_by_another_word(material: Material) -> None:
    data, seen = material.calibration, set[int]()
    single = [one for one in data.asked if len(one.facts) == 1]
    retrieval = RetrievalData(data.facts, single, data.vectors, size=12, virtual_triples=100, seed=0)
    every = data.vectors.of(data.facts.key_texts)
    for step in range(20):
        batch = retrieval.batch(step)
        of_column = (batch.keys[:, None] == every).all(-1).int().argmax(-1)
        for bias in batch.bias:
            check_hidden(data.facts, set(of_column[bias < -1e8].tolist()), seen)
    assert seen == {0, 1, 2, 3}


def test_no_question_of_a_calibration_sees_its_hidden_fact_by_another_word(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    real, seen = calibrate.candidates, set[int]()
    monkeypatch.setattr(calibrate, "candidates", lambda *all_: (given.extend(all_[-1]), real(*all_))[1])
    Trainer(small(), material, tmp_path, say=[].append).finish()
    for hidden in given:
        check_hidden(material.calibration.facts, set(hidden), seen)
    assert seen == {0, 1, 2, 3}


def test_key_texts_of_their_own_are_those_that_are_learned(prepared: Callable[..., Material]) -> None:
    own = [Triple("Machine 77", "torque", "9 Nm", key_string="how strongly it turns"), *OWN]
    material = prepared(triples=own)
    texts = [triple.key_text for triple in own]
    assert material.checks.key_texts == material.calibration.facts.key_texts
    assert sorted(material.checks.key_texts) == sorted(texts)
    assert set(texts) <= set(material.train.key_texts)
    for vectors in (material.vectors, material.calibration.vectors):
        expected = torch.from_numpy(material.encoder.encode(texts[:1])).half().float() * vectors.scale
        torch.testing.assert_close(vectors.of(texts[:1]), expected)
