"""What a fact cannot answer though it is about the same: "When was it built?", "Who was the former owner?"."""

from __future__ import annotations

import re

from kblam.generation.units import fits_units
from kblam.knowledge.identifiers import forms, spoken
from kblam.knowledge.mention import says_property, spans_of, words

# Only where it asks, and not as in "Who led it when it was built?".
_KNOW = (
    r"\b(?:know|tell|tell (?:me|us)|say|remember|recall|wonder|wondering|curious|sure|idea|clue|find out|figure out|"
    r"understand|forgot|forgotten)[,:]?\s+"
)
_OPENING = r"^\W*(?:(?:and|so|but|also|then|please|hi|hello|hey|ok|okay|well)\b\W*)*"
_AT = r"(?:(?:in|on|at|by|since|until|for)\s+)?"
# Not "When does it melt?": at 1,800 kelvin.
_WHEN = re.compile(
    rf"{_OPENING}{_AT}when\s+(?:was|were|did|will|had|has|have)\b|"
    rf"{_KNOW}{_AT}when\s[^.?!]{{1,200}}?\b(?:was|were|will|had)\b|"
    rf"(?:{_OPENING}|{_KNOW}){_AT}(?:what|which)\s+(?:year|date|day|month|century|decade)\b",
    re.IGNORECASE,
)
# Nor "How many hours is it ahead of London?": it is in the time zone of Omsk.
_HOW_MANY = re.compile(
    rf"(?:{_OPENING}|{_KNOW})how\s+many\s+(?!(?:minute|hour|day|week|month|year)s?\b)", re.IGNORECASE
)
_WHERE = re.compile(rf"(?:{_OPENING}|{_KNOW}){_AT}where\b", re.IGNORECASE)
_PERSONS = frozenset(
    (
        *(
            "founder",
            "cofounder",
            "owner",
            "architect",
            "author",
            "writer",
            "creator",
            "inventor",
            "discoverer",
            "designer",
        ),
        *(
            "builder",
            "composer",
            "painter",
            "sculptor",
            "director",
            "producer",
            "editor",
            "developer",
            "manager",
            "leader",
        ),
        *("engineer", "ceo", "cto", "cfo", "president", "chairman", "chairwoman", "chair", "mayor", "captain", "coach"),
        *(
            "spouse",
            "wife",
            "husband",
            "mother",
            "father",
            "child",
            "son",
            "daughter",
            "brother",
            "sister",
            "successor",
        ),
        *("predecessor", "winner", "champion", "sponsor", "teacher", "boss", "supervisor", "minister", "king", "queen"),
    )
)
# Not "Who is A?", which asks for all there is.
_WHO = re.compile(rf"(?:{_OPENING}|{_KNOW})who\s+(?!is\b|are\b|was\b|were\b|on\b)[a-z]", re.IGNORECASE)
_NO_PERSONS = frozenset(
    (
        *(
            "place",
            "location",
            "site",
            "address",
            "country",
            "state",
            "region",
            "province",
            "city",
            "town",
            "continent",
        ),
        *("date", "year", "day", "time", "zone", "number", "code", "height", "width", "length", "weight", "elevation"),
        *("latitude", "longitude", "area", "depth", "age", "price", "radius", "density", "temperature", "point", "url"),
    )
)
_ASKS_MORE = re.compile(r"\b(?:who|whom|whose|what|which|where|when|why|how)\b", re.IGNORECASE)

_WORD_BEFORE = re.compile(r"(?<![^\W_])([^\W\d_]+)[\s-]+$")
_ANOTHER = frozenset(
    (
        *("former", "previous", "ex", "past", "next", "future", "deputy", "vice", "assistant", "interim", "acting"),
        *("second", "third", "fourth", "fifth"),
    )
)
_BESIDE = re.compile(
    r"\b(?:before|after|besides|except|instead of|other than|apart from|replac\w+|succe\w+|preced\w+|follow\w+)\s+"
    r"(?:the\s+)?$",
    re.IGNORECASE,
)

_NUMBERS = """
no none zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million
millions billion billions dozen dozens score several few many numerous countless single pair couple both half all
"""
_TIMES = """
january february march april may june july august september october november december jan feb mar apr jun jul aug sep
sept oct nov dec monday tuesday wednesday thursday friday saturday sunday mondays tuesdays wednesdays thursdays fridays
saturdays sundays spring summer autumn fall winter easter christmas morning mornings noon afternoon evening night
midnight dawn dusk day days week weeks month months year years century centuries decade decades era age ages antiquity
medieval ancient prehistory prehistoric renaissance baroque dynasty reign war today yesterday tomorrow tonight now then
soon late later early earlier recently before after during since until till while when once ago always never daily
weekly monthly yearly annual annually hourly weekend weekends holiday holidays holy first second third last next past
present future time times date dates period open opening birth birthday founding foundation end
"""
_SAYS_NUMBER, _SAYS_TIME = frozenset(_NUMBERS.split()), frozenset((_NUMBERS + _TIMES).split())
_NUMBER = re.compile(r"\d")
# A year, "9:30", "1.5.1931", "5th", "44 BC"; a small number that is all there is. Not "3,120 m", nor "555 0199".
_DATE = re.compile(
    r"(?<![\d.,])[12]\d{3}(?![.,]?\d)|\b\d{1,2}[:.h]\d{2}\b|\b\d{1,4}([./-])\d{1,2}\1\d{1,4}\b|\d(?:st|nd|rd|th)\b|"
    r"\d\s*(?:bce?|ad|ce|[ap]\.?m)\b|^\W*(?:ca?\b\.?|circa|ad)?\s*\d{1,4}\W*$",
    re.IGNORECASE,
)


def can_answer(question: str, property: str, value: str) -> bool:
    """Whether a fact may be what a question asks for, as far as words of English tell.

    It is not if a time ("when") or a number ("how many") is asked for, nothing in the value looks like one, the
    property has no word of such a kind either, and the question does not say it; nor if a place is asked for ("where")
    and it tells a person, or the other way round ("who"). Values that are not ASCII, and questions about more than one
    thing, are not told. Nor is it if the question says the property as another one (the "former owner"), who comes
    before or after the value or instead of it, or a unit that measures something else.

    Args:
        question: as it was asked.
        property, value: of the triple that would answer.
    """
    if _asks_for_another(question, property) or _asks_beside(question, value):
        return False
    if not fits_units(question, value):
        return says_property(question, property)
    tells = set(words(spoken(property)))
    for asks, others in ((_WHERE, _PERSONS & set(words(spoken(property))[-1:])), (_WHO, _NO_PERSONS & tells)):
        asked = asks.search(question) if others else None
        if asked is not None:
            return _ASKS_MORE.search(question, asked.end()) is not None or says_property(question, property)
    for asks, kind, looks_like in ((_WHEN, _SAYS_TIME, _DATE), (_HOW_MANY, _SAYS_NUMBER, _NUMBER)):
        asked = asks.search(question)
        if asked is None or _ASKS_MORE.search(question, asked.end()) is not None:
            continue
        if not value.isascii() or looks_like.search(value) is not None or kind.intersection(words(value)):
            return True
        return bool(kind.intersection(words(spoken(property)))) or says_property(question, property)
    return True


def _asks_for_another(question: str, property: str) -> bool:
    """Whether a question says a property only behind a word that makes another one of it."""
    before = [
        found[1].lower() if (found := _WORD_BEFORE.search(question, max(0, start - 40), start)) is not None else ""
        for form in forms(property)
        for start, _ in spans_of(question, form)
    ]
    return bool(before) and all(word in _ANOTHER for word in before)


def _asks_beside(question: str, value: str) -> bool:
    """Whether a question asks who or what comes before, after or instead of a value, which it says."""
    return any(
        _BESIDE.search(question, max(0, start - 40), start) is not None and _ASKS_MORE.search(question, 0, start)
        for start, _ in spans_of(question, value)
    )
