"""Names of scripts without spaces, and names without letters, are found where they stand and nowhere else."""

from __future__ import annotations

import pytest

from kblam.adapter import AdapterConfig
from kblam.generation.decision import decide, rules_of
from kblam.generation.words import Found
from kblam.knowledge import Triple
from kblam.knowledge.mention import mentions, says, to_the_letter, without_name
from kblam.knowledge.names import Names
from tests.timing import is_done_within

PICTURES = ["🍕", "👩", "👩‍🚀", "👍", "❤️", "🇫🇷", "🇷🇩", "°", "Ⓐ"]
MARKS = ["???", "++", "->", "?", "&", "-", "..."]
SPACELESS = ["กรุงเทพ", "กรุงเทพมหานคร", "กบี", "นคร", "สมชาย ใจดี", "東京", "東京都", "中", "서울", "វត្ត", "Tシャツ"]
KANA = ["かな", "さくら"]
NAMES = Names([*PICTURES, *MARKS, *SPACELESS, *KANA, "Elm Hall"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("What is the price of 🍕?", ["🍕"]),
        ("🍕🍕", ["🍕"]),
        ("Is 🍕's price that of 👩‍🚀, or of 👍🏽?", ["🍕", "👩‍🚀"]),
        ("Who is 👩?", ["👩"]),
        ("What does ❤ mean?", ["❤️"]),
        ("What does ❤️ mean?", ["❤️"]),
        ("🍕的价格是多少？", ["🍕"]),
        ("What is the capital of 🇫🇷 and 🇬🇧🇷🇩?", ["🇫🇷", "🇷🇩"]),
        ("the flags 🇬🇫🇷🇩 of it", ["🇷🇩"]),
        ("How hot is 20°C, or 20° C?", []),
        ("What is the size of Ⓐ?", ["Ⓐ"]),
    ],
)
def test_a_picture_is_said_where_it_is_whole(text: str, said: list[str]) -> None:
    assert sorted(NAMES.meant_in(text)) == sorted(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Who is the founder of Elm Hall???", ["Elm Hall"]),
        ("Who is the founder of ???", []),
        ('Who is the founder of "???"?', ["???"]),
        ("What does ++ do?", ["++"]),
        ("What is the use of ++?", ["++"]),
        ("Is it C++ or +++ or a++b?", []),
        ("What is “->” for, and `&`, and ‘-’?", ["->", "&", "-"]),
        ("A & B - or so ... why ?", []),
    ],
)
def test_marks_are_a_name_in_quotes_or_where_nobody_writes_them(text: str, said: list[str]) -> None:
    assert sorted(NAMES.meant_in(text)) == sorted(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ประชากรของกรุงเทพคือเท่าไร", ["กรุงเทพ"]),
        ("これはかなです", []),  # two letters are a part of too much
        ("かな はいくらですか", ["かな"]),
        ("これはさくらです", ["さくら"]),
        ("ประชากรของกรุงเทพมหานครคือเท่าไร", ["กรุงเทพมหานคร"]),
        ("กระบี่อยู่ที่ไหน กบี่", []),  # a vowel or tone mark goes on
        ("เมืองนครา", []),
        ("แนคร", []),  # the vowel before it is spoken after its first letter
        ("คุณสมชาย ใจดีเป็นใคร", ["สมชาย ใจดี"]),
        ("東京の人口は？", ["東京"]),
        ("東京都と東京の人口は？", ["東京", "東京都"]),
        ("日中関係", []),  # a single character is a part of too many words
        ("中", ["中"]),
        ("서울의 인구는?", ["서울"]),
        ("赤いTシャツの値段", ["Tシャツ"]),
        ("Tシャツ", ["Tシャツ"]),
        ("ATシャツ", []),
    ],
)
def test_a_name_of_a_script_without_spaces_is_found_in_a_sentence(text: str, said: list[str]) -> None:
    assert sorted(NAMES.meant_in(text)) == sorted(said)
    assert all(text[start:end] in said for start, end in NAMES.spans_in(text))


def test_what_is_said_of_them_is_read_as_of_other_names() -> None:
    assert without_name("What is the price of 🍕?", "🍕", "it") == "What is the price of it?"
    assert mentions("price of 🍕", "🍕", "price")
    assert to_the_letter("🍕 and 👩‍🚀", ["🍕", "👩‍🚀"]) == {"🍕", "👩‍🚀"}
    assert not says("🍕", " ")
    names = Names(["🍕"], of_entities=False)  # properties
    names.add(["price"])
    assert names.said_in("the price of 🍕") == {"price"}
    twice = Names(["東京", "🍕"])
    twice.add(["東京", "🍕"])
    assert sorted(twice.meant_in("東京と🍕")) == sorted(["東京", "🍕"])


@pytest.mark.parametrize(("question", "name"), [("What is 🍕?", "🍕"), ("Tell me about 東京.", "東京")])
def test_who_asks_about_one_is_told_about_it(question: str, name: str) -> None:
    shape = {"embedding_dim": 16, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "head_dim": 4, "layers": (0, 1)}
    config = AdapterConfig(**shape, pointer=True, known_above=0.5)  # type: ignore[arg-type]
    found = [Found(0, Triple(name, "size", "large"), 0.3), Found(1, Triple(name, "price", "low"), 0.3)]
    decision = decide(rules_of(config), question, found)
    assert [fact.triple.property for fact in decision.facts] == ["size", "price"]


@pytest.mark.parametrize("piece", ["กรุงเทพ", "東京", "🍕", "🇫", "???", "++ ", "\u200d", "กรุงเทพß", "ก"], ids=ascii)
def test_a_long_text_takes_no_time(piece: str) -> None:
    many = Names([*PICTURES, *MARKS, *SPACELESS, *(f"กรุง{chr(0xE01 + one % 40)}{one}" for one in range(5000))])
    assert is_done_within(10, lambda: many.meant_in(piece * 5000))


def test_thousands_of_names_that_share_their_longest_word_take_no_time() -> None:
    many = Names(["서울특별시", *(f"서울특별시 {chr(0xAC00 + one)}구" for one in range(10_000))])
    for text, name in (("서울특별시의 인구는?", "서울특별시"), ("서울특별시 가구의 인구는?", "서울특별시 가구")):
        assert many.meant_in(text) == [name]
        assert is_done_within(0.25, lambda text=text: many.meant_in(text))
