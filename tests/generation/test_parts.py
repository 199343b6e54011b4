"""The parts of a question are few and short, so that a long question costs little more than it is long."""

from __future__ import annotations

import pytest

from kblam.generation import parts
from kblam.generation.clauses import splits
from kblam.generation.decision import Rules
from kblam.generation.parts import cuts_of, found_by, part_texts
from kblam.generation.prompt import encode_question
from kblam.generation.words import Words
from kblam.knowledge.names import Names
from kblam.models.copies import reading
from tests.generation.asking import Asked
from tests.generation.test_pointer import CURRENCY, FOUNDER


class Known(Names):
    """Names, and no property."""

    def says_a_name(self, text: str) -> bool:
        return bool(self.said_in(text))

    def names_in(self, text: str) -> list[tuple[int, int]]:
        return self.spans_in(text)

    def is_property(self, text: str) -> bool:
        return False


NAMES = [f"Hall {letter}" for letter in "bcdefg"]
LONG = [
    "What is the color of Hall b " + "and the thing of Hall c or so " * 200 + "?",
    "What is the color of Hall b? " + "It was, now and then, as long as Hall c. " * 200 + "And who built Hall d?",
    "What is the color of " + ", ".join(NAMES * 100) + " and Hall b?",
    *(f"What {'do we know now and then, ' * count}of Hall b, Hall c and Hall d?" for count in (1, 2, 5, 40, 300)),
    ("Who built Hall b, and say it slowly, for I have time, and who built Hall c? " * 9) + "x" * 5000,
]


@pytest.mark.parametrize("question", LONG, ids=lambda question: question[:32])
def test_together_they_are_no_longer_than_there_is_room(asked: Asked, question: str) -> None:
    rules = Rules(asked.attachment.config, 0.5, "refuse")
    for names in (None, Known(NAMES)):
        texts = part_texts([cuts_of(rules, question, names)])
        assert sum(map(len, texts)) <= parts.PARTS_ROOM


def test_a_long_cut_leaves_room_for_a_shorter_one(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    question = "What is the color of Hall b and the founder of Hall c, for Hall d?"
    rules, names = Rules(asked.attachment.config, 0.5, "refuse"), Known(NAMES)
    every = cuts_of(rules, question, names)
    lengths = [sum(map(len, cut.parts)) for cut in every]
    assert lengths[0] > lengths[1]
    monkeypatch.setattr(parts, "PARTS_ROOM", lengths[0] - 1)
    kept = cuts_of(rules, question, names)
    assert 0 < len(kept) < len(every)
    assert set(kept) <= set(every)
    assert sum(map(len, part_texts([kept]))) < lengths[0]


@pytest.mark.parametrize("joint", [" and ", ", "], ids=["and", "comma"])
def test_a_sentence_with_more_joints_than_facts_is_not_cut_at_each(joint: str) -> None:
    """That would be a part as long as the question for each of them."""
    few, many = ("Bells for " + joint.join(f"{word} of Hall" for word in "bcdefghijk"[:n]) for n in (9, 10))
    assert len(splits(few)) == 8 if joint == " and " else splits(few)
    assert splits(many) == []


@pytest.mark.parametrize(
    ("lengths", "most", "batches"),
    [
        ([], 4, []),
        ([5], 4, [(0, 1)]),
        ([5, 5, 5], 4, [(0, 3)]),
        ([5, 5, 5, 5, 5], 4, [(0, 4), (4, 5)]),
        ([5, 5, 7, 5, 5], 8, [(0, 2), (2, 4), (4, 5)]),
        ([99, 5, 5, 5, 5, 99], 8, [(0, 1), (1, 5), (5, 6)]),
    ],
)
def test_a_batch_has_few_rows_and_few_tokens(
    lengths: list[int], most: int, batches: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "TOKENS_AT_ONCE", 20)
    assert parts._batches(lengths, most) == batches


def test_what_prompts_find_does_not_depend_on_their_batches(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    session, questions = asked.session(), [CURRENCY, CURRENCY + " " * 200, FOUNDER]
    rows = [encode_question(one, asked.attachment, asked.tokenizer) for one in questions]
    vectors, found = session.question_vectors(questions), []
    for room in (1, 4096):
        monkeypatch.setattr(parts, "TOKENS_AT_ONCE", room)
        with reading(asked.attachment, asked.kb) as resident:
            each = found_by(asked.attachment, rows, vectors, 8, Words(resident))
        found.append([[(one.place, pytest.approx(one.mass, abs=1e-5)) for one in of_row[:1]] for of_row in each])
    assert found[0] == found[1]
