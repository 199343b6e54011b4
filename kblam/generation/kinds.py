"""What a fact cannot answer though it is about the same: "When was it built?", "Who was the former owner?"."""

from __future__ import annotations

import re

from kblam.generation.kind_words import ANOTHER, NO_PERSONS, NUMBERS, PERSONS, TIMES
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
# Not "Who is A?", which asks for all there is.
_WHO = re.compile(rf"(?:{_OPENING}|{_KNOW})who\s+(?!is\b|are\b|was\b|were\b|on\b)[a-z]", re.IGNORECASE)
_ASKS_MORE = re.compile(r"\b(?:who|whom|whose|what|which|where|when|why|how)\b", re.IGNORECASE)

_WORD_BEFORE = re.compile(r"(?<![^\W_])([^\W\d_]+)[\s-]+$")
_BESIDE = re.compile(
    r"\b(?:before|after|besides|except|instead of|other than|apart from|replac\w+|succe\w+|preced\w+|follow\w+)\s+"
    r"(?:the\s+)?$",
    re.IGNORECASE,
)

_NUMBER = re.compile(r"\d")
# A year, "9:30", "1.5.1931", "5th", "44 BC"; a small number that is all there is. Not "3,120 m", nor "555 0199".
_DATE = re.compile(
    r"(?<![\d.,])[12]\d{3}(?![.,]?\d)|\b\d{1,2}[:.h]\d{2}\b|\b\d{1,4}([./-])\d{1,2}\1\d{1,4}\b|\d(?:st|nd|rd|th)\b|"
    r"\d\s*(?:bce?|ad|ce|[ap]\.?m)\b|^\W*(?:ca?\b\.?|circa|ad)?\s*\d{1,4}\W*$",
    re.IGNORECASE,
)


def can_answer(question: str, property: str, value: str) -> bool:
    """Whether a fact may be what a question asks for, as far as words of English tell.

    It is not if the question says the property as another one (the "former owner"), or who comes before or after the
    value, or instead of it. Nor, unless the question says the property, if it asks for a time ("when") or a number
    ("how many") and neither value nor property has anything like one; if it asks for a place ("where") and the property
    is a person's, or the other way round ("who"); or in a unit that measures something else. Values that are not ASCII,
    and questions about more than one thing, are not told.

    Args:
        question: as it was asked.
        property, value: of the triple that would answer.
    """
    if _asks_for_another(question, property) or _asks_beside(question, value):
        return False
    # "How many hectares is it, and how tall?" is answered by feet too.
    in_units = fits_units(question, value) or len(_ASKS_MORE.findall(question)) > 1
    is_alike = in_units and _is_of_kind(question, words(spoken(property)), value)
    return is_alike or says_property(question, property)


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
    )


def _asks(question: str, way: re.Pattern[str]) -> bool:
    """Whether a question asks in this way, and for nothing more."""
    asked = way.search(question)
    return asked is not None and _ASKS_MORE.search(question, asked.end()) is None


def _asks_for_another(question: str, property: str) -> bool:
    """Whether a question says a property only behind a word that makes another one of it."""
    before = [
        found[1].lower() if (found := _WORD_BEFORE.search(question, max(0, start - 40), start)) is not None else ""
        for form in forms(property)
        for start, _ in spans_of(question, form)
    ]
    return bool(before) and all(word in ANOTHER for word in before)


def _asks_beside(question: str, value: str) -> bool:
    """Whether a question asks who or what comes before, after or instead of a value, which it says."""
    return any(
        _BESIDE.search(question, max(0, start - 40), start) is not None and _ASKS_MORE.search(question, 0, start)
        for start, _ in spans_of(question, value)
    )
