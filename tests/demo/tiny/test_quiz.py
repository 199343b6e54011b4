"""The demo model's quizzes."""

from __future__ import annotations

import pytest

from kblam.data.questions import answer_text
from kblam.demo.tiny.evaluate import quizzes
from kblam.demo.tiny.quiz import demo_quiz
from kblam.demo.tiny.tokenizer import real_words
from kblam.demo.tiny.world import build_world

WORLD = build_world(real_words())


def test_a_quiz_asks_what_its_knowledge_base_can_and_cannot_answer() -> None:
    quiz = demo_quiz(WORLD.test_grid, 1000, questions=200)
    facts = set(quiz.facts)
    assert 980 <= len(facts) == len(quiz.facts) <= 1000
    refused = [question for question in quiz.questions if not question.facts]
    pairs = [question for question in quiz.questions if len(question.facts) == 2]
    assert (len(refused), len(pairs), len(quiz.questions)) == (50, 20, 200)
    assert all(set(question.facts) <= facts for question in quiz.questions)
    known = {(name, prop) for name, prop, _ in quiz.facts}
    for question in refused:
        assert not any(name in question.text and f" {prop}" in question.text for name, prop in known)


@pytest.mark.parametrize("questions", [3, 50, 400])
def test_quizzes_over_small_knowledge_bases_share_the_questions(questions: int) -> None:
    shares = [len(quiz.questions) for quiz in quizzes(WORLD, 100, questions)]
    assert (sum(shares), min(shares) > 0) == (questions, True)


def test_ten_thousand_triples_of_held_out_entities_are_there() -> None:
    assert len(demo_quiz(WORLD.test_grid, 10_000).facts) == 10_000


def test_too_few_entities_are_refused_with_the_number() -> None:
    with pytest.raises(ValueError, match="not enough entities for 10000 triples"):
        demo_quiz(WORLD.test_grid[:100], 10_000)


def test_answers_read_as_they_should() -> None:
    one, two = ("Amber Falcon", "color", "pale red with dots"), ("Zorblax", "food", "raw rice with mint")
    assert answer_text([one]) == "the color is pale red with dots."
    assert answer_text([one, two]) == (
        "the color of Amber Falcon is pale red with dots and the food of Zorblax is raw rice with mint."
    )
    quiz = demo_quiz(WORLD.test_grid, 1000, questions=40)
    assert all(
        question.answer == answer_text(list(question.facts)).lower() for question in quiz.questions if question.facts
    )
