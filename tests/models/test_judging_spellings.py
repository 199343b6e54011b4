"""A judge reads properties however they are spelled: as columns, in camel case, in two ways in one knowledge base."""

from __future__ import annotations

import dataclasses
from itertools import chain

import pytest

from kblam.adapter.confidence import Signs
from kblam.generation.parts import as_meant
from kblam.models.judging import Judge
from tests.fakes import HashingEncoder
from tests.models.judges import adapter, judged, vectors


@pytest.mark.parametrize("other", ["date_of_birth", "dateOfBirth", "Date of Birth"])
def test_a_property_that_is_spelled_in_two_ways_counts_once(other: str) -> None:
    """Of two files with columns of their own style; the share was cut in halves, and the question refused."""
    encoder, asking = HashingEncoder(16), adapter(background=("phone number",))
    found = [("Ann Lee", prop, 0.2) for prop in (other, "price")]
    asked = [
        judged(text, *found)
        for text in (
            "Ann Lee was born when?",
            f"the {other} of Ann Lee",
            "the date of birth of Ann Lee",
            "Ann Lee's price",
        )
    ]

    def signs(*properties: str) -> list[list[Signs]]:
        judge = Judge(asking, lambda texts: vectors(encoder, [text.lower() for text in texts]), properties)
        assert len(judge._compared.vectors) == 4  # with everything and the background
        return judge.signs(asked)

    alone = signs(other, "price")
    for both in (("date of birth", other, "price"), (other, "price", "date of birth")):
        for one, wanted in zip(chain(*signs(*both)), chain(*alone), strict=True):
            assert one.numbers == pytest.approx(wanted.numbers, abs=1e-5)
    assert [one.beaten for one in chain(*alone)][2:6] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        (("price in $", "price in €"), "What is the price in € of Anvil 3?"),
        (("fileName", "filename"), "What is the filename of Anvil 3?"),
        (("filename", "fileName"), "What is the fileName of Anvil 3?"),
        (("...", "%"), "What is % of Anvil 3?"),
    ],
)
def test_properties_of_like_words_stay_apart(properties: tuple[str, str], text: str) -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), [*properties, "size"])
    assert len(judge._compared.vectors) == 4  # with everything
    found = [("Anvil 3", prop, 0.2) for prop in (*properties, "size")]
    one, other, _ = judge.signs([judged(text, *found)])[0]
    assert one.share != other.share
    assert (one.beaten, other.beaten) == (0, 0), "each is said as the other is"
    judge.compare_with([properties[1], "size"])
    fresh = Judge(asking, lambda texts: vectors(encoder, texts), [properties[1], "size"])
    assert judge.signs([judged(text, *found)]) == fresh.signs([judged(text, *found)])


@pytest.mark.parametrize("column", ["date_of_birth", "dateOfBirth", "DateOfBirth"])
def test_a_column_s_name_is_the_property_that_people_say(column: str) -> None:
    """Of "date_of_birth" the background has words that would be said in its place."""
    encoder, asking = HashingEncoder(16), adapter(background=("date of birth", "phone number"))
    judge = Judge(asking, lambda texts: vectors(encoder, texts), [column, "price"], ["Ann Lee"])
    found = [("Ann Lee", prop, 0.2) for prop in (column, "price")]
    question = "What is the date of birth of Ann Lee?"
    (as_column, other) = judge.signs([judged(question, *found)])[0]
    assert (as_column.property, as_column.other, as_column.beaten) == (1, 0, 0)
    assert (other.property, other.other, other.beaten) == (0, 1, 1)
    spaced = Judge(asking, lambda texts: vectors(encoder, texts), ["date of birth", "price"], ["Ann Lee"])
    found = [("Ann Lee", prop, 0.2) for prop in ("date of birth", "price")]
    for one, wanted in zip(spaced.signs([judged(question, *found)])[0], (as_column, other), strict=True):
        assert one.numbers == pytest.approx(wanted.numbers, abs=1e-5)
    # A column that questions bring, which is not among those compared.
    alone = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], ["Ann Lee"])
    brought = alone.signs([judged(question, ("Ann Lee", column, 0.2), ("Ann Lee", "price", 0.2))])[0]
    assert [one.property for one in brought] == [1, 0]
    assert [one.beaten for one in brought] == [0, 1]


def test_a_question_says_a_column_as_it_is_written() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["dateOfBirth", "jobTitle"], ["Ann Lee", "jobTitle"])
    found = [("Ann Lee", prop, 0.2) for prop in ("dateOfBirth", "jobTitle")]
    for text in ("Ann Lee's dateOfBirth", "the dateofbirth of Ann Lee", "the date of birth of Ann Lee"):
        assert judge.as_meant(text) == text
        mine, other = judge.signs([judged(text, *found)])[0]
        assert (mine.property, mine.other, mine.beaten) == (1, 0, 0)
        assert (other.property, other.other) == (0, 1)
    assert judge.as_meant("ann lees dateofbirth") == "Ann Lee's dateofbirth"
    assert judge.as_meant("ann lees date of birth") == "Ann Lee's date of birth"
    assert judge.is_property("date of birth")
    assert judge.is_property("dateOfBirth")


def test_a_property_of_the_background_is_no_identifier() -> None:
    """Whoever asks for Bob's phone number, which the knowledge base lacks, does not ask for `PhoneNumber`."""
    encoder = HashingEncoder(16)
    names = ["PhoneNumber", "OrderService"]
    asked = "bob phone number and the order service"
    read = "bob phone number and the OrderService"
    asking = adapter(background=("Phone number",))
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["owner"], names)
    assert as_meant(asking.config, asked, judge, encoder) == read
    alone = dataclasses.replace(asking.config, background=())
    assert as_meant(alone, asked, judge, encoder) == "bob PhoneNumber and the OrderService"
