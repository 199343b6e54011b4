"""A value that cannot be what a question asks for: nobody's name answers "when"."""

from __future__ import annotations

import pytest

from kblam.generation.kinds import can_answer

ARCHITECT, HEIGHT, STAFF = ("architect", "Lena Moss"), ("height", "3,120 m"), ("lead engineer", "Ingrid Odegard")


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("When was Height Tower built?", ARCHITECT),
        ("when was height tower built", ARCHITECT),
        ("Hi, when was Height Tower built?", ARCHITECT),
        ("Do you know when Height Tower was built?", ARCHITECT),
        ("Please tell me in which year Height Tower was built.", ARCHITECT),
        ("In what year was Height Tower built?", ARCHITECT),
        ("When was Mount Brel first climbed?", HEIGHT),
        ("When did she call?", ("phone number", "555 0199")),
        ("How many engineers work on Project Nightjar?", STAFF),
        ("Where was Acme founded?", ("founder", "Wile Coyote")),
        ("Do you know where they work?", STAFF),
        ("Who discovered platinum?", ("place of discovery", "Italy")),
        ("Who founded it?", ("founded", "1241")),
        ("Do you know who built it?", ("built", "1898 to 1904")),
        ("Who holds the record?", ("record", "2:09:41")),
        ("Who climbed it?", ("climbed", "64 metres")),
        ("Who deployed it?", ("deployed", "14th of May 2024")),
        ("Where was it deployed?", ("deployed", "14 May 2024")),
        ("How deep is it?", HEIGHT),
        ("How wide is it?", ("length", "212 km")),
        ("how old is it", ("weight of the parcel", "2 kg")),
        ("How many apples are in it?", HEIGHT),
        ("Over how many hectares does it extend?", HEIGHT),
        ("How large is it in square feet?", ("length", "30 feet")),
        ("At how many degrees does it evaporate?", ("heat", "238.5 kilojoules")),
        ("Which three letters does it have on luggage tags?", ("ICAO code", "EGSP")),
        ("Do you know the 3-letter code?", ("ICAO code", "EGSP")),
        ("Who is the former owner of Height Tower?", ("owner", "Moss Holdings")),
        ("Who was the Ex-Owner of Height Tower?", ("owner", "Moss Holdings")),
        ("Who is the deputy lead engineer?", ("leadEngineer", "Ingrid Odegard")),
        ("What is the second phone number of Ann?", ("phone number", "555 0199")),
        ("Who was CEO of Globex before Rita Vale?", ("CEO", "Rita Vale")),
        ("Who replaced the Moss Holdings as the owner?", ("owner", "Moss Holdings")),
        ("When was the architect of Height Tower born?", ARCHITECT),
        ("Where did the architect of Height Tower study?", ARCHITECT),
        ("In which room is the architect of Height Tower?", ARCHITECT),
        ("How much does the architect earn?", ARCHITECT),
        ("How old is it?", ("color", "red")),
        ("Why was Height Tower closed?", ("opening", "1890")),
        ("Why is it red?", ("material", "steel")),
        ("Do you know why it is so expensive?", ("price", "199 euros")),
        ("Why is Rita Vale the CEO of Globex?", ("CEO", "Rita Vale")),
        ("When did I order it?", ("release year", "2021")),
        ("How many were sold?", ("price", "249 euros")),
    ],
)
def test_it_cannot(question: str, fact: tuple[str, str]) -> None:
    assert not can_answer(question, *fact)


@pytest.mark.parametrize(
    ("question", "fact"),
    [
        ("Who designed Height Tower?", ARCHITECT),
        ("Who designed it when it was built?", ARCHITECT),
        ("When was it built, and who designed it?", ARCHITECT),
        ("When does radon melt?", ("melting point", "202.15 kelvin")),
        ("Do you know when radon melts?", ("melting point", "202.15 kelvin")),
        ("When is it open?", ("visits", "on request")),
        ("When was it built?", ("construction", "1890")),
        ("When was it built?", ("construction", "c. 870")),
        ("When was it built?", ("construction", "5th century")),
        ("When was it built?", ("construction", "after the flood")),
        ("When was it built?", ("completion date", "unknown")),
        ("When did it open?", ("opening", "9:30")),
        ("When did it open?", ("start", "Monday")),
        ("When was it built?", ("Bau", "Spätmittelalter")),  # not told
        ("How many floors does it have?", ("floors", "a handful")),
        ("How many people live there?", ("population", "210,000")),
        ("How many people live there?", ("population", "about two dozen")),
        ("How many hours ahead of GMT is it?", ("time zone", "Asia/Omsk")),
        ("How many kinds and which are there?", STAFF),
        ("", ARCHITECT),
        ("Who is platinum?", ("place of discovery", "Italy")),
        ("Whom do I call there?", ("emergency number", "112")),
        ("Who discovered platinum, and where?", ("place of discovery", "Italy")),
        ("Who runs the place of discovery?", ("place of discovery", "Italy")),
        ("How many feet is it high?", HEIGHT),
        ("How high is it in miles?", HEIGHT),
        ("How many degrees are there?", ("melting point", "1,800 kelvin")),
        ("How many degrees are there?", ("latitude", "47.5")),
        ("How heavy is a molecule, in daltons?", ("molar mass", "138.6 grams per mole")),
        ("How many grams per mole is it?", ("length", "3 feet")),
        ("How many hectares has it, and what is its height?", HEIGHT),
        ("How many hectares is it, and how tall?", HEIGHT),
        ("Over how many square feet?", ("area", "3 hectares")),
        ("How many fathoms is it high?", HEIGHT),
        ("Who do I call there?", ("phone", "555 0101")),
        ("Who comes in spring?", ("guest", "April")),
        ("Who founded it?", ("founded", "1241 by monks")),
        ("Where is it?", ("room", "1204")),
        ("Where was it deployed?", ("deployed", "in Oslo, 2024")),
        ("How deep and how high is it?", HEIGHT),
        ("How high is it?", ("elevation", "41 metres")),
        ("How high is it?", ("price", "2 euros")),
        ("How deep is the height?", HEIGHT),
        ("Which four letters does it have?", ("ICAO code", "EGSP")),
        ("Which 4 letters does it have?", ("ICAO code", "EGSP")),
        ("Which three letters does it have?", ("nickname", "Gespy")),
        ("Where do I find the founder of Acme?", ("founder", "Wile Coyote")),
        ("Where is it, and who founded it?", ("founder", "Wile Coyote")),
        ("Where is Globex?", ("headquarters", "Oslo")),
        ("Who is the former owner?", ("former owner", "Moss Holdings")),
        ("Is the former owner an owner?", ("owner", "Moss Holdings")),
        ("Who is the current owner?", ("owner", "Moss Holdings")),
        ("Did Rita Vale come before Rita Vale?", ("CEO", "Rita Vale")),
        ("Is Rita Vale the CEO?", ("CEO", "Rita Vale")),
        ("There is a gap where the architect should be.", ARCHITECT),
        ("Which crane stands next to Height Tower where the architect should be?", ARCHITECT),
        ("How many owners had it before?", ("previous owner", "2")),
        ("When does the coach leave?", ("coach", "9:30")),
        ("In which person's name is it, the owner's?", ("owner", "Moss Holdings")),
        ("In which capacity is the architect there?", ARCHITECT),
        ("How much water does it need?", ("watering", "little")),
        ("How much does it cost?", ("price", "on request")),
        ("How much does it cost?", ("admission", "free")),
        ("How old is it?", ("age", "mature")),
        ("Why is it called that?", ("origin of the name", "Greek")),
        ("Why is there a delay on line 5?", ("delay", "signal fault")),
        ("Why was it closed?", ("status", "closed because of a strike")),
        ("Why was it closed?", ("status", "after the flood of 1921 nobody came back to it")),
        ("Why was it closed?", ("Lage", "gewölbt")),  # not told
        ("Why is it closed, and who is the owner?", ("owner", "Moss Holdings")),
        ("What did I have to dial?", ("phone number", "555 0199")),
        ("How many dollars is it?", ("price", "249 euros")),
        ("How many quid is it?", ("price", "249 euros")),
        ("How many metric tons is it?", ("weight", "249 kg")),
    ],
)
def test_it_may(question: str, fact: tuple[str, str]) -> None:
    assert can_answer(question, *fact)


@pytest.mark.parametrize(
    "question", ["How much is Plan Basic?", "how much are Plan Basic per month", "I wonder how much the"]
)
def test_how_much_something_is(question: str) -> None:
    """Its price, and of what it has only what costs."""
    asks_price = "Plan" in question
    assert can_answer(question, "storage", "50 GB", "Plan Basic") is not asks_price
    for fact in (("monthly rate", "9"), ("monthly", "$9"), ("monthly", "9 euros"), ("storage", "all you need")):
        assert can_answer(question, *fact, "Plan Basic")
    assert can_answer("How much is Plan Basic used?", "storage", "50 GB", "Plan Basic")
    assert can_answer("How much storage is in Plan Basic?", "storage", "50 GB", "Plan Basic")
