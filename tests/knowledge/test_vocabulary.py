"""The properties of a knowledge base in questions, also where a program wrote them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.knowledge.identifiers import in_words, spoken
from kblam.knowledge.mention import mentions
from kblam.knowledge.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("property", "wanted"),
    [
        ("dateOfBirth", "date of birth"),
        ("DateOfBirth", "date of birth"),
        ("date_of_birth", "date of birth"),
        ("websiteURL", "website URL"),
        ("CustomerID", "customer ID"),
        ("IPAddress", "IP address"),
        ("isHTTPServer", "is HTTP server"),
        ("address2Line", "address2 line"),
        ("Date of birth", "Date of birth"),
        ("price", "price"),
        ("CAS number", "CAS number"),
        ("the iPhone", "the iPhone"),
        ("ICAO", "ICAO"),
        ("_", "_"),
        ("größeInMetern", "größeInMetern"),
        # Names and abbreviations, whose parts are no words.
        *((one, one) for one in ("pH", "eMail", "iPhone", "WiFi", "MySQL", "PhD", "H2O", "PostgreSQL", "GraphQL")),
        *((one, one) for one in ("LinkedIn", "linkedIn", "YouTube", "macOS")),
    ],
)
def test_a_program_s_property_as_people_say_it(property: str, wanted: str) -> None:
    assert spoken(property) == wanted


@given(st.text(max_size=12))
def test_in_words_only_parts_a_word(property: str) -> None:
    assert re.sub(r"\s", "", in_words(property)).casefold() == re.sub(r"\s", "", property).casefold()


@pytest.mark.parametrize("property", ["dateOfBirth", "date_of_birth", "Date of Birth"])
def test_a_question_says_a_column_in_words(property: str) -> None:
    assert mentions("What is the date of birth of Ann Lee?", "Ann Lee", property)
    assert not mentions("What is the date of burial of Ann Lee?", "Ann Lee", property)
    vocabulary = Vocabulary([property, "price"])
    assert "date of  BIRTH" in vocabulary
    assert "DateOfBirth" in vocabulary
    assert "birth" not in vocabulary
    said = vocabulary.said_in("What is the date of birth of Ann Lee?", "Ann Lee")
    assert (said.is_other("price"), said.is_other(property)) == (True, False)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("What is Ann Lee's dateOfBirth?", "What is Ann Lee's date of birth?"),
        ("DATEOFBIRTH, jobtitle of Ann Lee", "date of birth, job title of Ann Lee"),
        ("my_dateOfBirth, dateOfBirths and listPrice", "my_dateOfBirth, dateOfBirths and listPrice"),
        ("What is the date of birth of jobTitle?", "What is the date of birth of jobTitle?"),  # a name
        ("", ""),
    ],
)
def test_a_program_s_property_in_a_question_is_put_in_words(text: str, wanted: str) -> None:
    def names(text: str) -> list[tuple[int, int]]:
        return [one.span() for one in re.finditer("jobTitle", text)]

    assert Vocabulary(["dateOfBirth", "jobTitle", "list price", "pH"]).in_words(text, names) == wanted


def test_where_no_property_is_a_program_s_no_name_is_looked_for() -> None:
    assert Vocabulary(["date of birth"]).in_words("What is the dateOfBirth?", lambda text: 1 / 0) == (  # type: ignore[arg-type,return-value]
        "What is the dateOfBirth?"
    )


@pytest.mark.parametrize(
    ("property", "text", "is_other"),
    [
        ("price", "What is the weight of Anvil 3?", True),
        ("price", "What is the price of Anvil 3?", False),
        ("price", "What is the weight and the price of Anvil 3?", False),
        ("price", "What does Anvil 3 cost?", False),
        ("phone number", "What is the number of Anvil 3?", False),  # says less than the property, and nothing else
        ("number", "What is the phone number of Anvil 3?", False),  # says the property
        ("price", "What is the phone number of Anvil 3?", True),
        ("price", "What does the Weight Anvil cost?", False),  # in the name
    ],
)
def test_another_property_in_place_of_one(property: str, text: str, is_other: bool) -> None:
    vocabulary = Vocabulary(["price", "weight", "number", "phone number"])
    name = "Weight Anvil" if "Weight Anvil" in text else "Anvil 3"
    assert vocabulary.said_in(text, name).is_other(property) is is_other


def test_more_or_fewer_words_of_one_property() -> None:
    assert Vocabulary(["date_of_birth"]).covers("date of birth")
    vocabulary = Vocabulary(["phone number", "price"])
    assert [vocabulary.covers(one) for one in ("number", "list price", "age", "phone")] == [True, True, False, True]
