"""What a fact cannot answer though it is about the same: "When was it built?", "Who was the former owner?"."""

from __future__ import annotations

import re

from kblam.generation.about_whom import asks_about_whom, is_person
from kblam.generation.another import asks_for_another
from kblam.generation.dimensions import fits_dimension
from kblam.generation.kind_words import AMOUNTS, CAUSES, NO_PERSONS, NUMBERS, PERSONS, TIMES
from kblam.generation.openings import ASKING, KNOW, OPENING
from kblam.generation.other_sides import asks_for_other_side
from kblam.generation.other_times import is_of_another_time
from kblam.generation.units import fits_units, is_measured, is_money
from kblam.knowledge.identifiers import spoken
from kblam.knowledge.mention import says_property, spans_of, words

_AT = r"(?:(?:in|on|at|by|since|until|for)\s+)?"
# Not "When does it melt?": at 1,800 kelvin.
_WHEN = re.compile(
    rf"{OPENING}{_AT}when\s+(?:was|were|did|will|had|has|have)\b|"
    rf"{KNOW}{_AT}when\s[^.?!]{{1,200}}?\b(?:was|were|will|had)\b|"
    rf"(?:{OPENING}|{KNOW}){_AT}(?:what|which)\s+(?:year|date|day|month|century|decade)\b",
    re.IGNORECASE,
)
# Nor "How many hours is it ahead of London?": it is in the time zone of Omsk.
_HOW_MANY = re.compile(rf"(?:{OPENING}|{KNOW})how\s+many\s+(?!(?:minute|hour|day|week|month|year)s?\b)", re.IGNORECASE)
# Not "How much water does it need?": little.
_HOW_MUCH = re.compile(
    rf"(?:{OPENING}|{KNOW})how\s+(?:old\b|much\b[^.?!]{{1,200}}?\b(?:costs?|earns?|earned|weighs?|weighed|paid|awarded)\b)",
    re.IGNORECASE,
)
_WHERE = re.compile(rf"(?:{OPENING}|{KNOW}){_AT}where\b", re.IGNORECASE)
# Not "Who is A?", which asks for all there is.
_WHO = re.compile(rf"(?:{OPENING}|{KNOW})who\s+(?!is\b|are\b|was\b|were\b|on\b)[a-z]", re.IGNORECASE)
_WHY = re.compile(rf"(?:{OPENING}|{KNOW})(?:why|how\s+come|for\s+(?:what|which)\s+reason)\b", re.IGNORECASE)
# A place of whom it names: not "Where do I find the founder?".
_OF_WHOM = re.compile(
    rf"(?:{OPENING}|{KNOW}){_AT}where\b(?!\s+(?:do|can|could|would|may|might|should)\s+(?:i|we|you|one)\b)",
    re.IGNORECASE,
)
_IN_WHICH = re.compile(
    r"\b(?:in|on|at|during|since)\s+(?:what|which)\s+(?!(?:person|company|firm|organi[sz]ation|capacity|case|way)\b)"
    r"[^\W\d_]+\s+(?:is|are|was|were|does|did|do|has|had|will|can)\b",
    re.IGNORECASE,
)
# What happened to who asks is in no knowledge base.
_DID_I = re.compile(rf"{OPENING}(?:when|why)\s+(?:did|was|had)\s+(?:i|my)\b", re.IGNORECASE)
# Not "Who do I call?": 112.
_WHO_DID = re.compile(
    rf"(?:{OPENING}|{KNOW})who\s+(?!(?:is|are|was|were|on|do|can|could|would|should|may|must|to)\b)[a-z]", re.IGNORECASE
)
# What has happened, of which a date says when: "built", "opened".
_HAPPENED = re.compile(r"[^\W\d_]{2,}ed|built|born|made|begun|sold|won|found|written|bought")
# "How much is Plan Basic?", and no more: its price.
_HOW_MUCH_IS = re.compile(rf"(?:{OPENING}|{KNOW})how\s+much\s+(?:is|are|was|were)\s+(?:the\s+|an?\s+)?$", re.IGNORECASE)
_NO_MORE = re.compile(r"\W*(?:$|(?:a|an|per|for|now|today|please|in)\b)", re.IGNORECASE)
_LONG_VALUE = 8  # words of a value that may give a reason without words for it

_NUMBER, _NOTHING = re.compile(r"\d"), re.compile(r"(?!)")
# A year, "9:30", "1.5.1931", "5th", "44 BC"; a small number that is all there is. Not "3,120 m", nor "555 0199".
_DATE = re.compile(
    r"(?<![\d.,])[12]\d{3}(?![.,]?\d)|\b\d{1,2}[:.h]\d{2}\b|\b\d{1,4}([./-])\d{1,2}\1\d{1,4}\b|\d(?:st|nd|rd|th)\b|"
    r"\d\s*(?:bce?|ad|ce|[ap]\.?m)\b|^\W*(?:ca?\b\.?|circa|ad)?\s*\d{1,4}\W*$",
    re.IGNORECASE,
)


def can_answer(question: str, property: str, value: str, name: str = "") -> bool:
    """Whether a fact may be what a question asks for, as far as words of English tell.

    It is not if the question asks for another fact (`another`), another time (`other_times`), the other side of this
    one (`other_sides`), or something of the person whom it names (`about_whom`); or who did something, or where, of
    which it only tells when. Nor, unless the question says the property, if it asks for a time ("when"), a number ("how
    many", "how much", "how old") or a reason ("why") and neither value nor property has anything like one; if it asks
    for a place ("where") and the property is a person's, or the other way round ("who"); or in a unit or a direction
    (`dimensions`) that measures something else. A person's name is no time, number or place though the question says
    the property: when the founder was born. Values that are not ASCII, and questions about more than one thing, are not
    told.

    Args:
        question: as it was asked.
        property, value, name: of the triple that would answer.
    """
    if (
        _DID_I.search(question) is not None
        or asks_for_another(question, property, value, name)
        or is_of_another_time(question, property, value, name)
        or asks_for_other_side(question, property, name)
    ):
        return False
    # "How many hectares is it, and how tall?" is answered by feet too.
    in_units = fits_units(question, value) or len(ASKING.findall(question)) > 1
    own = words(spoken(property))
    names_person = is_person(own) and _NUMBER.search(value) is None
    if (
        (names_person and asks_about_whom(question, property, name))
        or _asks_of_whom(question, own, value)
        or _is_only_when(question, own, value)
        or (_asks_price(question, name) and not (is_money(value) or AMOUNTS & {*own} or _NUMBER.search(value) is None))
    ):
        return False
    fits = in_units and fits_dimension(question, own) and _is_of_kind(question, own, value)
    return fits or says_property(question, property)


def _is_only_when(question: str, property: list[str], value: str) -> bool:
    """Whether a question asks who did something, or where, and a fact only tells when, or how much."""
    if not is_measured(value):
        return False
    has_happened = _HAPPENED.fullmatch(property[-1] if property else "") is not None
    return _asks(question, _WHO_DID) or (has_happened and _asks(question, _WHERE))


def _asks_price(question: str, name: str) -> bool:
    """Whether a question asks how much something is, and names nothing of it."""
    return any(
        _HOW_MUCH_IS.search(question, 0, start) is not None and _NO_MORE.match(question, end) is not None
        for start, end in spans_of(question, name)
    )


def _asks_of_whom(question: str, property: list[str], value: str) -> bool:
    """Whether a question asks for something of somebody whom the fact only names: where the owner is, why he is."""
    if _asks(question, _WHY):
        is_short = not ({*property, *words(value)} & CAUSES) and len(words(value)) < _LONG_VALUE and value.isascii()
        return is_short and (is_person(property) or _NUMBER.search(value) is not None)
    if not is_person(property) or _NUMBER.search(value) is not None or not value.isascii():
        return False
    is_asked = any(_asks(question, way) for way in (_WHEN, _HOW_MANY, _HOW_MUCH, _OF_WHOM))
    return is_asked or _IN_WHICH.search(question) is not None


def _is_of_kind(question: str, property: list[str], value: str) -> bool:
    """Whether a value, or the words of its property, are of the kind that a question asks for."""
    said = {*property, *words(value)}

    def has(kind: frozenset[str], looks_like: re.Pattern[str]) -> bool:
        return not value.isascii() or looks_like.search(value) is not None or not kind.isdisjoint(said)

    return not (
        (_asks(question, _WHERE) and not PERSONS.isdisjoint(property[-1:]))
        or (_asks(question, _WHO) and not NO_PERSONS.isdisjoint(property))
        or (_asks(question, _WHEN) and not has(TIMES, _DATE))
        or (_asks(question, _HOW_MANY) and not has(NUMBERS, _NUMBER))
        or (_asks(question, _HOW_MUCH) and not has(NUMBERS | AMOUNTS | TIMES, _NUMBER))
        or (_asks(question, _WHY) and not has(CAUSES, _NOTHING) and len(words(value)) < _LONG_VALUE)
    )


def _asks(question: str, way: re.Pattern[str]) -> bool:
    """Whether a question asks in this way, and for nothing more."""
    asked = way.search(question)
    return asked is not None and ASKING.search(question, asked.end()) is None
