"""Names that people type otherwise than a knowledge base writes them are read as they are meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.knowledge.names import Names
from kblam.knowledge.spelling import otherwise

NAMES = [
    "Ann Lee",
    "José Álvarez",
    "Procter & Gamble",
    "Barnes and Noble",
    "O'Brien Ltd",
    "McDonald’s",
    "J.K. Rowling",
    "U.S.",
    "Lyon",
    "Lyons",
    "Jan Müller",
    "Ingrid Ødegård",
    "Ёлка",
    "مُحَمَّد",
    "दिन",
    "Résumé",
    "Resumé",
    "C",
    "C++",
    "Velmo Lamp",
    "Hi",
    "Pole Ándrej Novák",
    "Novak",
]
PROPERTIES = {"height", "phone number", "mayor", "color"}


def meant(text: str) -> str:
    return Names(NAMES).as_meant(text, lambda words: words.casefold() in PROPERTIES)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("Where was jose alvarez born?", "Where was José Álvarez born?"),
        ("jose alvarez's height", "José Álvarez's height"),
        ("Jan Mueller or JAN MULLER?", "Jan Müller or Jan Müller?"),
        ("Ingrid Oedegaard, Ingrid Odegard", "Ingrid Ødegård, Ingrid Ødegård"),
        ("José A\u0301lvarez and елка", "José A\u0301lvarez and Ёлка"),  # the first is the name in another normal form
        ("محمد", "مُحَمَّد"),
        ("the mayor of procter and gamble", "the mayor of Procter & Gamble"),
        ("Barnes & Noble", "Barnes and Noble"),
        ("obrien ltd and mcdonalds", "O'Brien Ltd and McDonald’s"),
        ("JK Rowling", "J.K. Rowling"),
        ("J. K. Rowling", "J. K. Rowling"),  # said word for word
        ("whats ann lees height", "whats Ann Lee's height"),
        ("whats ann lees phone numbers, please", "whats Ann Lee's phone numbers, please"),
        ("jan mullers color and ann lees mayor", "Jan Müller's color and Ann Lee's mayor"),
        ("Pole andrej novak", "Pole Ándrej Novák"),  # longer than the "Novak" that is said word for word
    ],
)
def test_names_are_read_as_they_are_written(typed: str, read: str) -> None:
    assert meant(typed) == read
    assert meant(read) == read


@pytest.mark.parametrize(
    "text",
    [
        "tell us about it",  # "U.S." typed so is another word
        "the mayor of lyons",
        "lyons mayor",  # of Lyons, not of Lyon
        "दन",  # a vowel sign is no mark that people leave out
        "my resume",  # one of two names
        "What do Velmo Lamps cost?",  # no property follows
        "his height",
        "the height of Ann and Lee",
        "c++",
        "ann lee's height",
        "",
    ],
)
def test_what_is_said_or_may_mean_something_else_stays(text: str) -> None:
    assert meant(text) == text


def test_names_that_are_typed_as_they_are_written_take_no_more_room() -> None:
    assert otherwise("Quiet Harbor-3 (old), +1") == set()
    assert otherwise("Ødegård") == {"odegard", "oedegaard"}
    assert otherwise("Procter & Gamble") == {"procter and gamble"}


LETTERS = st.text(st.sampled_from("aáäoøs'&. "), max_size=12)


@given(st.lists(LETTERS, max_size=4), LETTERS)
def test_what_is_meant_is_said_word_for_word_then(names: list[str], text: str) -> None:
    known = Names(names)
    read = known.as_meant(text, lambda words: words == "a")
    assert read == text or known.said_in(read) - known.said_in(text)
    assert known.as_meant(read, lambda words: words == "a") == read
