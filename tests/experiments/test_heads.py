"""The questions that judge property heads, and how they are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import heads
from kblam.adapter.property_head import PropertyHead
from kblam.data.phrases import further
from kblam.knowledge.triples import key_text
from kblam.training.properties import PropertyQuestions
from kblam.training.vectors import Vectors
from tests.fakes import HashingEncoder


def test_every_table_has_its_questions_once() -> None:
    found = heads.tables()
    assert [len(properties) for properties in found.values()] == [12] * 20
    for properties in found.values():
        questions = [question for asked in properties.values() for question in asked]
        assert len(questions) == len(set(questions)) == 48
        assert not any("{" in question or question.startswith("#") for question in questions)


def test_what_training_has_word_for_word_is_not_counted() -> None:
    template = further()["employer"][0]
    known, new = template.replace("{n}", "it"), "Which firm's logo is on the badge that it wears?"
    assert heads.unlearned({"one": {"employer": [known.upper(), new]}}) == {"one": {"employer": [new]}}
    left = [
        text for of_table in heads.unlearned(heads.tables()).values() for asked in of_table.values() for text in asked
    ]
    assert 700 < len(left) < 960


def test_hits_are_of_the_table_s_own_properties(tmp_path: Path) -> None:
    found = {
        "one": {"age": ["the age of it"], "size": ["the age of it"]},
        "two": {"size": ["the size of it"], "id": ["x"]},
    }
    texts = [text for table in found.values() for asked in table.values() for text in asked]
    vectors = Vectors([*texts, *(key_text("it", prop) for prop in ("age", "size", "id"))], HashingEncoder(16), tmp_path)
    torch.manual_seed(0)
    head = PropertyHead(16, 8)
    head.property.weight.data.copy_(head.question.weight)
    rows = list(heads.hits(head, vectors, found))
    assert [row[0] for row in rows] == ["age", "size", "size", "id"]
    assert [row[1] for row in rows[:3]] == [True, False, True]
    keys = head.keys(vectors.of(["the age of it", "the size of it"]))
    assert rows[1][2] == pytest.approx(float(head.log_shares(vectors.of(["the age of it"]), keys)[0, 1]))


def test_near_properties_are_told_apart_or_not(tmp_path: Path) -> None:
    drawn = PropertyQuestions(
        ("everything", "latitude", "longitude", "age"),
        ("what of it", "lat", "lat", "lon", "old"),
        (0, 1, 1, 2, 3),
        (False,) * 5,
        (False,) * 5,
    )
    vectors = Vectors([*drawn.texts, *drawn.key_texts], HashingEncoder(16), tmp_path)

    class Given(PropertyHead):
        """Scores that do not depend on the vectors."""

        def forward(self, questions: torch.Tensor, keys: torch.Tensor, *, dropout: float = 0.0) -> torch.Tensor:
            return torch.tensor([0.0, 1.0, 0.5, 9.0]).expand(len(questions), -1)

    assert heads.ahead_of_near(Given(16, 8), vectors, drawn) == (2, 3), "age has no near one here, everything none"
