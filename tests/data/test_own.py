"""Questions from anybody's triples."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam.data.meaning import same_meaning
from kblam.data.own import Shares, questions_for
from kblam.errors import DataError
from kblam.knowledge.triples import Triple
from tests.knowledge.strategies import triples, unique

FACTS = [
    Triple("Project Nightjar", "lead engineer", "Ann Lee"),
    Triple("Project Nightjar", "budget", "3 euros"),
    Triple("Zorblax", "color", "pale green", question="Which paint for Zorblax?"),
]


@settings(max_examples=60, deadline=None)
@given(st.lists(triples, min_size=1, max_size=8).map(unique), st.integers(0, 2**32), st.booleans())
def test_answers_are_facts_of_the_base_and_what_is_missing_is_missing(
    known: list[Triple], seed: int, held_out: bool
) -> None:
    facts = {(triple.name, triple.property, triple.value) for triple in known}
    names = {triple.name.lower() for triple in known}
    for asked in questions_for(known, random.Random(seed), count=25, held_out=held_out):
        assert asked.text
        assert set(asked.facts) <= facts
        assert bool(asked.facts) == asked.kind.endswith(("fact", "pair", "open"))
        assert len(asked.facts) == {"fact": 1, "pair": 2}.get(asked.kind, len(asked.facts))
        if asked.kind == "entity_missing":
            assert asked.name is not None
            assert asked.name.lower() not in names
        if asked.kind == "property_missing":
            assert asked.property is not None
            own = [prop for name, prop, _ in facts if name == asked.name]
            assert own
            assert not any(same_meaning(asked.property, prop) for prop in own)


def test_every_kind_comes_up_in_its_share() -> None:
    shares = Shares(pair=0.2, open=0.1, property_missing=0.2, entity_missing=0.1)
    asked = questions_for(FACTS, random.Random(0), count=4000, shares=shares)
    for kind, share in (
        ("fact", 0.4),
        ("pair", 0.2),
        ("open", 0.1),
        ("property_missing", 0.2),
        ("entity_missing", 0.1),
    ):
        assert sum(question.kind == kind for question in asked) / 4000 == pytest.approx(share, abs=0.03)


def test_an_example_question_of_a_triple_is_used() -> None:
    asked = questions_for(FACTS, random.Random(0), count=300)
    assert any(question.text == "Which paint for Zorblax?" for question in asked)
    assert all(
        question.facts == (("Zorblax", "color", "pale green"),) for question in asked if "paint" in question.text
    )


def test_by_default_there_is_a_question_a_triple() -> None:
    assert len(questions_for(FACTS, random.Random(0))) == 3


def test_a_base_of_one_fact_has_no_pairs() -> None:
    asked = questions_for(
        FACTS[:1], random.Random(0), count=50, shares=Shares(pair=1, open=0, property_missing=0, entity_missing=0)
    )
    assert {question.kind for question in asked} == {"fact"}


def test_what_cannot_be_asked_about_is_refused() -> None:
    with pytest.raises(DataError, match="no triples"):
        questions_for([], random.Random(0))
    with pytest.raises(DataError, match="add up to more than 1"):
        questions_for(FACTS, random.Random(0), shares=Shares(pair=0.9, open=0.9))
