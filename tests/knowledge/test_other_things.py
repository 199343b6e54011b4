"""Words beside a name that make something else of it: another name, or what belongs to whom it names."""

from __future__ import annotations

import pytest

from kblam.knowledge.names import Names
from kblam.knowledge.vocabulary import Vocabulary
from tests.timing import is_done_within

NAMES = ["York", "Virginia", "Guinea", "Acme", "Ann Lee", "Globex", "Moss Holdings", "John of New York"]
PROPERTIES = ["capital", "population", "phone number", "employer", "CEO", "number of employees", "founder"]
ASKED = Vocabulary([*PROPERTIES, "revenue", "email address", "location", "phone"])


def only_in_other(text: str) -> list[str]:
    known = Names(NAMES)
    return [name for name in known.meant_in(text) if known.only_in_other(text, name, ASKED.__contains__, PROPERTIES)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("What is the population of New York?", "York"),
        ("New York population", "York"),
        ("what's the population of new york", "York"),
        ("WHAT IS THE POPULATION OF NEW YORK?", "York"),
        ("new york population", "York"),
        ("What is the capital of West Virginia?", "Virginia"),
        ("what is the capital of west virginia?", "Virginia"),
        ("How many people live in northern Virginia?", "Virginia"),
        ("What is the capital of Papua New Guinea?", "Guinea"),
        ("What is the capital of Equatorial  Guinea?", "Guinea"),
        ("What is the capital of Guinea-Bissau?", "Guinea"),
        ("Who founded Acme-Foods?", "Acme"),
        ("Who founded Bolt-Acme?", "Acme"),
    ],
)
def test_another_name_is_said(text: str, name: str) -> None:
    assert only_in_other(text) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "What is the population of York?",
        "What's the North Yorkshire town York's population?",
        "What is the phone number of the new Acme?",
        "What is the phone number of the New Acme?",
        "is there a new acme phone number",
        "Is there a new Acme phone number?",
        "IS THERE A NEW ACME PHONE NUMBER?",
        "is new acme open",
        "How old is John of New York?",  # a name of the base
        "Is New York larger than York?",
        "Who is the Acme-CEO?",
        "Which is the non-Acme tower?",
        "Is Acme-owned land for sale?",
        "Who runs Acme - Globex does not?",
        "What lies north of Virginia?",
        "What is new? Acme?",
    ],
)
def test_the_name_itself_is_said(text: str) -> None:
    assert only_in_other(text) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("What is the phone number of Ann Lee's mother?", "Ann Lee"),
        ("what is the phone number of ann lee's older sister?", "Ann Lee"),
        ("Tell me the phone number for Ann Lee’s boss.", "Ann Lee"),
        ("What is the capital of Virginia's neighbour?", "Virginia"),
        ("Where does Ann Lee's husband's brother live?", "Ann Lee"),
        ("What is Acme's chief engineer's phone number?", "Acme"),
        ("What is Acme's CEO's phone number?", "Acme"),
        ("The Moss Holdings' neighbour's phone number?", "Moss Holdings"),
        ("What is the phone number of the CEO of Acme?", "Acme"),
        ("Who is the founder of the employer for the Ann Lee?", "Ann Lee"),
        ("What is the capital of the capital of Virginia?", "Virginia"),
    ],
)
def test_it_is_about_what_belongs_to_it(text: str, name: str) -> None:
    assert only_in_other(text) == [name]


@pytest.mark.parametrize(
    "text",
    [
        "What is Ann Lee's phone number?",
        "What is the value of Ann Lee's phone number?",
        "What is the number of Acme's employees?",
        "What is the phone number of Ann Lee's?",
        "What is the phone number of Ann Lee's please?",
        "What is the name of Acme's founder?",
        "What is Acme's founder's name?",
        "What is the location of the employer of Ann Lee?",  # is that
        "What is the population of the city of York?",
        "What is the number of the phone of Ann Lee?",
        "What is the number of the employees of Acme?",
        "Who is the assistant of the founder of Acme?",  # no property
        "What is Acme's founder's full name?",
        "What is Acme's last year's revenue?",
        "What is Ann Lee's and Bob's employer?",
        "What does Ann Lee's job say about her employer?",
        "What do you know of Ann Lee's job?",  # nothing is asked for before
        "Ann Lee's mother asks for the phone number of Ann Lee",  # it is said by itself too
    ],
)
def test_it_is_about_whom_it_names(text: str) -> None:
    assert only_in_other(text) == []


def test_a_property_of_the_name_that_only_it_has_is_asked_for() -> None:
    known, text = Names(["Ann Lee"]), "What is the color of Ann Lee's bicycle?"
    assert known.only_in_other(text, "Ann Lee", ASKED.__contains__, ["color"])
    assert not known.only_in_other(text, "Ann Lee", ASKED.__contains__, ["color", "bicycle color"])
    text = "What is the phone of the CEO of Ann Lee?"
    assert known.only_in_other(text, "Ann Lee", ASKED.__contains__, ["CEO"])
    assert not known.only_in_other(text, "Ann Lee", ASKED.__contains__, ["CEO", "CEO phone"])


def test_long_texts_take_no_time() -> None:
    known = Names(["Acme"])
    for text in (
        "the phone number of Acme's mother " * 3_000,
        "Acme-" * 20_000,
        "new " * 30_000 + "Acme",
        "a " * 50_000,
    ):
        assert is_done_within(10, lambda text=text: known.only_in_other(text, "Acme", ASKED.__contains__, PROPERTIES))
