"""What a base has under another name than people ask by is compared by both, and is no rival of itself."""

from __future__ import annotations

import pytest
import torch

from kblam import Triple
from kblam.models.compared import Compared
from kblam.models.judging import Judge
from tests.fakes import HashingEncoder
from tests.models.judges import adapter, against, base, judged, shares_of, vectors

BACKGROUND = ("part of speech", "price")


ASKING = adapter(background=BACKGROUND)


def judge_of(*properties: str) -> Judge:
    return Judge(ASKING, lambda texts: vectors(HashingEncoder(16), texts), properties)


def key_vectors(*properties: str) -> torch.Tensor:
    return vectors(HashingEncoder(16), [f"the {one} of it" for one in properties])


@pytest.mark.parametrize("column", ["word class", "wordClass", "word_class", "word classes"])
def test_the_share_of_a_column_is_that_of_both_names(column: str) -> None:
    judge = judge_of(column, "example")
    found = [("Anvil 3", prop, 0.2) for prop in (column, "example")]
    signs = judge.signs([judged("Anvil 3, which kind is it?", *found)])[0]
    spoken = {"wordClass": "word class", "word_class": "word class"}.get(column, column)
    keys = key_vectors("everything", "price", "part of speech", spoken, "example")
    asked = vectors(HashingEncoder(16), ["it, which kind is it?"])
    everything, price, usual, written, example = shares_of(ASKING, asked, keys)[0].exp().tolist()
    wanted = [usual + written, example]
    expected = [against(one, of_none=[everything, price]) for one in wanted]
    assert [one.share for one in signs] == pytest.approx(expected, abs=1e-5)
    most = max(everything, *wanted)
    assert [one.best for one in signs] == [float(one == most) for one in wanted]


def test_what_an_entity_lacks_under_two_names_counts_once() -> None:
    """The background's share is in that of the column, and does not speak against others a second time."""
    judge = judge_of("word class", "example")
    (sign,) = judge.signs([judged("Anvil 3, which kind is it?", ("Anvil 3", "example", 0.2))])[0]
    keys = key_vectors("everything", "price", "part of speech", "word class", "example")
    asked = vectors(HashingEncoder(16), ["it, which kind is it?"])
    everything, price, usual, written, example = shares_of(ASKING, asked, keys)[0].exp().tolist()
    assert sign.share == pytest.approx(against(example, [usual + written], [everything, price]), abs=1e-5)


def test_who_says_the_other_name_says_the_column() -> None:
    judge = judge_of("word class", "example")
    found = [("Anvil 3", prop, 0.2) for prop in ("word class", "example")]
    for text in ("the part of speech of Anvil 3", "the word class of Anvil 3"):
        column, other = judge.signs([judged(text, *found)])[0]
        assert (column.property, column.other, column.beaten) == (1, 0, 0), text
        assert (other.property, other.other, other.beaten) == (0, 1, 1), text
        assert column.share > other.share


def test_without_the_column_it_is_a_rival() -> None:
    judge = judge_of("example")
    (other,) = judge.signs([judged("the part of speech of Anvil 3", ("Anvil 3", "example", 0.2))])[0]
    assert (other.property, other.other, other.beaten) == (0, 1, 1)
    assert judge._compared.means == judge._compared.joined == {}


def test_what_two_columns_mean_is_neithers_and_no_rival() -> None:
    compared = judge_of("word class", "lexical category", "example")._compared
    assert compared.joined == {}
    assert "part of speech" not in compared.columns
    assert compared.called("word class") == ("word class", "part of speech")
    assert compared.called("lexical category") == ("lexical category", "part of speech")
    judge = judge_of("word class", "lexical category", "example")
    found = [("Anvil 3", prop, 0.2) for prop in ("word class", "lexical category", "example")]
    signs = judge.signs([judged("the part of speech of Anvil 3", *found)])[0]
    assert [(one.property, one.other, one.beaten) for one in signs] == [(1, 0, 0), (1, 0, 0), (0, 1, 1)]


def test_a_triple_of_the_other_name_itself_has_its_share() -> None:
    """A base has more properties than are compared, and a calibration asks several of few."""
    found = [("Anvil 3", prop, 0.2) for prop in ("word class", "part of speech", "example")]
    signs = judge_of("word class", "example").signs([judged("the part of speech of Anvil 3", *found)])[0]
    assert -2 < signs[1].share <= signs[0].share
    assert [(one.property, one.other, one.beaten) for one in signs] == [(1, 0, 0), (1, 0, 0), (0, 1, 1)]


def test_an_overview_is_the_description_that_the_base_has() -> None:
    def describing(*properties: str) -> list[str]:
        compared = Compared.of(properties, ("description",), lambda texts: torch.zeros(len(texts), 1))
        return sorted(compared.describing.values())

    assert describing("price") == ["description"]
    assert describing("overview", "price") == []


def test_two_spellings_of_one_column_are_one() -> None:
    compared = judge_of("word class", "wordClass", "example")._compared
    assert compared.joined == {compared.columns["part of speech"]: compared.columns["wordClass"]}
    assert compared.columns["wordClass"] == compared.columns["word class"]


@pytest.mark.parametrize("own", ["part of speech", "Part of Speech", "partOfSpeech"])
def test_a_base_that_has_the_property_by_that_name_too_joins_nothing(own: str) -> None:
    compared = judge_of("word class", own, "example")._compared
    assert (compared.joined, compared.means) == ({}, {})


def test_a_column_that_is_added_takes_the_share_and_one_that_is_removed_gives_it_back() -> None:
    encoder = HashingEncoder(16)
    knowledge, judge = base(encoder, "example"), judge_of()
    judge.follow(knowledge)
    assert judge._compared.joined == {}
    knowledge.add([Triple("Anvil 9", "word class", "noun")])
    judge.follow(knowledge)
    assert len(judge._compared.joined) == 1
    knowledge.remove("Anvil 9")
    judge.follow(knowledge)
    assert judge._compared.joined == {}


def test_vectors_are_taken_over() -> None:
    asked: list[str] = []

    def vectors_of(properties: list[str]) -> torch.Tensor:
        asked.extend(properties)
        return torch.tensor([[float(len(one))] for one in properties]).reshape(-1, 1)

    first = Compared.of(["example"], BACKGROUND, vectors_of)
    assert asked == ["everything", "part of speech", "price", "example"]
    second = Compared.of(["word class", "example"], BACKGROUND, vectors_of, before=first, revision=2)
    assert asked[4:] == ["word class"]
    assert [of_column[0] for of_column in second.shown] == [
        "everything",
        "price",
        "part of speech",
        "word class",
        "example",
    ]
    assert second.vectors.flatten().tolist() == [10, 5, 14, 10, 7]
    assert second.revision == 2
