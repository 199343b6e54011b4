"""No evaluation question is one of training's: both sides' questions are drawn and compared."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

import pytest

from kblam.data import real
from kblam.data.entities import Entity
from kblam.data.loose import LOOSE
from kblam.data.open_world import OpenWorld, build_world
from kblam.data.phrases import further, phrases, specific
from kblam.data.phrasing import general_questions
from kblam.data.properties import TYPED
from kblam.data.quiz import Quiz
from kblam.data.real_questions import NATURAL
from kblam.errors import DataError
from kblam.evaluation.material import WORLD_SEED, standard_material
from kblam.evaluation.plan import Plan, rows_of
from kblam.training.config import TrainingConfig
from kblam.training.questions import Facts, draw_questions

MATERIAL = standard_material("The {property} of {name} is {value}.")
CONFIG = TrainingConfig()


@cache
def world() -> OpenWorld:
    """As training and evaluation have it."""
    return build_world(WORLD_SEED, CONFIG.train_entities, 1000)


def asked(quizzes: list[Quiz]) -> set[str]:
    return {question.text.casefold() for quiz in quizzes for question in quiz.questions}


@cache
def trained() -> frozenset[str]:
    """Of training, and of the entities that calibration uses."""
    kept = CONFIG.calibration_entities
    found = set()
    for entities, seed in ((world().train[:-kept], 0), (world().train[-kept:], 1)):
        found |= {one.text.casefold() for one in draw_questions(Facts(entities), 20_000, seed)}
    return frozenset(found)


def names(entities: list[Entity]) -> set[str]:
    return {entity.name.casefold() for entity in entities}


def test_names_and_values_of_the_test_side_are_nowhere_in_training() -> None:
    train, test = world().train, world().test
    assert not names(train) & names(test)
    assert not {text for entity in train for text in entity.facts.values()} & {
        text for entity in test for text in entity.facts.values()
    }


def test_no_question_about_the_world_is_one_of_training() -> None:
    plan = Plan(sizes=(100, 1000), unseen=True, general=True, questions=400)
    drawn = set().union(*(asked(row.quizzes()) for row in rows_of(plan, MATERIAL)))
    assert len(drawn) > 1000
    assert not drawn & trained()


def test_general_questions_of_the_evaluation_are_the_held_out_ones() -> None:
    told = {text.casefold() for text in MATERIAL.general()}
    assert told == {text.casefold() for text in general_questions(held_out=True)}
    assert not told & trained()


def test_the_row_in_unseen_words_is_asked_in_held_out_phrasings_and_no_other_is() -> None:
    assert [MATERIAL.style(held_out, None).held_out for held_out in (False, True)] == [False, True]


@pytest.mark.parametrize("name", ["elements", "airports", "weaknesses", "compounds"])
def test_no_question_about_a_real_base_is_one_of_training(name: str) -> None:
    try:
        real.load(name)
    except DataError as error:
        pytest.skip(str(error))
    (row,) = rows_of(Plan(real=(name,), questions=400), MATERIAL)
    assert not asked(row.quizzes()) & trained()


def worded(text: str) -> str:
    """What texts have in common that differ by case, marks and spaces alone."""
    return " ".join(re.findall(r"[\w{}]+", text.replace("{name}", "{n}").casefold()))


def about(templates: Iterable[str], prop: str) -> set[str]:
    """Templates that name a property, for this one."""
    return {worded(text).replace("{p}", worded(prop)) for text in templates}


@cache
def learned() -> frozenset[str]:
    """Every question about one name that training, the property head and the calibration have a phrasing for."""
    found = set(map(worded, (*LOOSE, *phrases("open").seen, *general_questions())))
    for prop in {*TYPED, *specific(), *further()}:
        of_it = specific()[prop].seen if prop in specific() else ()
        found |= {*map(worded, (*of_it, *further().get(prop, ()))), *about(phrases("one").seen, prop)}
    return frozenset(found)


@cache
def around(kind: str) -> tuple[str, ...]:
    """Openings or closings of training's."""
    return tuple(map(worded, phrases(kind).seen))


def bare_of(text: str) -> set[str]:
    """A question, and what is left of it without an opening or a closing of training's."""
    found = {text}
    for opening in around("openings"):
        found |= {one.removeprefix(f"{opening} ") for one in found}
    for closing in around("closings"):
        found |= {one.removesuffix(f" {closing}") for one in found}
    return found


def known(texts: Iterable[str]) -> list[str]:
    return sorted(text for text in texts if not bare_of(text).isdisjoint(learned()))


def test_general_held_out_phrasings_are_no_question_of_training_for_any_property() -> None:
    """Of a single property too: "Oak owner" was training's for 27 of them."""
    assert known({text for prop in {*TYPED, *further()} for text in about(phrases("one").held_out, prop)}) == []


def test_all_other_held_out_questions_are_in_words_that_training_never_sees() -> None:
    texts = {*phrases("open").held_out, *general_questions(held_out=True)}
    texts |= {text for of_it in specific().values() for text in of_it.held_out}
    assert known(set(map(worded, texts))) == []


@pytest.mark.parametrize("kind", ["pair", "one_entity", "one_property", "joints", "openings", "closings"])
def test_held_out_words_for_two_facts_and_around_a_question_are_not_those_of_training(kind: str) -> None:
    seen, held_out = phrases(kind)
    assert not set(map(worded, seen)) & set(map(worded, held_out))


def test_natural_questions_are_in_words_that_training_never_sees() -> None:
    assert known({worded(text) for base in NATURAL.values() for texts in base.values() for text in texts}) == []
