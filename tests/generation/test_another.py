"""A fact of the right name that is another than the one that a question asks for."""

from __future__ import annotations

import pytest

from kblam.generation.kinds import can_answer

NAME = "Height Tower"
OWNER, CEO, FINE = ("owner", "Moss Holdings"), ("CEO", "Rita Vale"), ("maximum fine", "10 million euros")
PRICE, MANAGER = ("price", "199 euros"), ("manager", "Helen Park")


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("What was the old price of Height Tower?", PRICE),
        ("What is its second-hand price?", PRICE),
        ("What's the second hand price?", PRICE),
        ("Who is the backup owner?", OWNER),
        ("What is the child price?", PRICE),
        ("What is the children’s price of Height Tower?", PRICE),
        ("Not the owner, the builder of Height Tower", OWNER),
        ("Who is in Height Tower but not its owner?", OWNER),
        ("Who is the owner's lawyer?", OWNER),
        ("Who sued the owner of Height Tower?", OWNER),
        ("What is the minimum fine at Height Tower?", FINE),
        ("what's the average fine", FINE),
        ("What is the pediatric dose?", ("adult dose", "40 mg")),
        ("What is the secondary?", ("primary", "db-17")),
        ("Who is Height Tower's father?", ("mother", "Aya")),
        ("Who are the children of Height Tower?", ("mother", "Aya")),
        ("Who is the mother of Height Tower's children?", ("mother", "Aya")),
        ("What is the end date of Height Tower?", ("start date", "3 May")),
        ("What is the next departure?", ("last departure", "0:48")),
        ("What does a single room cost?", ("price of a double room", "140 euros")),
        ("What is the yearly price?", ("monthly price", "29 euros")),
        ("What is the last symptom?", ("first symptom", "weakness")),
        ("What are the late symptoms?", ("firstSymptom", "weakness")),
        ("Who doesn't own Height Tower?", OWNER),
        ("Who isn’t the owner?", OWNER),
        ("Do you know who is not an owner?", OWNER),
        ("who's not in height tower", OWNER),
        ("What was its price last year?", PRICE),
        ("Last year's price of Height Tower?", PRICE),
        ("What will Height Tower cost next year?", PRICE),
        ("Who managed Height Tower yesterday?", MANAGER),
        ("Yesterday, who was the manager of Height Tower?", MANAGER),
        ("Who used to own Height Tower?", OWNER),
        ("Who was the manager of Height Tower ten years ago?", MANAGER),
        ("How many employees had Height Tower in 2010?", ("employees", "312")),
        ("What will the price of Height Tower be in 2031?", PRICE),
        ("What will it cost next year?", ("monthly price", "29 euros")),
        ("What did the price of Height Tower use to be?", PRICE),
        ("Who was CEO in 1998?", CEO),
        ("Whose manager is Height Tower?", MANAGER),
        ("Who does Height Tower manage?", MANAGER),
        ("what did height tower own", OWNER),
        ("What is managed by Height Tower?", MANAGER),
        ("What is run by Height Tower?", ("runner", "Ann")),
        ("Who works for Height Tower?", MANAGER),
        ("Which people report to Height Tower?", MANAGER),
        ("Who works in Height Tower?", ("head", "Helen Park")),
        ("What does the owner of Height Tower earn?", OWNER),
        ("what does height tower's owner do", OWNER),
        ("Which party does the CEO belong to?", CEO),
        ("Does its manager live there?", MANAGER),
        ("What is the email of the owner?", OWNER),
        ("What is the private phone number of Height Tower's owner?", OWNER),
        ("What is the office of the manager?", MANAGER),
        ("What is the owner of Height Tower's phone number?", OWNER),
    ],
)
def test_it_is_another(question: str, fact: tuple[str, str]) -> None:
    assert not can_answer(question, *fact, NAME)


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("What is the old price?", ("old price", "99 euros")),
        ("How old is it, and what is its price?", PRICE),
        ("Is Moss Holdings not the owner?", OWNER),
        ("Why is Ann not the owner?", ("remark", "sold because of debts")),
        ("Not only the owner: who is the owner?", OWNER),
        ("What is the owner's name?", OWNER),
        ("Who sits in the owner's chair?", OWNER),
        ("Who became the owner?", OWNER),
        ("Who would the owner of Height Tower be?", OWNER),
        ("What is the name of the owner?", OWNER),
        ("Who holds the office of the manager?", MANAGER),
        ("All of the owners of Height Tower?", ("owners", "Moss Holdings")),
        ("What is the owner of Height Tower's name?", OWNER),
        ("Who is the owner, and what does the owner earn?", OWNER),
        ("Does the price include breakfast?", PRICE),
        ("What is the primary, or the secondary?", ("primary", "db-17")),
        ("Father asks: which mothers?", ("mother", "Aya")),
        ("What date did Height Tower start in the end?", ("start date", "3 May")),
        ("Where does he go next?", ("last", "Oslo")),
        ("What is the fine?", FINE),
        ("What is the highest fine?", FINE),
        ("What is the maximum fine, and how low is the minimum fine?", FINE),
        ("What are the minimum fine and the maximum fine?", FINE),
        ("How long does the dose last?", ("first dose", "40 mg")),
        ("What is the adult dose, if children take it too?", ("adult dose", "40 mg")),
        ("Who should not take it?", ("side effects", "dizziness")),
        ("Who is not allowed in?", ("exceptions", "dogs")),
        ("For those who don't know, who is the owner?", OWNER),
        ("What is the price, which I paid last year?", PRICE),
        ("I bought it last month; what is the price?", PRICE),
        ("Can I hand it in next week?", ("deadline", "17 days")),
        ("It rained yesterday. Who is the manager of Height Tower?", MANAGER),
        ("When was it inspected last month?", ("inspection", "2026-11-24")),
        ("What was last year's revenue?", ("revenue", "2 million euros")),
        ("What was its price last year?", ("price last year", "99 euros")),
        ("Who designed it last year?", ("designer", "Lena Moss")),
        ("How many years ago was it?", ("age", "80")),
        ("How many million years ago was it?", ("age", "80")),
        ("When was it founded, in 1998?", ("founding year", "1998")),
        ("Who founded it in 1998?", ("founder", "Lena Moss")),
        ("What is the height of the tower built in 1998?", ("height", "80 m")),
        ("What was its price in 2021?", ("price", "199 euros in 2021")),
        ("Whose property is Height Tower?", OWNER),
        ("Whose idea was Height Tower?", ("founder", "Lena Moss")),
        ("Height Tower, whose manager I need: who is it?", MANAGER),
        ("The manager is Height Tower, or who?", MANAGER),
        ("Who manages Height Tower?", MANAGER),
        ("Who is Height Tower managed by?", MANAGER),
        ("Who is the composer of the composition by Height Tower?", ("composer", "Lena Moss")),
        ("Who works in Height Tower?", ("occupier", "Moss Holdings")),
        ("Which states does Height Tower border?", ("border", "Norway")),
        ("What does Height Tower offer?", ("offer", "rooms")),
        ("Who works as the manager of Height Tower?", MANAGER),
        ("Who works in Height Tower?", ("employees", "Ann and Bob")),
        ("Who lives in Height Tower as its owner?", OWNER),
    ],
)
def test_it_may_be_this_one(question: str, fact: tuple[str, str]) -> None:
    assert can_answer(question, *fact, NAME)


def test_what_the_name_says_is_no_opposite() -> None:
    assert can_answer("What does Last Symptom begin with?", "first symptom", "weakness", "Last Symptom")
    assert not can_answer("What does Last Symptom begin with?", "first symptom", "weakness", "Ague")


def test_a_year_in_the_name_is_no_other_time() -> None:
    assert can_answer("What was the price of Fair in 2021?", *PRICE, "Fair in 2021")
    assert not can_answer("What was the price of Fair in 2021?", *PRICE, "Fair")
