"""Questions about somebody whom a fact only names: what the mayor earns, the office of the manager."""

from __future__ import annotations

import re

from kblam.generation.kind_words import OFFICES, PERSONS
from kblam.knowledge.filler import FILLER
from kblam.knowledge.identifiers import forms
from kblam.knowledge.mention import spans_of
from kblam.knowledge.other_things import NOTHING_ELSE

_FAR = 80  # characters before a property that are looked at
_DOES = re.compile(
    r"\b(?:does|did|do|has|have|had|can|could|will|would|may|might|must|should)\s+(?:(?:the|its|his|her|their)\s+)?$",
    re.IGNORECASE,
)
_OF = re.compile(
    r"\b(?:the|what|which)\s+(?:[^\W\d_]+[\s-]+){0,2}?([^\W\d_]+)\s+of\s+(?:(?:the|its)\s+)?$", re.IGNORECASE
)
_OF_NAME = re.compile(r"\s+(?:of|for|at|in)\s+(?:the\s+)?", re.IGNORECASE)
_OWNS = re.compile(r"(?:['’]s|(?<=[sS])['’])\s+", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
# Who "would the owner be"?
_BE = re.compile(r"\bbe\b", re.IGNORECASE)
# "The name of the owner" is the owner, and who holds "the office of the mayor" the mayor.
_THE_SAME = frozenset(("name", "names", "identity", "post", "position", "role", "job", "title"))
_HELD, _WHO = frozenset(("office", "chair", "seat")), re.compile(r"\bwho\b", re.IGNORECASE)


def is_person(property: list[str]) -> bool:
    """Whether a property, in words, is of a person or a firm: whom its value names."""
    return not (PERSONS | OFFICES).isdisjoint(property[-1:])


def asks_about_whom(question: str, property: str, name: str) -> bool:
    """Whether a question says a property of a person for what this person does or has.

    "What does the owner of A earn?", "the office of the owner", "the owner of A's phone number".

    Args:
        question: as it was asked.
        property: of a person, see `is_person`.
        name: of the triple that would answer.
    """
    named = list(spans_of(question, name))
    said = [place for form in forms(property) for place in spans_of(question, form)]
    return bool(said) and all(_is_about(question, *place, named) for place in said)


def _is_about(question: str, start: int, end: int, named: list[tuple[int, int]]) -> bool:
    """Whether the person that is said at [start, end) is only whom the question is about."""
    # Of "Ann's manager" what is before Ann counts.
    first = next((at for at, to in named if to <= start and _OWNS.fullmatch(question, to, start)), start)
    since = max(0, first - _FAR)
    if _DOES.search(question, since, first) is not None and _BE.search(question, end) is None:
        return True
    of = _OF.search(question, since, first)
    same = _THE_SAME | FILLER | (_HELD if _WHO.search(question) else frozenset())
    if of is not None and of[1].lower() not in same:
        return True
    behind = _OF_NAME.match(question, end)
    stop = next((to for at, to in named if behind is not None and at == behind.end()), None)
    owned = None if stop is None else _OWNS.match(question, stop)
    what = None if owned is None else _WORD.match(question, owned.end())
    return what is not None and what[0].lower() not in NOTHING_ELSE | FILLER
