"""Names are found in texts as wholes, the longest where they overlap."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam import KnowledgeBase, Triple
from kblam.knowledge.mention import place_of, words
from kblam.knowledge.names import Names
from kblam.knowledge.stock_phrases import STOCK_PHRASES
from tests.fakes import HashingEncoder

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is the price of Anvil 3?", {"anvil 3"}),
        ("what is the price of ANVIL 3's handle", {"anvil 3"}),
        ("the Anvil 3 Stand and the anvil", {"anvil 3 stand", "anvil"}),
        ("the Anvils", set()),
        ("the big red Anvil of old", {"big red anvil"}),  # the one inside begins later
        ("Anvil 3 stands; Łódź, and O'Neil & Sons", {"anvil 3", "łódź", "o neil sons"}),
        ("", set()),
    ],
)
def test_what_a_text_says(text: str, found: set[str]) -> None:
    assert (
        Names(["Anvil", "Anvil 3", "Anvil 3 Stand", "Big Red Anvil", "Łódź", "O'Neil & Sons", "?!"]).said_in(text)
        == found
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Let me check one detail of Anvil, the price.", ["Anvil"]),
        ("Lookup anvil -> price (one value)", ["anvil"]),
        ("One point for the price of Anvil, another for its age.", ["Anvil"]),
        ("It is for us. Who made the Anvil?", ["Anvil"]),
        ("What is the price of one?", ["one"]),
        ("who made one for us", ["one", "us"]),
        ("Who made the Anvil of The Who in the US?", ["Anvil", "The Who", "US"]),
        ("For whom? The Who and the Anvil.", ["Anvil"]),
        ("The price of the Anvil in Us", ["Anvil"]),
        ("What is the price of 'one' and of “it”, and of Anvil?", ["one", "it", "Anvil"]),
        ("Is it Anvil's or one's price", ["Anvil"]),
    ],
)
def test_a_name_that_any_question_may_say_is_none_beside_another(text: str, found: list[str]) -> None:
    names = Names(["one", "US", "It", "The Who", "Anvil"])
    assert [text[start:end] for start, end in names.spans_in(text)] == found
    assert names.said_in(text) == {one.lower() for one in found}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("before", ["." * 3000 + " ", ". " * 3000, " " * 3000, '"' * 3000])
def test_many_words_that_may_be_names_take_no_time(before: str) -> None:
    """It took minutes, for each was looked for the beginning of its sentence from that of the text on."""
    names = Names(["One", "Anvil"])
    assert names.said_in(f"Anvil {before}{'One ' * 3000}") == {"anvil", "one"}
    assert names.said_in(f"Anvil {before}{'one ' * 3000}") == {"anvil"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Would you mind telling me the meaning of navy?", ["navy"]),
        ("Would you mind telling me the meaning of shore?", []),
        ("Would you mind telling me the meaning of mind?", ["mind"]),
        ("fill in the BLANK: the meaning of navy is ...", ["navy"]),
        ("What is a blank, by the way?", ["blank"]),
        ("What is the way of a blank mind?", ["way", "blank mind"]),
        ("Keep in 'mind' what Good Morning means.", ["mind", "Good Morning"]),
        ("if you don't mind, good morning, wait a minute", ["good morning"]),
        ("How long is a minute in the Mind?", ["minute", "Mind"]),
        ("Never Mind.", ["Mind"]),  # with its capitals, where no sentence begins
        ("Never mind the mind: have a minute?", ["mind"]),
        ("What is a bit, and what is loaded from memory at work?", ["bit", "memory"]),  # said as often of these
    ],
)
def test_a_part_of_a_stock_phrase_is_no_name(text: str, found: list[str]) -> None:
    names = Names(
        ["mind", "Mind", "blank", "blank mind", "navy", "way", "good morning", "morning", "minute", "bit", "memory"]
    )
    assert [text[start:end] for start, end in names.spans_in(text)] == found
    assert names.said_in(text) == {one.lower() for one in found}


@pytest.mark.timeout(20)
def test_many_stock_phrases_take_no_time() -> None:
    names = Names(["mind", "navy"])
    assert names.said_in("would you mind " * 20_000) == set()
    assert names.said_in("would you mind, mind " * 20_000) == {"mind"}


def test_every_stock_phrase_is_of_several_words_and_there_once() -> None:
    assert all(len(words(phrase)) > 1 for phrase in STOCK_PHRASES)
    count = len({" ".join(words(phrase)) for phrase in STOCK_PHRASES})
    assert count == len(STOCK_PHRASES)
    told = {"README.md": "{} stock", "docs/answers.md": "lists {})", "kblam/assets/smollm2/README.md": "{} stock"}
    assert all(text.format(count) in (ROOT / page).read_text(encoding="utf-8") for page, text in told.items())


def test_what_people_do_not_mind_and_have_to_hand_is_no_name() -> None:
    names = Names(["mind", "hand", "Hachiman"])
    assert names.meant_in("Mind telling me what Hachiman has down?") == ["Hachiman"]
    assert names.meant_in("Would you happen to have Hachiman to hand?") == ["Hachiman"]
    assert names.meant_in("What is a mind?") == ["mind"]


def test_a_property_that_any_question_may_say_is_one_beside_another() -> None:
    properties = Names(["time", "price", "name"], of_entities=False)
    assert properties.said_in("Tell me the time, the name and the price") == {"time", "price", "name"}


def test_names_are_given_as_they_are_written_and_all_of_the_same_words() -> None:
    names = Names(["C++", "C", "Quiet Harbor", "C"])
    names.add(["Quiet Harbor", "quiet harbor"])
    assert sorted(names.meant_in("Is QUIET HARBOR in c?")) == ["C", "C++", "Quiet Harbor", "quiet harbor"]
    assert names.meant_in("quiet") == []


WORDS = st.lists(st.sampled_from("bcx"), max_size=7)


@given(st.lists(st.lists(st.sampled_from("bcx"), min_size=1, max_size=3)), WORDS)
def test_every_name_that_is_said_is_found_or_part_of_one_that_is(names: list[list[str]], said: list[str]) -> None:
    found = Names(" ".join(name) for name in names).said_in(" ".join(said))
    assert all(place_of(said, one.split()) is not None and one.split() in names for one in found)
    for name in names:
        if place_of(said, name) is not None:
            assert any(place_of(words(one), name) is not None for one in found)


def test_names_of_a_knowledge_base() -> None:
    with KnowledgeBase.from_triples([], HashingEncoder(8)) as kb:
        assert kb.names() == []
        kb.add([Triple("A", "x", "1"), Triple("A", "y", "1"), Triple("B", "x", "1")])
        before = kb.revision
        assert sorted(kb.names()) == ["A", "B"]
        kb.add(Triple("C", "x", "1"))
        assert kb.names(since=before) == ["C"]


def test_a_part_of_an_identifier_is_no_name() -> None:
    names = Names(["get", "user", "C_", "order items", "__init__"])
    assert names.meant_in("what does get_user return?") == []
    assert names.spans_in("what does get_user return?") == []
    assert names.meant_in("what is C") == []
    assert names.meant_in("how many order_items are there?") == ["order items"]
    assert names.meant_in("what does __init__ do, and `get`?") in (["__init__", "get"], ["get", "__init__"])
    assert names.meant_in("what does init do?") == []


def test_names_come_in_the_order_of_the_text() -> None:
    """Not in that of a set, which is another one in each process: of too many triples the first names' are kept."""
    names = [f"name{letter}" for letter in "qwertyuiop"]
    assert Names(sorted(names)).meant_in("Of " + ", ".join([*names, names[0]])) == names


NAMES = [
    "Anvil",
    "anvil",
    "Anvil 3",
    "Anvil 3 Stand",
    "O'Neil & Sons",
    "José Álvarez",
    "OrderService",
    "東京タワー",
    "?!",
    "C++",
]


@given(st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_names_without_what_is_gone_are_those_that_are_left(before: set[str], now: set[str]) -> None:
    """In all that look-ups read; who looks into the names of before meanwhile finds them all."""

    def read(names: Names) -> list[object]:
        alike = [{key: set(found) for key, found in each.items()} for each in (names._known, names._otherwise)]
        families = {first: set(keys) for first, keys in names._longer._by_first.items() if keys}
        anywhere = {one: set(found) for one, found in names._anywhere._names.items() if found}
        return [*alike, families, anywhere, names._longer._known is names._known]

    names = Names(sorted(before))
    rest = names.as_now(now)
    assert read(names) == read(Names(before))
    assert (rest is names) == (before <= now)
    rest.add(sorted(now))
    assert read(rest) == read(Names(now))
    if rest is not names:
        assert read(names) == read(Names(before))
