"""No evaluation question is one of training's: both sides' questions are drawn and compared."""

from __future__ import annotations

from functools import cache

import pytest

from kblam.data import real
from kblam.data.entities import Entity
from kblam.data.loose import LOOSE
from kblam.data.open_world import OpenWorld, build_world
from kblam.data.phrases import further, specific
from kblam.data.phrasing import general_questions
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


def test_natural_questions_are_in_words_that_training_never_sees() -> None:
    phrasings = {text.replace("{n}", "{name}").casefold() for each in specific().values() for text in each.seen}
    phrasings |= {text.replace("{n}", "{name}").casefold() for text in LOOSE}
    phrasings |= {text.replace("{n}", "{name}").casefold() for texts in further().values() for text in texts}
    natural = {text.casefold() for base in NATURAL.values() for texts in base.values() for text in texts}
    assert sorted(natural & phrasings) == []
