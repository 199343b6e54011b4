"""The calibration asks for properties that its judging head has not learned."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from kblam.adapter.property_head import EVERYTHING, PropertyHead
from kblam.data.open_world import build_world
from kblam.data.phrases import further
from kblam.data.phrasing import NATURAL_SHARE, is_missing, question
from kblam.data.properties import TYPED
from kblam.knowledge import Triple
from kblam.training import calibration_data, properties
from kblam.training.properties import PropertyQuestions, learn_head
from kblam.training.questions import Kind
from kblam.training.unlearned import fields, natural_questions, unlearned, with_unlearned
from kblam.training.vectors import Vectors
from tests.fakes import HashingEncoder


def test_every_fifth_field_of_the_further_properties_is_kept() -> None:
    others = len(further().keys() - TYPED.keys())
    assert len(unlearned()) == pytest.approx(others / 5, abs=12) == sum(map(len, fields()))
    assert not unlearned() & TYPED.keys()
    listed = list(further())
    for field in fields():
        assert listed.index(field[-1]) - listed.index(field[0]) < 24, "they stand beside each other"
    assert natural_questions().keys() == unlearned()
    assert all(natural_questions()[prop] == further()[prop] for prop in unlearned())


def test_many_entities_get_facts_of_one_field_and_lose_none() -> None:
    before = build_world(0, 400, 0).train
    after = with_unlearned(before, 0)
    assert after == with_unlearned(before, 0)
    assert [list(one.facts) for one in after] == [list(one.facts) for one in with_unlearned(before, 0)]
    counts = []
    for old, new in zip(before, after, strict=True):
        assert new.name == old.name
        assert {prop: new.facts[prop] for prop in old.facts} == old.facts
        added = new.facts.keys() - old.facts.keys()
        assert len([field for field in fields() if added & set(field)]) == bool(added)
        for prop in added:
            assert is_missing(prop, new.facts.keys() - {prop}), "two facts of one meaning"
            assert new.facts[prop]
        counts.append(len(added))
    assert sum(map(bool, counts)) / 400 == pytest.approx(0.6, abs=0.08)
    assert set(counts) <= set(range(6))
    assert [list(one.facts) for one in with_unlearned(before, 1)] != [list(one.facts) for one in after]


def test_the_judging_head_meets_neither_their_questions_nor_their_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = PropertyQuestions.draw(count=6000, further_share=0.9)
    of_unlearned = [drawn.properties[at] in unlearned() for at in drawn.meant]
    assert sum(of_unlearned) > 500
    assert all(kept for kept, is_one in zip(drawn.kept, of_unlearned, strict=True) if is_one)
    vectors = Vectors([*drawn.texts, *drawn.key_texts], HashingEncoder(16), tmp_path)
    keys = {row.numpy().tobytes(): at for at, row in enumerate(vectors.of(drawn.key_texts) / vectors.scale)}
    met, original = set[str](), PropertyHead.keys

    def recorded(self: PropertyHead, vectors: torch.Tensor) -> torch.Tensor:
        met.update(drawn.properties[keys[row.numpy().tobytes()]] for row in vectors)
        return original(self, vectors)

    monkeypatch.setattr(PropertyHead, "keys", recorded)
    monkeypatch.setattr(properties, "_HEADS", 1)
    learn_head(drawn, vectors, steps=40, all_phrasings=False)
    assert met >= {EVERYTHING, "phone number"}
    assert not met & unlearned()
    met.clear()
    learn_head(drawn, vectors, steps=40)
    assert met & unlearned(), "the head that is used learns them all"


def test_your_own_property_of_that_name_is_learned() -> None:
    one = sorted(unlearned())[0]
    for own, are_kept in (([one], False), ([], True)):
        drawn = PropertyQuestions.draw(own, count=60_000, further_share=0.5)
        rows = zip(drawn.meant, drawn.further, drawn.kept, strict=True)
        kept = [kept for at, is_further, kept in rows if is_further and drawn.properties[at] == one]
        assert len(kept) >= len(further()[one]) > 4
        assert all(kept) is are_kept


def test_half_of_the_questions_for_one_are_natural() -> None:
    rng, natural = random.Random(0), ("Who wrote {n}?", "{n} by whom?")
    asked = [question("author", "Anvil 3", rng, natural=natural) for _ in range(2000)]
    found = [text for text in asked if "who wrote anvil 3" in text.lower() or "anvil 3 by whom" in text.lower()]
    assert len(found) / 2000 == pytest.approx(NATURAL_SHARE, abs=0.06)
    first = [random.Random(seed) for seed in range(50)]
    again = [random.Random(seed) for seed in range(50)]
    assert [question("author", "Anvil 3", one) for one in first] == [
        question("author", "Anvil 3", one, natural=()) for one in again
    ]


def test_the_calibration_asks_for_them_unless_the_triples_are_a_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entities = build_world(0, 60, 0).train
    monkeypatch.setattr(calibration_data, "held_out_entities", lambda seed: entities)
    data = calibration_data.CalibrationData.gather(HashingEncoder(16), tmp_path, questions=400, property_questions=100)
    asked = [(one.text, *data.facts.identities[one.facts[0]]) for one in data.asked if one.kind is Kind.SINGLE]
    for_them = [(text, name, prop) for text, name, prop in asked if prop in unlearned()]
    natural = [
        text
        for text, name, prop in for_them
        if any(template.format(n=name).lower().strip("?.") in text.lower() for template in further()[prop])
    ]
    assert 0.15 < len(for_them) / len(asked) < 0.6
    assert len(natural) / len(for_them) == pytest.approx(0.5, abs=0.2)
    triples = [Triple(f"Anvil {n}", prop, "5") for n in range(9) for prop in ("price", "weight")]
    data = calibration_data.CalibrationData.gather(
        HashingEncoder(16), tmp_path, triples, questions=20, property_questions=100
    )
    assert {prop for _, prop in data.facts.identities} == {"price", "weight"}
