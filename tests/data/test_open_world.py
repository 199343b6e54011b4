"""The open world: the same everywhere, natural, hard in the right places, and split in two without a leak."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam.data.alike import NEAR
from kblam.data.lexicon import lexicon
from kblam.data.meaning import near_properties, same_meaning
from kblam.data.names import near_miss
from kblam.data.open_world import OpenWorld, build_world
from kblam.data.properties import TYPED
from kblam.data.sides import is_held_out, side
from kblam.data.wordnet import is_for_training
from kblam.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world() -> OpenWorld:
    return build_world()


def digest(world: OpenWorld) -> str:
    facts = [f"{entity.name}|{entity.facts}" for entity in [*world.train, *world.test]]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def values(entities) -> set[str]:
    return {value for entity in entities for value in entity.facts.values()}


def test_the_world_is_the_one_that_figures_are_about(world: OpenWorld) -> None:
    assert digest(world) == "c5c8114993fd3bd6"


def test_another_process_draws_the_same_world() -> None:
    code = "from tests.data.test_open_world import *; print(digest(build_world(3, 60, 40)))"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {digest(build_world(3, 60, 40))}


def test_sizes_are_those_of_the_study_or_more(world: OpenWorld) -> None:
    assert (len(world.train), len(world.test)) == (8000, 2600)
    assert sum(len(entity.facts) for entity in world.train) > 40_000
    assert sum(len(entity.facts) for entity in world.test) > 12_200
    assert len(TYPED) > 100
    assert len(world.train_properties) > 450


def test_fewer_entities_are_the_first_of_more(world: OpenWorld) -> None:
    small = build_world(0, 50, 30)
    assert small.train == world.train[:50]
    assert small.test == world.test[:30]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6))
def test_no_name_and_no_value_is_on_both_sides(seed: int) -> None:
    world = build_world(seed, 250, 250)
    trained = {entity.name.lower() for entity in world.train}
    tested = {entity.name.lower() for entity in world.test}
    assert (len(trained), len(tested)) == (250, 250)
    assert not trained & tested
    assert not values(world.train) & values(world.test)


def test_no_name_and_no_value_is_on_both_sides_of_the_whole_world(world: OpenWorld) -> None:
    assert not {entity.name.lower() for entity in world.train} & {entity.name.lower() for entity in world.test}
    assert not values(world.train) & values(world.test)


def test_words_of_the_sides_are_disjoint() -> None:
    train, test = side(False), side(True)
    for list_name in ("nouns", "adjectives", "verbs", "name_nouns", "first_names", "cities", "property_nouns"):
        seen, unseen = getattr(train, list_name), getattr(test, list_name)
        assert not set(seen) & set(unseen)
        assert len(unseen) > 60
    assert not test.glosses


def test_a_share_of_the_properties_belongs_to_the_test_side(world: OpenWorld) -> None:
    used = {prop for entity in world.train for prop in entity.facts}
    only_test = set(world.test_properties) - set(world.train_properties)
    assert used <= set(world.train_properties)
    assert not used & only_test
    assert {prop.name for prop in TYPED.values() if prop.held_out} <= only_test
    assert len(only_test) > 90


@pytest.mark.parametrize("held_out", [False, True])
def test_every_property_has_a_choice_of_values_on_either_side(held_out: bool) -> None:
    rng = random.Random(0)
    for prop in TYPED.values():
        drawn = {prop.make(side(held_out), rng) for _ in range(400)}
        assert sum(is_held_out(value, "whole") == held_out for value in drawn) >= 5, prop.name


def test_glosses_are_of_words_that_the_real_base_leaves_out() -> None:
    assert all(is_for_training(lemma) for lemma, _ in lexicon().glosses)


def test_every_entity_has_four_to_seven_facts_of_different_meaning(world: OpenWorld) -> None:
    for entity in [*world.train[:1500], *world.test[:1500]]:
        assert 4 <= len(entity.facts) <= 7
        assert not [pair for pair in combinations(entity.facts, 2) if same_meaning(*pair)]


def test_more_than_half_have_properties_that_are_close_in_meaning(world: OpenWorld) -> None:
    groups = [set(group) for group in NEAR]
    close = [entity for entity in world.test if any(len(group & set(entity.facts)) > 1 for group in groups)]
    assert len(close) > 0.5 * len(world.test)


def test_a_fifth_of_the_names_share_a_word_with_another(world: OpenWorld) -> None:
    words = Counter(word for entity in world.test for word in entity.words)
    near = [entity for entity in world.test if any(words[word] > 1 for word in entity.words)]
    assert len(near) > 0.2 * len(world.test)


def test_values_are_of_one_to_twenty_words_in_many_scripts(world: OpenWorld) -> None:
    for entities in (world.train, world.test):
        every = values(entities)
        lengths = Counter(len(value.split()) for value in every)
        assert min(lengths) == 1
        assert 13 < max(lengths) <= 20
        text = " ".join(every)
        for letters in ("[łøğß]", "[а-яїі]", "[α-ω]", "[ぁ-ヶ一-龠]", "[0-9]{12}"):
            assert re.search(letters, text), letters
        assert all(value == value.strip() and "  " not in value and "{" not in value for value in every)


def test_a_near_miss_never_consists_of_shared_words_alone() -> None:
    made = {near_miss("Project Nightjar", "Lumber Upgrade", random.Random(seed)) for seed in range(40)}
    assert made == {"Lumber Nightjar", "Project Nightjar"}


def test_near_properties_never_mean_the_same() -> None:
    assert "owner" in near_properties("founder")
    assert "motto" in near_properties("slogan")
    for prop in TYPED:
        assert not [other for other in near_properties(prop) if same_meaning(prop, other)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("price", "cost"),
        ("color", "Colour"),
        ("phone number", "telephone number"),
        ("engineer", "lead engineer"),
        ("date of birth", "birthday"),
        ("ingredients", "ingredient"),
        ("release_date", "release date"),
        ("amount", "sum"),  # by WordNet
    ],
)
def test_words_of_one_meaning(first: str, second: str) -> None:
    assert same_meaning(first, second)
    assert same_meaning(second, first)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("founder", "owner"),
        ("price", "deposit"),
        ("birthplace", "home town"),
        ("motto", "slogan"),
        ("高さ", "色"),
        (":", "color"),
    ],
)
def test_words_of_different_meaning(first: str, second: str) -> None:
    assert not same_meaning(first, second)


def test_a_world_larger_than_its_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.open_world.draw_name", lambda *_: "Amber Falcon")
    with pytest.raises(DataError, match=r"no new name .* ask for fewer entities"):
        build_world(0, 0, 3)


def test_a_damaged_word_list_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    lexicon.cache_clear()
    monkeypatch.setattr("kblam.data.lexicon.FILE", "NOTICE")
    try:
        with pytest.raises(DataError, match="install kblam-kernels again"):
            lexicon()
    finally:
        monkeypatch.undo()
        lexicon.cache_clear()
