"""Scores against values worked out by hand, and Wilson's interval against a published table."""

from __future__ import annotations

import copy
import json
import math
import pickle
import random

import pytest

from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, OPEN, PAIR, Question
from kblam.evaluation.figures import Outcome, score
from kblam.evaluation.shares import Share, clustered, wilson

RED, SOUP, TALL = ("A B", "color", "red"), ("C D", "food", "soup"), ("A B", "height", "7 m")
SAID = "The {property} of {name} is {value}."


# R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I,
# method 3: Wilson's score without continuity correction.
@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_a_published_table(hits: int, of: int, low: float, high: float) -> None:
    assert wilson(hits, of) == pytest.approx((low, high), abs=5e-5)
    assert wilson(of - hits, of) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_a_share_is_a_number_that_knows_its_counts() -> None:
    share = Share(3, 4)
    assert share == 0.75
    assert f"{share:.2f}" == "0.75"
    assert (share.hits, share.of) == (3, 4)
    for same in (copy.deepcopy(share), pickle.loads(pickle.dumps(share))):
        assert (same.hits, same.of) == (3, 4)
    pooled = Share.pooled([[True, True, True], [False]])
    assert (pooled, pooled.groups) == (0.75, ((3, 3), (0, 1)))
    assert pickle.loads(pickle.dumps(pooled)).interval == pooled.interval
    assert math.isnan(Share(0, 0))
    assert wilson(0, 0) == (0, 1)


@pytest.mark.parametrize("together", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("right", [0.5, 0.8])
def test_the_interval_of_open_facts_has_the_truth_in_95_of_100_runs(right: float, together: float) -> None:
    """Of 20 questions about 1, 3 or 5 facts, told as one, each by itself, or half so."""
    rng = random.Random(7)
    facts = [("A B", f"property {n}", f"value {n}") for n in range(5)]

    def interval() -> tuple[float, float]:
        questions, outcomes = [], []
        for number in range(20):
            asked = facts[: rng.choice((1, 3, 5))]
            whole = rng.random() < right
            told = [whole if rng.random() < together else rng.random() < right for _ in asked]
            questions.append(Question(str(number), tuple(asked), SAID, OPEN))
            outcomes.append(Outcome(", ".join(fact[2] for fact, said in zip(asked, told, strict=True) if said)))
        share = score(questions, outcomes).open_facts
        assert isinstance(share, Share)
        return share.interval

    covered = sum(low <= right <= high for low, high in (interval() for _ in range(200)))
    assert covered >= 0.9 * 200


@pytest.mark.parametrize(
    ("groups", "low", "high"),
    [
        # All or none: five answers, not fifteen facts.
        ([(3, 3)] * 5, *wilson(5, 5)),
        ([(0, 3)] * 5, *wilson(0, 5)),
        # One answer tells of one.
        ([(3, 3)], *wilson(1, 1)),
        ([(1, 2)], *wilson(0.5, 1)),
        ([], 0.0, 1.0),
    ],
)
def test_the_interval_over_questions_where_nothing_scatters(
    groups: list[tuple[int, int]], low: float, high: float
) -> None:
    assert clustered(groups) == pytest.approx((low, high))


def test_the_interval_over_questions_stays_a_share_and_is_that_of_facts_where_these_are_alone() -> None:
    assert clustered([(1, 1)] * 50 + [(0, 1)] * 50) == pytest.approx(wilson(50, 100), abs=5e-3)
    for groups in ([(9, 10), (1, 1)], [(0, 1), (1, 9)], [(1, 2), (1, 2)]):
        low, high = clustered(groups)
        assert 0 <= low < sum(hits for hits, _ in groups) / sum(of for _, of in groups) < high <= 1


def test_figures_of_a_quiz_worked_out_by_hand() -> None:
    questions = [
        Question("1", (RED,), SAID),
        Question("2", (RED,), SAID),
        Question("3", (SOUP,), SAID),
        Question("4", (RED, SOUP), SAID, PAIR),
        Question("5", (RED, SOUP), SAID, PAIR),
        Question("6", (RED, TALL), SAID, OPEN),
        Question("7", (), kind=NO_ENTITY),
        Question("8", (), kind=NO_ENTITY),
        Question("9", (), kind=NO_PROPERTY),
        Question("10", (), kind=NO_PROPERTY),
    ]
    outcomes = [
        Outcome("The color  of A B is red.", (RED, SOUP), False, True, False),
        Outcome("the color of a b is red", (SOUP, RED), False, True, False),
        Outcome("I am sorry.", (TALL,), True, True, True),
        Outcome("The color of A B is red and the food of C D is soup.", (SOUP, TALL, RED), False, True, False),
        Outcome("The food of C D is soup and the color of A B is red.", (RED, TALL), False, True, False),
        Outcome("The height of A B is 7 m and the color of A B is red.", (RED, TALL), False, True, False),
        Outcome("I am sorry.", (), True, False, False),
        Outcome("I am sorry.", (), True, False, True),
        Outcome("I am sorry.", (), True, True, True),
        Outcome("The color of A B is red.", (), False, True, False),
    ]
    figures = score(questions, outcomes)
    # Exact: 1 and 4; 5 is not as asked.
    assert figures.exact == 2 / 5
    assert (figures.exact_single, figures.exact_pair) == (1 / 3, 1 / 2)
    assert (figures.value, figures.value_single, figures.pair_right) == (4 / 5, 2 / 3, 1)
    assert (figures.open_right, figures.open_facts) == (1, 1)
    assert (figures.top1, figures.top5) == (4 / 6, 4 / 6)
    assert (figures.refusal_precision, figures.refusal_recall) == (3 / 4, 3 / 4)
    assert (figures.refusal_recall_entity, figures.refusal_recall_property) == (1, 1 / 2)
    assert (figures.refusal_f1, figures.false_refusals) == (3 / 4, 1 / 6)
    assert figures.decision is not None
    assert figures.learned is not None
    assert (figures.decision.precision, figures.decision.recall, figures.decision.f1, figures.decision.false) == (
        1,
        1 / 2,
        2 / 3,
        0,
    )
    assert (figures.learned.precision, figures.learned.recall, figures.learned.false) == (2 / 3, 1 / 2, 1 / 6)
    assert figures.questions == 10


@pytest.mark.parametrize(
    ("text", "right", "told"),
    [
        ("The height of A B is 7 m and the color of A B is red.", True, 2),
        ("The color of A B is red. The height of A B is 7 m.", True, 2),
        ("The height of A B is 7 m.", True, 1),
        ("The height of A B is 7 m. It is tall.", False, 1),
        ("The height of A B is 7 m and the food of A B is soup.", False, 1),
        ("I do not know.", False, 0),
    ],
)
def test_an_answer_about_a_whole_entity(text: str, right: bool, told: int) -> None:
    figures = score([Question("1", (RED, TALL), SAID, OPEN)], [Outcome(text)])
    assert (figures.open_right, figures.open_facts) == (right, told / 2)
    assert math.isnan(figures.exact)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("The mass of Rigel is 1 and the price of Vega is 20.", True),
        ("The mass of Rigel is 17 and the price of Vega is 205.", False),
        ("The mass of Rigel is 1.5 and the price of Vega is 20.", False),
        ("The mass of Rigel is 1, the price of Vega is 20,000.", False),
        ("The mass of Rigel is -1 and the price of Vega is 20.", False),
    ],
)
def test_an_answer_about_two_facts_has_the_whole_values(text: str, right: bool) -> None:
    asked = Question("1", (("Rigel", "mass", "1"), ("Vega", "price", "20")), SAID, PAIR)
    figures = score([asked], [Outcome(text)])
    assert (figures.pair_right, figures.value) == (right, right)


def test_what_was_not_measured_is_left_out_and_shares_have_their_interval() -> None:
    figures = score([Question("1", (RED,), SAID)], [Outcome("The color of A B is red.", (RED,))])
    record = figures.to_dict()
    assert json.loads(json.dumps(record)) == record
    assert record["exact"] == 1
    assert record["intervals"]["exact"] == [0.2065, 1.0, 1, 1]
    assert not {"exact_pair", "refusal_recall", "refusal_f1", "decision", "top1_by_layer"} & set(record)


def test_refusals_that_never_come_have_recall_zero_and_no_precision() -> None:
    figures = score([Question("1", (), kind=NO_ENTITY)], [Outcome("The color is red.")])
    assert (figures.refusal_recall, figures.refusal_f1) == (0, 0)
    assert math.isnan(figures.refusal_precision)
    assert figures.decision is None


def test_layers_are_scored_apart() -> None:
    question = Question("1", (RED,), SAID)
    outcomes = [Outcome("", by_layer={2: (RED,), 5: (SOUP, RED)}), Outcome("", by_layer={2: (RED,), 5: (SOUP,)})]
    figures = score([question, question], outcomes)
    assert figures.top1_by_layer == {2: 1, 5: 0}
    assert figures.top5_by_layer == {2: 1, 5: 0.5}
    assert figures.to_dict()["top5_by_layer"] == {"2": 1.0, "5": 0.5}
    assert figures.to_dict()["intervals"]["top5_by_layer.5"][2:] == [1, 2]
