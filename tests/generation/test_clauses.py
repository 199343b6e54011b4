"""How questions may be cut: what is proposed, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.data.questions import CLOSINGS, OPENINGS, PAIR_QUESTIONS, QUESTIONS
from kblam.generation.clauses import MOST_SPLITS, by_names, splits
from kblam.generation.items import is_asking


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("What is the color of Aa and the founder of Bb?", ["What is the color of Aa?", "What is the founder of Bb?"]),
        ("What are Aa's color and Bb's founder?", ["What is Aa's color?", "What is Bb's founder?"]),
        ("Tell me the color and founder of Aa.", ["Tell me the color of Aa.", "Tell me the founder of Aa."]),
        ("What is the color and the founder of Aa?", ["What is the color of Aa?", "What is the founder of Aa?"]),
        ("What are Aa's color and founder?", ["What is Aa's color?", "What is Aa's founder?"]),
        ("the color of Aa and its founder", ["the color of Aa?", "the founder of Aa?"]),
        ("the color of Aa and Bb?", ["the color of Aa?", "the color of Bb?"]),
        ("Who founded Aa and Bb?", ["Who founded Aa?", "Who founded Bb?"]),
        ("Tell me the color of Aa, and also who founded Bb.", ["Tell me the color of Aa.", "Who founded Bb."]),
        ("What is the color of Aa? Who founded Bb?", ["What is the color of Aa?", "Who founded Bb?"]),
        ("Give me the color of Aa as well as the age of Bb.", ["Give me the color of Aa.", "Give me the age of Bb."]),
        ("Hello, what is Ann Lee's phone number & the founder of Bb? Thanks!",
         ["Hello, what is Ann Lee's phone number? Thanks!", "Hello, what is the founder of Bb? Thanks!"]),
    ],
)  # fmt: skip
def test_two_facts(question: str, parts: list[str]) -> None:
    assert parts in [list(split.parts) for split in splits(question)]
    assert len(splits(question)) <= 2, "each split costs a prefill"


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Check Aa for the sponsor and Bb for the age.", ["Check Aa for the sponsor.", "Bb for the age."]),
        ("select color where name = Aa; select age where name = Bb",
         ["select color where name = Aa?", "select age where name = Bb?"]),
        ("In one answer, please: Aa's height, Bb's age.", ["In one answer, please: Aa's height.", "Bb's age."]),
        ("color for Aa + age for Bb pls", ["color for Aa?", "age for Bb pls?"]),
        ("I want the color of Aa together with the age of Bb.", ["I want the color of Aa.", "the age of Bb."]),
        ("My form asks for the color of Aa and, further down, the age of Bb.",
         ["My form asks for the color of Aa and, further down.", "the age of Bb."]),
    ],
)  # fmt: skip
def test_what_no_rule_knows_is_cut_as_it_stands(question: str, parts: list[str]) -> None:
    found = splits(question)
    assert parts in [list(split.parts) for split in found]
    assert not any(split.is_explicit for split in found)


PROPERTIES = ("color", "founder", "age", "height", "date of birth", "country of origin")


def is_property(text: str) -> bool:
    return text.lower() in PROPERTIES


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("What is the color of Aa, Bb and Cc?", ["the color of Aa", "the color of Bb", "the color of Cc"]),
        ("What is the color of Aa, Bb, and Cc?", ["the color of Aa", "the color of Bb", "the color of Cc"]),
        ("What is the color of Aa and Bb and Cc?", ["the color of Aa", "the color of Bb", "the color of Cc"]),
        ("What are the color, age and founder of Aa?", ["the color of Aa", "the age of Aa", "the founder of Aa"]),
        ("What are Aa's color, age and date of birth?", ["Aa's color", "Aa's age", "Aa's date of birth"]),
        ("What is the color of Aa, the age of Bb and the founder of Cc?",
         ["the color of Aa", "the age of Bb", "the founder of Cc"]),
        ("What is Aa's color, Bb's age and the founder of Cc?", ["Aa's color", "Bb's age", "the founder of Cc"]),
        ("What is the color of Aa, its age and its founder?",
         ["the color of Aa", "the age of Aa", "the founder of Aa"]),
        ("What is the color of A1, A2, A3, A4, A5, A6, A7 and A8?", [f"the color of A{one}" for one in range(1, 9)]),
    ],
)  # fmt: skip
def test_a_list_is_cut_between_all_its_items(question: str, parts: list[str]) -> None:
    split = splits(question, is_property)[0]
    assert list(split.parts) == [f"What is {part}?" for part in parts]
    assert split.is_explicit
    assert len(split.cuts) == len(parts) - 1
    assert all(question[start:end].strip() in (",", "and", ", and") for start, end in split.cuts)


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("What is the color of Aa, who founded Bb and when was Cc born?",
         ["What is the color of Aa?", "Who founded Bb?", "When was Cc born?"]),
        ("Hi! What is the color of Aa? Excuse me, what is the age of Bb?",
         ["What is the color of Aa?", "Excuse me, what is the age of Bb?"]),
        ("Who founded Aa, Bb and Cc?", ["Who founded Aa?", "Who founded Bb?", "Who founded Cc?"]),
        ("I have a guest, what is the color of Aa, Bb and Cc?",
         [f"I have a guest, what is the color of {name}?" for name in ("Aa", "Bb", "Cc")]),
        ("What is the color of Aa? Who founded Bb? How old is Cc? What is the age of Dd?",
         ["What is the color of Aa?", "Who founded Bb?", "How old is Cc?", "What is the age of Dd?"]),
    ],
)  # fmt: skip
def test_more_than_two_questions(question: str, parts: list[str]) -> None:
    assert list(splits(question)[0].parts) == parts
    assert splits(question)[0].is_explicit


def test_a_list_of_more_items_than_are_asked_is_not_cut_between_all() -> None:
    (split,) = splits("What is the color of A1, A2, A3, A4, A5, A6, A7, A8 and A9?")
    assert len(split.parts) == 2
    assert by_names("A " * 9, [(2 * at, 2 * at + 1) for at in range(9)]) == []


@pytest.mark.parametrize(
    "question",
    [
        "Hi Bob, I am Ann, and I need the color of Aa.",
        "It's for my cousin, who never uses computers. What is the color of Aa?",
        "My teacher wants us to find this out. For ten points: name the color of Aa.",
        "What is the color of Aa, I forgot it, and nobody knows",
        "What is the color of Aa, the town in Peru, and Bb?",
        "what is the color of procter and gamble?",
        "What are the wing and the motto of Aa?",
    ],
)
def test_what_may_be_no_list_is_none_in_so_many_words(question: str) -> None:
    """So that an item without an answer is no gap."""
    assert splits(question, is_property)
    assert not any(split.is_explicit for split in splits(question, is_property))


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("What is the date of birth and height of Aa?", ["the date of birth of Aa", "the height of Aa"]),
        ("What are the height and date of birth of Aa?", ["the height of Aa", "the date of birth of Aa"]),
        ("What are Aa's height and date of birth?", ["Aa's height", "Aa's date of birth"]),
        ("What is the height of Aa and the date of birth?", ["the height of Aa", "the date of birth of Aa"]),
        ("What is the Date of Birth of Aa and Bb?", ["the Date of Birth of Aa", "the Date of Birth of Bb"]),
    ],
)  # fmt: skip
def test_a_property_that_is_known_is_not_cut_at_its_of(question: str, parts: list[str]) -> None:
    (split,) = splits(question, is_property)
    assert list(split.parts) == [f"What is {part}?" for part in parts]
    assert split.is_explicit


def test_of_in_a_name_is_not_where_its_property_ends() -> None:
    (split,) = splits("What is the founder of University of Oxford and Bb?", is_property)
    assert split.parts == ("What is the founder of University of Oxford?", "What is the founder of Bb?")


def test_without_a_known_property_each_of_may_end_it() -> None:
    parts = [split.parts for split in splits("What is the country of origin of Aa and Bb?")]
    assert ("What is the country of origin of Aa?", "What is the country of origin of Bb?") in parts
    parts = [split.parts for split in splits("What is the mayor of City of London and Bb?")]
    assert ("What is the mayor of City of London?", "What is the mayor of Bb?") in parts


@pytest.mark.parametrize("template", PAIR_QUESTIONS)
@pytest.mark.parametrize("opening", ["", OPENINGS[2] + " ", "Hi! "])
@pytest.mark.parametrize("closing", ["", " " + CLOSINGS[0], " " + CLOSINGS[7]])
def test_every_pair_question_is_cut_between_its_facts(template: str, opening: str, closing: str) -> None:
    question = opening + template.format(p1="currency", n1="France", p2="budget", n2="Project Nightjar") + closing
    (split,) = [split for split in splits(question) if split.is_explicit]
    held = [[word in part for word in ("France", "currency", "Nightjar", "budget")] for part in split.parts]
    assert held == [[True, True, False, False], [False, False, True, True]]
    ((start, end),) = split.cuts
    assert "and" in question[start:end]


@pytest.mark.parametrize("template", QUESTIONS)
def test_a_question_about_one_fact_with_greeting_and_thanks_is_not_cut(template: str) -> None:
    question = f"Hello! {template.format(n='Zorblax Quell', p='motto')} Thanks!"
    explicit = [split for split in splits(question) if split.is_explicit]
    assert explicit == [] or " and " in template


@pytest.mark.parametrize("closing", CLOSINGS)
def test_closings_ask_for_nothing(closing: str) -> None:
    assert not is_asking(closing)


def test_a_name_with_a_joint_or_a_stop() -> None:
    (split,) = splits("What is the CEO of Procter and Gamble?")
    assert split.parts == ("What is the CEO of Procter?", "What is the CEO of Gamble?")
    assert splits("What is the mayor of St. Louis?") == []
    assert splits("What is the age of J. Smith?") == []


@given(st.text(max_size=80), st.text(max_size=40))
def test_any_text_is_cut_or_left(left: str, right: str) -> None:
    found = splits(f"{left} and {right}")
    assert len(found) <= MOST_SPLITS
    assert all(part.strip() for split in found for part in split.parts)


@pytest.mark.parametrize(
    "closing",
    [
        "Please hurry.",
        "I keep forgetting it.",
        "Just the answer, please.",
        "Could you check something?",
        "My boss asked.",
        "I need it by noon.",
    ],
)
def test_a_sentence_that_asks_for_nothing_is_no_part_that_lacks_an_answer(closing: str) -> None:
    for question in (f"What is the color of Aa? {closing}", f"{closing} What is the color of Aa?"):
        assert not [split for split in splits(question) if split.is_explicit]


@pytest.mark.parametrize(
    ("question", "names", "parts"),
    [
        (
            "Apart from Radium's age I could use the cost of Tin",
            ["Radium", "Tin"],
            [
                ("Apart from Radium", "'s age I could use the cost of Tin"),
                ("Apart from Radium's age I could use the cost of", "Tin"),
                ("Apart from Radium's age I could use the cost of", "Apart from 's age I could use the cost of Tin"),
            ],
        ),
        ("Radium Tin", ["Radium", "Tin"], [("Radium", "Tin")] * 3),
        (
            "Radium, Tin: age?",
            ["Radium", "Tin"],
            [("Radium", ", Tin: age?"), ("Radium,", "Tin: age?"), ("Radium, : age?", ", Tin: age?")],
        ),
        (
            "Radium's age, Tin's cost, Lead's mass",
            ["Radium", "Tin", "Lead"],
            [
                ("Radium", "'s age, Tin", "'s cost, Lead's mass"),
                ("Radium's age,", "Tin's cost,", "Lead's mass"),
                ("Radium's age, 's cost, 's mass", "'s age, Tin's cost, 's mass", "'s age, 's cost, Lead's mass"),
            ],
        ),
        ("Radium?", ["Radium"], []),
        ("nothing", [], []),
    ],
)
def test_a_question_that_says_two_names_is_cut_by_them(
    question: str, names: list[str], parts: list[tuple[str, str]]
) -> None:
    found = by_names(question, [(question.index(one), question.index(one) + len(one)) for one in names])
    assert [one.parts for one in found] == parts
    assert not any(one.is_explicit for one in found)
    assert all(question[: one.cuts[0][0]].strip() == one.parts[0] for one in found if not one.one_property)
    assert [one.one_property for one in found] == [False] * (len(found) - 1) + [True] * bool(found)


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("Apart from Radium's date of birth I could use the height of Tin.",
         ("Apart from Radium's date of birth", "I could use the height of Tin.")),
        ("Beside Radium's height, could I have what it weighs, for Tin?",
         ("Beside Radium's height", ", could I have what it weighs, for Tin?")),
        ("Regarding Radium: what it weighs; further on the date of birth of Tin.",
         ("Regarding Radium: what it weighs; further on", "the date of birth of Tin.")),
        ("For Radium weight, maybe height for Tin.", ("For Radium weight, maybe", "height for Tin.")),
    ],
)  # fmt: skip
def test_a_property_stays_with_the_name_that_it_is_said_with(question: str, parts: tuple[str, str]) -> None:
    names = [(question.index(one), question.index(one) + len(one)) for one in ("Radium", "Tin")]
    *_, cut, _ = found = by_names(question, names, is_property)
    assert cut.parts == parts
    assert len(found) == 4
    assert len(by_names(question, names)) == 3, "nothing is known to be a property"


LONG = 4000


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "question",
    [
        "What is the color of A" + " " * LONG + "B?",
        "What is A" + "\n" * LONG + "B?",
        "What" + " " * LONG + "please x",
        "What is A" + ", " * LONG + "B?",
        "What is A" + " and also" * LONG + "B?",
        "What x and " + "and " * LONG + "x",
        "WHAT IS " + "THE COLOR AND " * LONG + "(B)",
        "x of a and y of b and " * LONG,
        "What is x and y? " * LONG,
    ],
    ids=lambda question: question[:24],
)
def test_a_long_question_takes_no_time(question: str) -> None:
    """Each took minutes, or hours."""
    found = splits(question)
    assert len(found) <= MOST_SPLITS
    assert len(by_names(question, [(at, at + 1) for at in range(0, len(question) - 1, 2)])) <= 3
    assert len(by_names(question, [(0, 1), (len(question) - 1, len(question))], lambda text: False)) <= 4


def test_a_property_is_not_looked_for_in_all_that_a_long_question_says() -> None:
    """Each look reads the words up to an "of", and there are as many as the question is long."""
    looked: list[int] = []

    def none(text: str) -> bool:
        looked.append(len(text))
        return False

    splits("What is x of a " + "of b " * 500 + "and y of c " + "of d " * 500, none)
    assert 0 < len(looked) < 1000
    assert max(looked) <= 200


def test_a_name_is_not_looked_for_in_all_that_is_written_in_capitals() -> None:
    """Where capitals go on for longer than a name does, none is said to begin there."""
    (split,) = splits("WHICH IS HEAVIER " + "VERY " * 50 + "TIN AND LEAD")
    assert split.parts[1] == "LEAD?"  # as it stands
    (split,) = splits("please, " * 30 + "which is heavier, Old Tin and Lead")
    assert split.parts[1].endswith("heavier, Lead?")
