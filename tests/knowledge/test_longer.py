"""A name that goes on is another one: "Acme" in "Acme Holdings"."""

from __future__ import annotations

import pytest

from kblam.knowledge.names import Names

KNOWN = ["Acme", "Ann Lee", "World War", "Elizabeth", "Paris", "France", "quartz", "Tin"]
PROPERTIES = {"founding year", "website", "height"}


@pytest.mark.parametrize(
    ("text", "name", "is_longer"),
    [
        ("What is the revenue of Acme Holdings?", "Acme", True),
        ("Who founded Acme Cloud Services and when?", "Acme", True),
        ("What is the height of Ann Lee Miller?", "Ann Lee", True),
        ("When did World War II end?", "World War", True),
        ("how old is Elizabeth II?", "Elizabeth", True),
        ("What does Acme Holdings sell, and is that the revenue of Acme?", "Acme", False),  # said by itself too
        ("What is the revenue of Acme?", "Acme", False),
        ("What is the revenue of Acme Inc?", "Acme", False),
        ("What is the revenue of Acme GmbH?", "Acme", False),
        ("What is the revenue of Acme, Holdings?", "Acme", False),
        ("Who is the Acme CEO?", "Acme", False),
        ("What is the Acme Founding Year?", "Acme", False),  # a property
        ("What Is The Revenue Of Acme Holdings?", "Acme", False),  # capitals everywhere
        ("WHAT IS THE REVENUE OF ACME HOLDINGS?", "Acme", False),
        ("what is the revenue of acme holdings?", "Acme", False),
        ("what is the weight of quartz Monday?", "quartz", False),  # the name has none
        ("Is Paris France's capital?", "Paris", False),  # another name that is known
        ("What is the revenue of Acme Thanks!", "Acme", False),
        ("What is the revenue of Acme Please be brief.", "Acme", False),
        ("What is the revenue of Acme I forgot.", "Acme", False),
        ("Wie hoch ist Acme Umsatz im Jahr?", "Acme", False),  # capitals mean little there
        ("What is the use of Tin 3?", "Tin", False),
        ("What is it?", "Acme", False),
    ],
)
def test_a_name_that_goes_on(text: str, name: str, is_longer: bool) -> None:
    assert Names(KNOWN).begins_longer(text, name, lambda words: words.lower() in PROPERTIES) == is_longer


def test_a_longer_name_that_is_known_is_found_as_before() -> None:
    names = Names(["Acme", "Acme Holdings"])
    assert names.meant_in("What is the revenue of Acme Holdings?") == ["Acme Holdings"]
