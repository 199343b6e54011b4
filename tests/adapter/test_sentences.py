"""The sentence of a fact, and where its words stand."""

from __future__ import annotations

import pytest

from kblam.adapter.config import ANSWER
from kblam.adapter.sentences import Sentence, answer_sentence

A, B = ("A", "color", "red"), ("B", "founder", "Ann Lee")


def spans(sentence: Sentence) -> list[tuple[str, int, str]]:
    return [(sentence.text[one.start : one.end], one.fact, one.field) for one in sentence.spans]


def test_one_fact_is_the_template_filled_in() -> None:
    sentence = answer_sentence(ANSWER, [A])
    assert sentence.text == "The color of A is red."
    assert spans(sentence) == [("color", 0, "property"), ("A", 0, "name"), ("red", 0, "value")]


def test_two_facts_are_clauses_with_one_stop() -> None:
    sentence = answer_sentence(ANSWER, [A, B])
    assert sentence.text == "The color of A is red and the founder of B is Ann Lee."
    assert spans(sentence)[3:] == [("founder", 1, "property"), ("B", 1, "name"), ("Ann Lee", 1, "value")]


@pytest.mark.parametrize(
    "value",
    ["Acme Inc.", "It flies!", "鉄。", "「鉄。」", 'He said "no."', "यह लोहा है।", "ما هذا؟", "Սա երկաթ է։"],
)
def test_a_value_with_a_stop_brings_no_second_one(value: str) -> None:
    ends = ("A", "owner", value)
    one, two = answer_sentence(ANSWER, [ends]), answer_sentence(ANSWER, [A, ends])
    assert one.text == f"The owner of A is {value}"
    assert two.text == f"The color of A is red and the owner of A is {value}"
    assert spans(one)[2] == (value, 0, "value")
    assert answer_sentence(ANSWER, [ends, A]).text.endswith("and the color of A is red.")
    assert answer_sentence(ANSWER + "\n", [ends]).text == one.text + "\n"
    assert answer_sentence(ANSWER, [("A", "form", "company (Inc.)")]).text.endswith("(Inc.).")
    assert answer_sentence("{value} ({name}, {property}).", [ends]).text == f"{value} (A, owner)."
    assert answer_sentence("{name} {property}: {value}", [ends]).text == f"A owner: {value}"


def test_sentences_are_added_with_their_facts() -> None:
    both = answer_sentence(ANSWER, [A]) + Sentence(" ") + answer_sentence(ANSWER, [B])
    assert both.text == "The color of A is red. The founder of B is Ann Lee."
    assert [one.fact for one in both.spans] == [0, 0, 0, 1, 1, 1]
    assert both.num_facts == 2


def test_other_templates_and_braces_in_a_value() -> None:
    sentence = answer_sentence("{value}: that is {name}'s {property}", [("{value}", "x", "{name}")])
    assert sentence.text == "{name}: that is {value}'s x"
    assert spans(sentence) == [("{name}", 0, "value"), ("{value}", 0, "name"), ("x", 0, "property")]
    assert answer_sentence("{name}, {property}: {value}", [A, B]).text == "A, color: red and B, founder: Ann Lee"
