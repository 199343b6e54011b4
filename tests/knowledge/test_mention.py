"""What a question says of a fact in so many words."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kblam.knowledge import mention
from kblam.knowledge.mention import (
    mentions,
    says,
    says_property,
    spans_of,
    to_the_letter,
    without_name,
    words,
    words_at,
)
from kblam.knowledge.names import Names


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        ("What is the lead engineer of Project Nightjar?", True),
        ("project nightjar's LEAD ENGINEER?", True),
        ("Who leads Project Nightjar?", False),
        ("What is the engineer of Project Nightjar?", False),
        ("What is the lead engineer of Project Night?", False),
        ("", False),
    ],
)
def test_name_and_property_stand_there_word_for_word(text: str, is_said: bool) -> None:
    assert mentions(text, "Project Nightjar", "lead engineer") is is_said


def test_any_script_and_marks() -> None:
    assert mentions("Łódź-ის მერი?", "Łódź", "მერი")
    assert not mentions("?", "...", "?")


@pytest.mark.parametrize(
    ("text", "name", "bare"),
    [
        ("Who founded Project Nightjar?", "Project Nightjar", "Who founded it?"),
        ("who founded project  nightjar", "Project Nightjar", "who founded it"),
        ("Project-Nightjar's founder?", "Project Nightjar", "it's founder?"),
        ("Who founded Project Nightjars?", "Project Nightjar", None),
        ("Who founded AProject Nightjar?", "Project Nightjar", None),
        ("Who founded A.B (C)?", "A.B (C)", "Who founded it?"),  # a name's last mark is no word
        ("Who made C++ and why?", "C++", "Who made it and why?"),
        ("Who wrote '.NET'?", "'.NET'", "Who wrote it?"),
        ("Who wrote NET?", "'.NET'", "Who wrote it?"),
        ("Kto założył ŁÓDŹ?", "Łódź", "Kto założył it?"),
        ("Who?", "...", None),
    ],
)
def test_a_name_gives_way_to_a_pronoun(text: str, name: str, bare: str | None) -> None:
    assert without_name(text, name, "it") == bare


@pytest.mark.parametrize(
    ("text", "names", "meant"),
    [
        ("Who made C++?", ["C", "C++", "C#"], {"C++"}),
        ("who made c#?", ["C", "C++", "C#"], {"C#"}),
        ("Who made C?", ["C", "C++", "C#"], {"C"}),
        ("Who made C?", ["C++", "C#"], {"C++", "C#"}),  # none to the letter
        ("What is CO?", ["Co", "CO"], {"CO"}),
        ("What is Co?", ["Co", "CO"], {"Co"}),
        ("what is co?", ["Co", "CO"], {"Co", "CO"}),
        ("What are CO and Co?", ["Co", "CO"], {"Co", "CO"}),
        ("What is E\u0301cole?", ["école", "École", "ÉCOLE"], {"École"}),
        ("What of 'a..b'?", ["'a..b'", "'/a/../b'", "Anvil"], {"'a..b'", "Anvil"}),
        ("What of C and Anvil?", ["C", "Anvil"], {"C", "Anvil"}),
        ("", [], set()),
    ],
)
def test_names_of_the_same_words_are_told_by_their_marks(text: str, names: list[str], meant: set[str]) -> None:
    assert to_the_letter(text, names) == meant


DOTS, DOWN, UP = "Path Traversal: '....//'", "Path Traversal: '/../dir'", "Path Traversal: '../dir'"
DOT = "Path Traversal: '....' (Multiple Dot)"


@pytest.mark.parametrize(
    ("text", "names", "meant"),
    [
        (f"What is the status of {DOTS}?", [DOTS], [DOTS]),
        ("what is the status of path traversal ....//?", [DOTS], [DOTS]),
        ("What is the status of Path Traversal: ‘....//’?", [DOTS], [DOTS]),
        ("What is the status of Path Traversal?", [DOTS], []),
        ("What is the status of Path Traversal: 'C:dir'?", [DOTS], []),
        ("What is the status of Path Traversal: '.....//'?", [DOTS], []),
        ("What is the status of Path Traversal: '....//.'?", [DOTS], []),
        ("What is the status of Path Traversal? '....//' too", [DOTS], [DOTS]),
        ("What is the status of Path Traversal, and who wrote '....//'?", [DOTS], []),
        ("What is the status of Path Traversal?", [DOTS, "Path Traversal"], ["Path Traversal"]),
        (f"What is the status of {DOWN}?", [UP, DOWN], [DOWN]),
        (f"What is the status of {UP}?", [DOWN], []),
        ("What is the status of path traversal dir?", [UP], [UP]),  # its words tell it from others
        ("What is the status of path traversal ../dir?", [UP, DOWN], [UP]),
        ("What is the status of Path Traversal (Multiple Dot)?", [DOT], [DOT]),
        (f"What is the status of {DOT}?", [DOT], [DOT]),
        ("What is the status of Path Traversal: '....//' (Multiple Dot)?", [DOT], []),
        ("Who owns tom obrien?", ["Tom O'Brien '++'"], []),
        ("Who plays in The 'B-52s' Band, and in mr and mrs smith?", ["the b-52s band"], ["the b-52s band"]),
        ("Who plays in Face Off?", ["'Face/Off'"], ["'Face/Off'"]),  # one mark alone is often left out
    ],
)
def test_a_run_of_marks_in_quotes_is_a_part_of_its_name(text: str, names: list[str], meant: list[str]) -> None:
    found = Names(names)
    assert found.meant_in(text) == meant
    assert [name for name in names if says(text, name)] == meant
    assert [name for name in names if mentions(text, name, text.split(" ")[0])] == meant
    assert found.as_meant(text, lambda words: False) == text


def test_names_in_scripts_without_spaces() -> None:
    assert says("北京的人口是多少？", "北京")
    assert without_name("北京的人口是多少？", "北京", "it") == "itの人口是多少？".replace("の", "的")
    assert says("東京タワーの高さは？", "東京タワー")
    assert not says("Łódźer Straße?", "Łódź")


@pytest.mark.parametrize(
    ("text", "phrase", "is_said"),
    [
        ("What is the date of birth of Ann Lee?", "date_of_birth", True),  # a column's name
        ("What is the DATE_OF_BIRTH of Ann Lee?", "date of birth", True),
        ("What is the date_of_birth of Ann Lee?", "date_of_birth", True),
        ("What is the date_of_birth of Ann Lee?", "birth", False),
        ("What does get_user return?", "get", False),
        ("What does get_user return?", "user", False),
        ("What does get user return?", "get_user", True),
        ("What does __init__ do?", "__init__", True),
        ("What does init do?", "__init__", False),
        ("What does __init__ do?", "init", False),
        ("What does $_GET do?", "$_GET", True),
        ("What does (__x__) do?", "(__x__)", True),
        ("what is ._id", "._id", True),
        ("Who invented C#?", "C", False),
        ("Who invented C++?", "C", False),
        ("Who invented C++?", "C++", True),
        ("Who invented C?", "C", True),
        ("A + B", "A", True),
        ("A+B", "A", True),
        ("the price of Lot 5.5?", "Lot 5", False),
        ("the price of Lot 5,5?", "Lot 5", False),
        ("the price of Lot 5.", "Lot 5", True),
        ("the price of Lot 5, 6 and 7", "Lot 5", True),
        ("the price of the 2.5 mm screw", "5 mm screw", False),
        ("the price of the 1,500 kg crane", "500 kg crane", False),
        ("the price of the 5 mm screw", "5 mm screw", True),
        ("the price of lots 3, 5 mm screws aside", "5 mm screws", True),
        ("I paid No.5 mm screw", "5 mm screw", True),
        ("of v2.5 mm", "mm", True),
        ("Who wrote Node.js?", "Node", False),
        ("Who wrote Node.js?", "Node.js", True),
        ("Who founded Acme.Thanks", "Acme", True),
        ("Who founded Acme Inc.?", "Acme Inc.", True),
        ("What does _GET do?", "GET", False),
    ],
)
def test_an_underscore_is_a_space_within_a_phrase(text: str, phrase: str, is_said: bool) -> None:
    assert says(text, phrase) == is_said


def test_an_underscore_of_a_name_goes_with_it() -> None:
    assert without_name("What does __init__ do?", "__init__", "it") == "What does it do?"
    assert without_name("the size of order_items", "order_items", "it") == "the size of it"
    assert words("date_of_birth, __init__") == ["date", "of", "birth", "init"]


_RUN = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
TEXTS = st.text(st.sampled_from("aBb -ßİi東京ก'1_éſs"), max_size=14)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_a_phrase_stands_where_one_pattern_with_look_around_finds_it(text: str, phrase: str) -> None:
    """The plain form, whose ranges take milliseconds to compile for every phrase."""
    said, wanted = words(phrase), []
    if said:
        before = "" if re.match(f"[{_RUN}]", said[0]) else rf"(?<![^\W{_RUN}])"
        after = "" if re.search(f"[{_RUN}]$", said[-1]) else rf"(?![^\W{_RUN}])"
        between = r"[\W_]+".join(map(re.escape, said))
        spans = [one.span() for one in mention._word(mention.folded_text(phrase)).finditer(mention.folded_text(phrase))]
        left, right = mention.folded_text(phrase)[: spans[0][0]], mention.folded_text(phrase)[spans[-1][1] :]
        own = re.search("_*$", left)[0], re.match("_*", right)[0]  # type: ignore[index]
        found = re.finditer(before + own[0] + between + own[1] + after, mention.folded_text(text))
        places = mention._Places(text)
        wanted = [places.of(*one.span()) for one in found]
    assert not said or list(spans_of(text, phrase)) == wanted  # those without words: `test_anywhere.py`


@pytest.mark.parametrize(
    ("text", "name", "bare"),
    [
        ("Wo liegt Zu\u0308rich?", "Zürich", "Wo liegt it?"),  # as a Mac's file names have it
        ("Wo liegt ZU\u0308RICH am Fluß?", "Zürich", "Wo liegt it am Fluß?"),
        ("\u1109\u1165\u110b\u116e\u11af의 인구는?", "서울", "it의 인구는?"),  # Hangul in parts
        ("I\u0307zmir nerede?", "İzmir", "it nerede?"),
        ("वह दिन आया", "दिन", "वह it आया"),
        ("दिनेश आया", "दिन", None),  # a vowel sign goes on with the word
        ("राम का दान", "दिन", None),  # the same consonants, another vowel
        ("रामि का दान", "राम का", None),
        ("1\ufe0f\u20e3 Anvil", "1 Anvil", "it"),  # a keycap is its digit
    ],
)
def test_marks_belong_to_their_letters_composed_or_not(text: str, name: str, bare: str | None) -> None:
    assert without_name(text, name, "it") == bare
    assert says(text, name) is (bare is not None)


MARKED = st.text(st.sampled_from("aIi ßé-.दनम1서은\u0301\u0307\u0308\u093f\u0942\u1109\u1165\u11af\ufe0f"), max_size=12)


@settings(max_examples=300, deadline=None)
@example("ß서ᅥ", "ᅥ")
@given(MARKED, MARKED)
def test_the_characters_of_words_and_phrases_are_those_of_the_text(text: str, phrase: str) -> None:
    found = words_at(text)
    assert [word for word, _, _ in found] == words(text)
    for word, start, end in found:
        assert 0 <= start < end <= len(text)
        assert words(text[start:end]) == [word]
    for start, end in spans_of(text, phrase):
        assert words(text[start:end]) == words(phrase)


def test_the_pattern_of_a_phrase_has_no_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of sixteen names and properties is looked for in every question: a tenth of a second went into ranges."""
    assert says("Was ist die Höhe?", "Höhe")  # the ranges of letters are made once
    made, compiled = list[str](), re.compile
    monkeypatch.setattr(re, "compile", lambda pattern, flags=0: made.append(pattern) or compiled(pattern, flags))
    for phrase in ("a phrase of some words", "C++ (phrase)", "phrase 5 mm", "電気 phrase"):
        assert not says("What is the motto of Amber Falcon?", phrase)
        assert says(f"What is the motto of {phrase}?", phrase)
    assert len(made) == 4
    assert not any("[" in pattern.replace(r"[\W_]+", "") for pattern in made)


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("Wie lang ist die HAUPTSTRASSE?", "Hauptstraße", "HAUPTSTRASSE"),
        ("Wie lang ist die Hauptstraße?", "Hauptstrasse", "Hauptstraße"),
        ("ß, und die Straße", "straße", "Straße"),
        ("İzmir'in yanında İstanbul", "istanbul", "İstanbul"),
        ("ISTANBUL", "İstanbul", "ISTANBUL"),
        ("DIYARBAKIR nerede?", "Diyarbakır", "DIYARBAKIR"),
        ("the ﬁrm", "Firm", "ﬁrm"),
    ],
)
def test_letters_that_have_no_other_case(text: str, name: str, said: str) -> None:
    """Where a text in lower case is longer or shorter, places are still its own."""
    assert [text[start:end] for start, end in spans_of(text, name)] == [said]
    assert without_name(text, name, "it") == text.replace(said, "it")
    assert words(said) == words(name)
    assert [text[start:end] for word, start, end in words_at(text) if [word] == words(name)] == [said]


def test_every_place_where_a_name_is_said() -> None:
    assert list(spans_of("Tin, tinfoil and TIN", "tin")) == [(0, 3), (17, 20)]


def test_a_property_inside_the_name_is_not_said() -> None:
    assert not says_property("Where is Height Tower?", "height", "Height Tower")
    assert not says_property("Height Tower, the old height tower", "height", "Height Tower")
    assert says_property("What is the height of Height Tower?", "height", "Height Tower")
    assert says_property("Where is Height Tower?", "height")
    assert says_property("What is Color?", "color", "Color"), "the name itself may be the property"
    assert not mentions("Where is Height Tower?", "Height Tower", "height")
    assert mentions("The height of Height Tower", "Height Tower", "height")
    assert mentions("What is Color?", "Color", "color")
