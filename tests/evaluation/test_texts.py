"""What counts as the same text, and how overlap is counted: against values worked out by hand."""

from __future__ import annotations

import pytest

from kblam.evaluation.texts import declines, holds, rouge_l, token_f1


@pytest.mark.parametrize(
    ("text", "value", "there"),
    [
        ("The color of A is red.", "red", True),
        ("The color of A is reddish.", "red", False),
        ("The color of A is Red.", "red", False),
        ("The number is 17.", "7", False),
        ("The number is 7.5.", "7", False),
        ("The number is 1,700.", "700", False),
        ("The number is 7.", "7", True),
        ("The melting point of mercury is -38.83.", "38.83", False),
        ("The melting point of mercury is \u221238.83.", "38.83", False),
        ("It costs -$5.", "$5", False),
        ("It costs US$5.", "$5", True),
        ("The melting point of mercury is -38.83.", "-38.83", True),
        ("-7 is the number.", "7", False),
        ("It takes 7-8 days.", "7", True),
        ("It takes 7-8 days.", "8", True),
        ("It takes 7-8 days.", "-8", False),  # no sign, but from 7 to 8
        ("It is a COVID-19 ward.", "19", True),
        ("The share is 0.5.", ".5", False),
        ("Call +47 22 85 50 50 now.", "+47 22 85 50 50", True),
        ("It opens at 9:30 (or 10).", "9:30 (or 10)", True),
        ("It is pale  green\nwith dots.", "pale green with dots", True),
        ("首都は東京です。", "東京", False),  # no word of its own: the script has no spaces
        ("The capital is 東京.", "東京", True),
    ],
)
def test_a_value_stands_in_a_text_or_not(text: str, value: str, there: bool) -> None:
    assert holds(text, value) == there


def test_token_f1_by_hand() -> None:
    # 3 common words of 4 and 5: 2 * 3 / 9.
    assert token_f1("the color is red", "The color is pale green.") == pytest.approx(6 / 9)
    assert token_f1("red red", "red") == pytest.approx(2 / 3)
    assert (token_f1("", ""), token_f1("a", "b"), token_f1("", "b")) == (1.0, 0.0, 0.0)


def test_rouge_l_by_hand() -> None:
    # Lin's own example: "police kill the gunman" has 2 in order, "police ended the gunman" 3, of 4 and 4.
    right = "police killed the gunman"
    assert rouge_l("police kill the gunman", right) == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", right) == pytest.approx(2 / 4)
    assert rouge_l("the gunman police killed", right) == pytest.approx(2 / 4)
    assert rouge_l("gunman", right) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    "text",
    [
        "I don't know.",
        "I do not know the phone number of A B.",
        "I'm sorry, but I cannot find the founder of A B.",
        "I am unable to answer that.",
        "The facts do not mention the founder of A B.",
        "The founder of A B is not mentioned in the facts. It is known for its color.",
        "There is no information about A B.",
        "There is no mention of a founder.",
        "Unknown.",
        "There isn't any information on that.",
        "There isn’t any mention of A B here.",
        "There are not any details about its price.",
        "There is no data on the founder of A B.",
        "None of the facts mention it.",
        "None of the given facts says who founded A B.",
        "None of these facts are about A B.",
        "No facts mention the price.",
        "No fact about A B says what it costs.",
        "No information is given about the price.",
        "No price is given.",
        "No founder of A B is mentioned in the facts.",
        "No answer.",
        "Sorry, this isn't in the facts.",
        "Sorry. The facts don't say.",
        "Unfortunately, the price is not part of the given information.",
        "A B is not among the facts I was given.",
        "Not specified.",
        "Not mentioned in the facts.",
        "It is not known who founded A B.",
        "The price of A B isn't stated anywhere.",
        "The founder of A B is not known.",
        "The facts about A B do not include a price.",
        "The founder is not mentioned explicitly in any of the facts.",
        "It doesn't say.",
    ],
)
def test_a_refusal_in_other_words(text: str) -> None:
    assert declines(text)


@pytest.mark.parametrize(
    "text",
    [
        "The founder of A B is Ann Lee.",
        "Ann Lee founded it. I do not know more.",
        "The motto of A B is: know thyself.",
        "The unknown is the color of A B.",
        "It has no founder but Ann Lee.",
        "",
        "It is not known for its beaches; its capital is Rome.",
        "It is not known as a city; it is a village.",
        "Breakfast is not included in the price; the price is 20.",
        "It was not given a name until 1900, when it became Avon.",
        "The company is not listed on an exchange; its owner is Ann Lee.",
        "It is not available in red; its color is green.",
        "It is not described as a river but as a canal.",
        "There is no data cap; the price is 20.",
        "There is no entry fee.",
        "There are no records older than 1200.",
        "It is not in the list of endangered species.",
        "According to the facts, the car does not have a roof; its color is red.",
        "The facts say that it does not have a roof.",
        "None of the details are secret: the color is red.",
        "None of its rivers is long; the longest is the Avon.",
        "No one founded it; it grew by itself.",
        "No dogs are allowed.",
        "No fewer than 20 people are known to live there.",
        "Not Rome but Paris is the capital.",
        "Sorry to keep you waiting: the color is red.",
        "The food is soup. The price is not given.",
        "Its motto is: no data, no doubt.",
    ],
)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not declines(text)
