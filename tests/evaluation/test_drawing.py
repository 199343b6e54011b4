"""Quizzes about the world and about any base: what they ask, and that they are the same every time."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from kblam.data.drawing import Style, base_quiz, facts_of, parts_of, world_quizzes
from kblam.data.entities import Entity
from kblam.data.open_world import build_world
from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, OPEN, PAIR, SHARES, SINGLE, counts
from kblam.errors import DataError

WORLD = build_world(0, 60, 120)
STYLE = Style("The {property} of {name} is {value}.")
METALS = [
    (name, prop, f"{prop} {number}")
    for number, name in enumerate(("iron", "gold", "lead", "zinc", "cobalt", "silver", "copper", "nickel"))
    for prop in ("symbol", "melting point", "density", "discoverer")
]


def test_kinds_have_their_shares() -> None:
    assert counts(200, SHARES) == {SINGLE: 110, PAIR: 20, OPEN: 20, NO_ENTITY: 25, NO_PROPERTY: 25}
    for number in range(30):
        assert sum(counts(number, SHARES).values()) == number


def test_a_world_quiz_has_exactly_its_size_and_asks_what_it_says() -> None:
    (quiz,) = world_quizzes(WORLD.test, 300, STYLE, questions=80)
    facts, known = set(quiz.facts), {name for name, _, _ in quiz.facts}
    assert len(quiz.facts) == len({(name, prop) for name, prop, _ in quiz.facts}) == 300
    assert Counter(question.kind for question in quiz.questions) == counts(80, SHARES)
    trained = {entity.name for entity in WORLD.train}
    by_name = {entity.name.lower(): entity for entity in WORLD.test}
    for question in quiz.questions:
        assert set(question.facts) <= facts
        assert not any(name in trained for name, _, _ in question.facts)
        if question.kind == NO_ENTITY:
            assert any(name in question.text.lower() for name in set(by_name) - {name.lower() for name in known})
        if question.kind == OPEN:
            name = question.facts[0][0]
            assert set(question.facts) == {fact for fact in facts if fact[0] == name}


def test_what_a_name_in_another_case_may_answer_counts_as_known() -> None:
    oaks = [(name, prop, "9 m") for name in ("Oak", "oak", "OAK") for prop in ("height", "age")]
    for seed in range(12):
        quiz = base_quiz([*oaks, *METALS[:16]], STYLE, questions=24, seed=seed)
        missing = [question.text for question in quiz.questions if not question.facts]
        assert len(missing) == 6
        assert not [text for text in missing if "oak" in text.lower()]
        assert set(oaks) <= set(quiz.facts)


def test_fillers_are_never_asked_about() -> None:
    others = build_world(1, 10, 200).test
    (quiz,) = world_quizzes(WORLD.test[:30], 400, STYLE, questions=60, others=lambda _: others)
    assert len(quiz.facts) == 400
    asked = {name for question in quiz.questions for name, _, _ in question.facts}
    assert asked <= {entity.name for entity in WORLD.test[:30]}


def test_too_few_entities_are_refused_with_the_number() -> None:
    with pytest.raises(DataError, match=r"not enough entities for 100,000 triples: they have \d+"):
        world_quizzes(WORLD.test, 100_000, STYLE, questions=8)


def test_many_questions_about_a_small_base_get_further_bases() -> None:
    quizzes = world_quizzes(WORLD.test, 40, STYLE, questions=50)
    assert parts_of(40, 50) == len(quizzes) == 3
    assert [len(quiz.questions) for quiz in quizzes] == [17, 17, 16]
    assert all(len(quiz.facts) == 40 for quiz in quizzes)
    assert quizzes[0].facts != quizzes[1].facts


def test_a_base_loses_what_must_not_be_answered_and_nothing_else() -> None:
    quiz = base_quiz(METALS, STYLE, questions=40)
    facts, known = set(quiz.facts), {name for name, _, _ in quiz.facts}
    assert facts < set(METALS)
    absent = {name for name, _, _ in METALS} - known
    assert len(absent) == 2
    gone = [fact for fact in METALS if fact[0] in known and fact not in facts]
    missing = [question for question in quiz.questions if question.kind == NO_PROPERTY]
    assert 0 < len(gone) <= len(missing) == 5
    for question in quiz.questions:
        named = [name for name, _, _ in METALS if name in question.text.lower()]
        assert set(question.facts) <= facts
        if question.kind == NO_ENTITY:
            assert set(named) <= absent
        elif question.kind == NO_PROPERTY:
            (name,) = set(named)
            assert not any(prop in question.text.lower() for prop in dict(f[1:] for f in facts if f[0] == name))


def test_natural_questions_are_asked_too() -> None:
    style = Style(STYLE.answer, natural={"symbol": ("How do chemists write {name}?",)})
    texts = [question.text for question in base_quiz(METALS, style, questions=100).questions]
    assert any(text.startswith("How do chemists write ") for text in texts)


def test_of_a_large_base_only_so_much_is_taken() -> None:
    facts = [fact for entity in WORLD.test for fact in facts_of(entity)]
    quiz = base_quiz(facts, STYLE, questions=20, most=100)
    assert 60 <= len(quiz.facts) <= 100


@pytest.mark.parametrize("names", [1, 2])
def test_a_base_of_too_few_entities_cannot_be_asked_about(names: int) -> None:
    """One is taken out, and a question about two facts needs two."""
    with pytest.raises(DataError, match=f"at least 3 names; metals has {names}"):
        base_quiz(METALS[: 4 * names], STYLE, questions=20, name="metals")


def test_three_entities_are_enough() -> None:
    for most in (None, 5):
        quiz = base_quiz(METALS[:12], STYLE, questions=200, most=most)
        assert Counter(question.kind for question in quiz.questions) == counts(200, SHARES)


def test_a_base_with_one_property_is_asked_for_others() -> None:
    quiz = base_quiz([(f"word {n}", "meaning", f"sense {n}") for n in range(20)], STYLE, questions=40)
    assert sum(question.kind == NO_PROPERTY for question in quiz.questions) == 5
    assert all(len(question.facts) <= 2 for question in quiz.questions)


def test_unseen_words_are_other_words() -> None:
    entities = [Entity(f"Amber Falcon {n}", {"color": f"red {n}", "founder": f"Ann {n}"}) for n in range(40)]
    seen, unseen = (
        {q.text for q in world_quizzes(entities, 60, Style(STYLE.answer, held_out), questions=30)[0].questions}
        for held_out in (False, True)
    )
    assert not seen & unseen


def test_drawing_is_the_same_in_every_process() -> None:
    code = (
        "from tests.evaluation.test_drawing import *\n"
        "import hashlib\n"
        "made = [*world_quizzes(WORLD.test, 200, STYLE, questions=40, seed=3), base_quiz(METALS, STYLE, questions=9)]\n"
        "print(hashlib.sha256(repr(made).encode()).hexdigest())"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, **_environment()}, text=True,
                       capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1
    one, two = (world_quizzes(WORLD.test, 200, STYLE, questions=40, seed=seed) for seed in (3, 4))
    assert one != two


def _environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
