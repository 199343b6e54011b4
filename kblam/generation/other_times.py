"""Questions for another time than that of a fact: last year's price, who was on call yesterday, the staff in 1990."""

from __future__ import annotations

import re

from kblam.generation.kind_words import A_YEAR, OFFICES, TIMES_OF_FACTS
from kblam.knowledge.identifiers import spoken
from kblam.knowledge.mention import spans_of, words

_PERIODS = r"(?:year|month|week|quarter|season|semester|term|decade|century|night|summer|winter|spring|autumn|fall)\b"
_ANOTHER_TIME = re.compile(
    rf"\b(?:yesterday|tomorrow)\b|\b(?:last|next|previous)\s+{_PERIODS}|"
    r"(?<!how many )(?<!million )(?<!billion )\b(?:years?|months?|weeks?|days?|decades|centuries)\s+ago\b|"
    r"\bwho\s+used\s+to\b|\bdid\b[^.?!]{1,200}?\buse\s+to\b",
    re.IGNORECASE,
)
_IN_YEAR = re.compile(r"\bin\s+((?:1[5-9]|20)\d\d)\b(?!\s*%)", re.IGNORECASE)
# A word before it that says what happened then: not "the height of the tower built in 1998".
_HAPPENED = re.compile(r"(?:ed|built|born|made|written|sold|won|begun|found|opening|founding)\s+$", re.IGNORECASE)
# A clause of its own: "I bought it last month; how long does it last?", "the ship that we bought last year".
_ASIDE = re.compile(r"[,;:]|\b(?:that|which|i|we|they|he|she|until|by|before|for|since)\b", re.IGNORECASE)
_ASKS = re.compile(r"^\W*(?:(?:and|so|but|hi|hey|hello)\W+)?(?:who|what|which|where|how|when)\b", re.IGNORECASE)
_OWNS = re.compile("['’]s?\\b")
_AMOUNT = re.compile(r"\W{0,3}(?:(?:about|over|under|some|nearly|around|approximately|ca?\.?)\s+)?\W?\d", re.IGNORECASE)
_DATE = re.compile(r"\W*(?:1\d|20)\d\d\W*|\d{1,2}\s+[^\W\d_]+\s+\d{4}|\d{4}-\d{2}-\d{2}|[^\W\d_]+\s+\d{1,2},?\s+\d{4}")


def is_of_another_time(question: str, property: str, value: str, name: str) -> bool:
    """Whether a question asks for a time of which a fact does not tell, as far as words of English do.

    Told are values that are an amount ("312") and properties that are an office ("mayor"), which have others at other
    times. Their fact is not of yesterday, last year, next week or 2027, unless property, value or name say a time; and
    the revenue is that of last year.

    Args:
        question: as it was asked.
        property, value, name: of the triple that would answer.
    """
    own = words(spoken(property))
    if OFFICES.isdisjoint(own[-1:]) and (_AMOUNT.match(value) is None or _DATE.fullmatch(value) is not None):
        return False
    told, named = {*own, *words(value), *words(name)}, list(spans_of(question, name))
    says_time = not TIMES_OF_FACTS.isdisjoint(told) or not A_YEAR.isdisjoint(own)

    def asks(found: re.Match[str]) -> bool:
        since = max((end for _, end in named if end <= found.start()), default=0)
        begin = max(0, *(question.rfind(stop, 0, found.start()) + 1 for stop in ".?!;:"))
        before = question[max(begin, since) : found.start()]
        is_possessive = _OWNS.match(question, found.end()) is not None
        asks_so = is_possessive or _ASKS.match(question[begin:]) is not None or found.start() == begin
        return asks_so and (is_possessive or _ASIDE.search(before) is None)

    if not says_time and any(asks(found) for found in _ANOTHER_TIME.finditer(question)):
        return True
    return any(
        asks(found) and found[1] not in told and _HAPPENED.search(question, 0, found.start()) is None
        for found in _IN_YEAR.finditer(question)
    )
