"""The demo world: the same everywhere, and nothing of the test side on the training side."""

from __future__ import annotations

import hashlib

import pytest

from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.words import FIRST_NAMES, PROPERTIES, SECOND_NAMES, VALUE_GRAMMAR
from kblam.demo.tiny.world import build_world, is_held_out, world_words


@pytest.fixture(scope="module")
def world():
    return build_world(real_words())


def test_the_world_is_the_one_the_shipped_weights_were_trained_on(world) -> None:
    facts = [
        f"{entity.name}|{prop}|{value}"
        for entity in [*world.train, *world.test_grid, *world.test_open]
        for prop, value in entity.facts.items()
    ]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    assert digest[:16] == "f552901cb852b494"


def test_no_test_name_and_no_test_value_is_trained_on(world) -> None:
    test = [*world.test_grid, *world.test_open]
    assert not {entity.name for entity in world.train} & {entity.name for entity in test}
    trained = {value for entity in world.train for value in entity.facts.values()}
    tested = {value for entity in test for value in entity.facts.values()}
    assert not trained & tested
    assert len(tested) > 2000


def test_open_test_names_use_real_words_that_training_never_shows(world) -> None:
    real = set(real_words())
    seen = {word for entity in world.train_open for word in entity.words}
    asked = {word for entity in world.test_open for word in entity.words} & real
    assert len(asked) > 200
    # A syllable word may happen to be a real one, so a few overlap.
    assert sum(is_held_out(word) for word in asked) > 0.95 * len(asked)
    assert len(asked & seen) < 0.05 * len(asked)


def test_every_slot_of_a_value_has_a_word_class_of_its_own() -> None:
    for pattern, classes in VALUE_GRAMMAR.values():
        words = [word for word_class in classes for word in word_class.split()]
        assert pattern.count("{}") == len(classes)
        assert len(words) == len(set(words))
        assert not any(character.isdigit() for character in "".join(words))


def test_grid_entities_know_some_properties_and_lack_others(world) -> None:
    for entity in world.test_grid:
        first, second = entity.name.lower().split()
        assert first in FIRST_NAMES
        assert second in SECOND_NAMES
        assert 0 < len(entity.facts) < len(PROPERTIES)


def test_a_grid_too_small_is_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="13786 names"):
        build_world(["amber"], train_grid=20_000)


def test_world_words_hold_every_word_of_every_value(world) -> None:
    known = set(world_words())
    for entity in world.test_grid:
        for value in entity.facts.values():
            assert set(value.split()) <= known
