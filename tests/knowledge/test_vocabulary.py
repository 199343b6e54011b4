"""The properties of a knowledge base in questions, also where a program wrote them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.data.meaning import same_meaning
from kblam.knowledge.identifiers import in_words, spoken
from kblam.knowledge.mention import mentions, says_property
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
        ("HRManager", "HR manager"),
        ("address2Line", "address2 line"),
        ("Q1Revenue", "Q1 revenue"),
        ("PriceUSD", "price USD"),
        ("größeInMetern", "größe in metern"),
        ("contactInfo phoneNumber", "contact info phone number"),  # as the reader names what is nested
        ("GitHubURL", "GitHub URL"),
        ("wifiPassword", "wifi password"),
        ("WiFiPassword", "WiFi password"),
        ("maxkWh", "maxkWh"),
        ("mmHg", "mmHg"),
        ("URLs", "URLs"),
        ("customerIDs", "customer IDs"),
        ("imageURLsOfPage", "image URLs of page"),
        ("linkedInvoice", "linked invoice"),
        ("blackWhite", "black white"),
        ("Date of birth", "Date of birth"),
        ("price", "price"),
        ("CAS number", "CAS number"),
        ("owner of DeepMind", "owner of DeepMind"),
        ("ICAO", "ICAO"),
        ("_", "_"),
        *((one, one) for one in ("pH", "eMail", "the iPhone", "WiFi", "MySQL", "PhD", "H2O", "LinkedIn", "macOS")),
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
    "text", ["What is Ann Lee's dateOfBirth?", "dateofbirth of Ann Lee", "Ann Lee的dateOfBirth是什么"]
)
def test_a_question_says_a_column_as_it_is_written(text: str) -> None:
    assert says_property(text, "dateOfBirth")
    said = Vocabulary(["dateOfBirth", "price"]).said_in(text, "Ann Lee")
    assert said.is_other("price") is (" " in text.replace("Ann Lee", ""))  # words that run on are found by `says` alone
    assert not said.is_other("dateOfBirth")
    assert mentions(text, "Ann Lee", "dateOfBirth") is (" " in text.replace("Ann Lee", ""))


def test_a_column_takes_nothing_from_others_that_look_like_it() -> None:
    vocabulary = Vocabulary(["webSite", "website URL", "website"])
    said = vocabulary.said_in("What is the website URL of Ann Lee?", "Ann Lee")
    assert [said.is_other(one) for one in ("website URL", "webSite", "price")] == [False, False, True]
    assert says_property("the web site of Ann Lee", "webSite")
    assert not says_property("the web site of Ann Lee", "website")


def test_a_property_is_not_missing_because_it_is_written_otherwise() -> None:
    assert same_meaning("date of birth", "dateOfBirth")
    assert not same_meaning("date of death", "dateOfBirth")
    assert all(same_meaning(*two) for two in (("URLs", "URL"), ("fileName", "filename"), ("OpenAI", "openai")))


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


def test_what_a_name_has_in_it_is_no_other_property_wherever_it_is_said() -> None:
    known = Vocabulary(["height", "founder", "color"])
    assert not known.said_in("Height Tower, I mean Height Tower", "Height Tower").is_other("founder")
    assert known.said_in("the height of Height Tower, I mean Height Tower", "Height Tower").is_other("founder")
    assert known.said_in("the color of Color", "Color").is_other("founder"), "a name that is a property too"
