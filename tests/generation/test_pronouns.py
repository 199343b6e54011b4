"""A second question that says "it" or "her" asks about the name in the first."""

from __future__ import annotations

import pytest

from kblam.generation.clauses import Split, splits
from kblam.generation.pronouns import resolved
from kblam.knowledge.names import Names

NAMES = Names(["Acme", "Ann Lee", "Globex", "Mount Brel"])


def parts_of(question: str) -> list[tuple[str, ...]]:
    found = [resolved(question, split, NAMES.spans_in) for split in splits(question)]
    assert not any(one.is_explicit for one in found if one is not None)
    return list(dict.fromkeys(one.parts for one in found if one is not None))


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Who founded Acme and what is its revenue?", ("Who founded Acme?", "What is Acme's revenue?")),
        (
            "Who is Ann Lee's employer, and what is her phone number?",
            ("Who is Ann Lee's employer?", "What is Ann Lee's phone number?"),
        ),
        ("Where is Globex based and who runs it?", ("Where is Globex based?", "Who runs Globex?")),
        ("Who runs Globex? Where is it based?", ("Who runs Globex?", "Where is Globex based?")),
        ("Who runs Globex? And its revenue?", ("Who runs Globex?", "And Globex's revenue?")),
        ("How old is Ann Lee and where can I meet her?", ("How old is Ann Lee?", "Where can I meet Ann Lee?")),
        (
            "How high is Mount Brel and in which country is it?",
            ("How high is Mount Brel?", "In which country is Mount Brel?"),
        ),
    ],
)
def test_a_pronoun_means_the_name_before(question: str, parts: tuple[str, ...]) -> None:
    assert parts in parts_of(question)


@pytest.mark.parametrize(
    "question",
    [
        "Who founded Acme and who founded Globex?",
        "Someone left the height off the label of Acme. What should it read?",  # is one question
        "Who founded Acme? I need it for a report.",
        "I want to call Acme and what is its revenue?",
        "And I need to know Acme; what is its revenue?",
        "What is the revenue of Acme, I mean, how much does it earn?",
        "Who founded Acme and Globex, and where are they based?",  # which of the two
        "Who founded it and what is its revenue?",
        "Who founded Acme?",
    ],
)
def test_no_other_name_is_put_anywhere(question: str) -> None:
    assert parts_of(question) == []


def test_what_a_name_holds_is_no_pattern() -> None:
    name = r"A\1 \g<0> B"
    split = Split((f"Who is {name}?", "Where is it?", "And its age?"), ((0, 0), (0, 0)), is_explicit=True)
    found = resolved("", split, lambda text: [(text.index(name), text.index(name) + len(name))] if name in text else [])
    assert found is not None
    assert found.parts == (f"Who is {name}?", f"Where is {name}?", f"And {name}'s age?")
