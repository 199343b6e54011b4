"""How questions are asked: of every kind, never of a held-out phrasing in training, never missing what is known."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam.data import drawing
from kblam.data.entities import Entity
from kblam.data.loose import LOOSE
from kblam.data.meaning import near_properties, same_meaning
from kblam.data.open_world import build_world
from kblam.data.phrases import phrases, specific
from kblam.data.phrasing import (
    general_questions,
    is_missing,
    open_question,
    pair_question,
    question,
)
from kblam.data.properties import TYPED
from kblam.errors import DataError

WORLD = build_world(1, 150, 150)
KINDS = {"one": 180, "open": 65, "pair": 60, "one_entity": 45, "one_property": 30}
SMALL = {"joints": 15, "openings": 70, "closings": 55, "general": 350}


def _words(text: str) -> str:
    return " ".join(re.findall(r"[\w{}]+", text.lower()))


@pytest.mark.parametrize("kind", [*KINDS, *SMALL])
def test_held_out_phrasings_are_apart(kind: str) -> None:
    seen, held_out = phrases(kind)
    assert len(set(seen)) == len(seen) >= {**KINDS, **SMALL}[kind]
    assert not {text.lower() for text in seen} & {text.lower() for text in held_out}
    assert len(held_out) >= (2 if kind in ("joints", "closings", "openings", "one_property") else 10)


@pytest.mark.parametrize("kind", KINDS)
def test_each_template_has_its_places_once_or_more(kind: str) -> None:
    wanted = {
        "one": ["{n}", "{p}"],
        "open": ["{n}"],
        "pair": ["{n1}", "{p1}", "{n2}", "{p2}"],
        "one_entity": ["{n1}", "{p1}", "{p2}"],
        "one_property": ["{n1}", "{n2}", "{p1}"],
    }[kind]
    for text in (*phrases(kind).seen, *phrases(kind).held_out):
        assert all(place in text for place in wanted), text
        text.format(n="", p="", n1="", n2="", p1="", p2="")


def test_every_typed_property_has_its_own_questions() -> None:
    assert set(specific()) == set(TYPED)
    asked: dict[str, str] = {}
    for prop, (seen, held_out) in specific().items():
        assert len(seen) >= 8
        assert len(held_out) >= 2
        assert not {*map(_words, seen)} & {*map(_words, held_out)}
        for text in (*seen, *held_out):
            assert "{n}" in text
            assert text.format(n="Amber") != text
            assert asked.setdefault(_words(text), prop) == prop, f"{text} asks for two properties"


def test_loose_questions_are_for_typed_properties() -> None:
    assert all(prop in TYPED for properties in LOOSE.values() for prop in properties)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WORLD.test), st.integers(0, 2**32), st.booleans())
def test_a_question_holds_the_name(entity: Entity, seed: int, held_out: bool) -> None:
    rng = random.Random(seed)
    for prop in entity.facts:
        assert entity.name.lower() in question(prop, entity.name, rng, held_out).lower()
    assert entity.name.lower() in open_question(entity.name, rng, held_out).lower()


def test_the_same_seed_asks_the_same_question() -> None:
    asked = [question("founder", "Amber Falcon", random.Random(7)) for _ in range(2)]
    assert asked[0] == asked[1]


def test_training_never_draws_a_held_out_phrasing() -> None:
    """Whatever is typed around it, in whatever case and with or without a stop."""
    rng = random.Random(0)
    seen, unseen = (
        {question("founder", "X Y", rng, held_out).casefold().rstrip("?.! ") for _ in range(4000)}
        for held_out in (False, True)
    )
    assert len(seen) > 500
    for text in (*phrases("one").held_out, *specific()["founder"].held_out):
        wanted = text.format(p="founder", n="X Y").casefold().rstrip("?.! ")
        assert any(wanted in asked for asked in unseen), text
    assert not seen & unseen


def test_questions_are_typed_carelessly_now_and_then() -> None:
    rng = random.Random(0)
    asked = [question("founder", "Amber Falcon", rng) for _ in range(2000)]
    lower = sum(text == text.lower() for text in asked)
    bare = sum(text[-1].isalpha() for text in asked)
    assert 60 < lower < 400
    assert 100 < bare < 600
    assert any(text == text.upper() for text in asked)


def test_a_loose_question_is_asked_only_where_it_is_clear() -> None:
    rng = random.Random(0)
    loose = "Who leads X?"
    alone = [question("lead engineer", "X", rng, others=["lead engineer", "budget"]) for _ in range(1500)]
    beside = [question("lead engineer", "X", rng, others=["lead engineer", "head"]) for _ in range(1500)]
    plain = [question("lead engineer", "X", rng) for _ in range(1500)]
    assert loose in alone
    assert loose not in beside
    assert loose not in plain


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WORLD.test), st.sampled_from(WORLD.test), st.integers(0, 2**32), st.booleans())
def test_a_pair_names_both_facts(first: Entity, second: Entity, seed: int, held_out: bool) -> None:
    rng = random.Random(seed)
    one = first.name, rng.choice(list(first.facts))
    two = second.name, rng.choice([prop for prop in second.facts if (second.name, prop) != one])
    text = pair_question(one, two, rng, held_out).lower()
    assert first.name.lower() in text
    assert second.name.lower() in text


def test_a_pair_of_one_fact_is_refused() -> None:
    with pytest.raises(DataError, match="needs two, got the p of N twice"):
        pair_question(("N", "p"), ("N", "p"), random.Random(0))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(WORLD.test), st.integers(0, 2**32))
def test_no_word_for_a_known_property_counts_as_missing(entity: Entity, seed: int) -> None:
    missing = drawing._missing(entity, WORLD.test_properties, random.Random(seed), take_out=False)
    assert missing in WORLD.test_properties
    assert not any(same_meaning(missing, known) for known in entity.facts)


def test_price_and_cost_never_count_as_missing_for_each_other() -> None:
    entity = Entity("X", {"cost": "3 euros"})
    assert [is_missing(prop, entity.facts) for prop in ("price", "list price", "costs", "color")] == [False] * 3 + [
        True
    ]
    properties = ["price", "list price", "color"]
    drawn = {drawing._missing(entity, properties, random.Random(seed), take_out=False) for seed in range(60)}
    assert "color" in drawn
    assert not drawn & {"price", "list price"}
    everything = Entity("X", dict.fromkeys(drawing.FOREIGN_PROPERTIES, "known"))
    everything.facts.update(_all_near(everything))
    with pytest.raises(DataError, match="nothing to ask for that the base does not know of 'X'"):
        drawing._missing(
            Entity("X", {**everything.facts, **_all_near(everything)}), [], random.Random(0), take_out=False
        )


def _all_near(entity: Entity) -> dict[str, str]:
    return {near: "known" for prop in entity.facts for near in near_properties(prop)}


def test_half_of_the_missing_properties_are_close_in_meaning() -> None:
    entity = Entity("X", {"founder": "Ann", "price": "3 euros"})
    close = {*near_properties("founder"), *near_properties("price")}
    rng = random.Random(0)
    drawn = [drawing._missing(entity, WORLD.test_properties, rng, take_out=False) for _ in range(600)]
    assert 0.45 < sum(prop in close for prop in drawn) / 600 < 0.65


def test_general_questions_are_many_and_apart() -> None:
    seen, held_out = general_questions(), general_questions(held_out=True)
    assert len(set(seen)) == len(seen) >= 100
    assert len(set(held_out)) == len(held_out) == 100
    assert not set(seen) & set(held_out)
