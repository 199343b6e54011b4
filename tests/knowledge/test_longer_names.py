"""A text that goes on behind a name as the names of its family do says a longer one, which the knowledge base lacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.knowledge.mention import words
from kblam.knowledge.names import Names
from kblam.knowledge.vocabulary import Vocabulary
from tests.timing import is_done_within

NAMES = [
    *("iPhone 15", "iPhone 15 Pro", "Windows", "Windows 10", "Battle", "Battle of Hastings", "Acme", "Acme Holdings"),
    *("Zenith", "Path Traversal", "Path Traversal used in a Link", "Zürich HB", "Zürich HB Süd", "Oak", "Oak tree"),
    *("Boeing 737", "Boeing 737-800"),
]
ASKED = Vocabulary(["annual revenue", "IATA code", "price"])


def only_in_other(text: str, names: list[str] = NAMES) -> list[str]:
    known = Names(names)
    return [name for name in known.meant_in(text) if known.only_in_other(text, name, ASKED.__contains__)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("What is the price of the iPhone 15 Plus?", "iPhone 15"),
        ("price of the iPhone 15 Pro Max", "iPhone 15 Pro"),  # the family goes on so behind the shorter one
        ("When did Windows 98 come out?", "Windows"),
        ("Who won the Battle of Verdun?", "Battle"),
        ("Who won the Battle of the Somme?", "Battle"),
        ("Who founded Acme Foods?", "Acme"),
        ("What is the status of Path Traversal in Archives?", "Path Traversal"),  # another little word
        ("When does Zürich HB Nord close?", "Zürich HB"),
        ("Who founded Acme\tFoods, and when?", "Acme"),
        ("What is the range of the Boeing 737-900?", "Boeing 737"),
    ],
)
def test_a_longer_name_of_the_family_is_said(text: str, name: str) -> None:
    assert only_in_other(text) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "What is the price of the iPhone 15 Pro?",
        "Who founded Acme Holdings?",
        "Who founded Zenith Foods?",  # nothing says that Zenith is a family
        "What is the revenue of Acme in Germany?",  # it goes on with a capital only
        "What did Acme 2023 cost?",  # nor with a number
        "Where did the Battle take place in France?",
        "Where was the Battle of the year?",
        "Who founded Acme, Foods or Bolt?",
        "What is the range of the Boeing 737-800?",
        "Who flies a Boeing 737-like plane?",
        "Who founded Acme? Foods did.",
        "What was Acme's Foods division?",
        "What is the Acme Annual Revenue?",
        "What is the Acme IATA code?",
        "What is the Acme Prices?",
        "The founder of Acme Please hurry",
        "The founder of Acme Kind regards",
        "The founder of Acme Thanks",
        "WHO FOUNDED ACME FOODS?",
        "who founded acme Foods?",
        "How old is an Oak Please",
        "How old is an Oak Tree",
        "Was Acme Foods founded before Acme?",  # it is said by itself too
        "Who founded Acme",
    ],
)
def test_a_name_with_something_else_behind_it_is_said(text: str) -> None:
    assert only_in_other(text) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("WHERE IS IBM LOCATED?", []),
        ("Where is IBM Located?", ["IBM"]),
        ("WHERE IS IBM 360 LOCATED?", []),  # no family of numbers
        ("WHERE IS RT 9 MADE?", []),
        ("WHERE IS RT 10 MADE?", ["RT"]),  # a digit tells all the same
    ],
)
def test_where_every_letter_is_a_capital_they_tell_nothing(text: str, found: list[str]) -> None:
    assert only_in_other(text, ["IBM", "IBM Watson", "RT", "RT 9"]) == found


def test_a_family_grows() -> None:
    names, text = Names(["Acme"]), "Who founded Acme Foods?"
    assert not names.only_in_other(text, "Acme", ASKED.__contains__)
    names.add(["Acme Holdings", "Acme Motors"])
    assert names.only_in_other(text, "Acme", ASKED.__contains__)
    names.add(["Acme 7"])
    assert names.only_in_other("Who founded Acme 8?", "Acme", ASKED.__contains__)


def test_a_name_that_the_text_does_not_say() -> None:
    assert not Names(NAMES).only_in_other("Who founded Bolt Foods?", "Acme", ASKED.__contains__)


_TEXT = st.lists(st.sampled_from(["A", "a", "B", "of", "7", "A B", "?", ",", "b"]), max_size=6).map(" ".join)


@given(st.lists(_TEXT, max_size=6), _TEXT)
def test_only_a_family_has_longer_names(names: list[str], text: str) -> None:
    known, keys = Names(names), {" ".join(words(name)) for name in names}
    for name in known.meant_in(text):
        key = " ".join(words(name))
        family = [one for one in keys if one.startswith(f"{key} ") or (one and key.startswith(f"{one} "))]
        assert family or not known.only_in_other(text, name, ASKED.__contains__)


def test_large_families_and_long_texts_take_no_time() -> None:
    known = Names(["The W", *(f"The W {number}" for number in range(50_000))])
    text = "The W 50001 " * 2_000
    assert known.only_in_other(text, "The W", ASKED.__contains__)
    assert is_done_within(10, lambda: known.only_in_other(text, "The W", ASKED.__contains__))
