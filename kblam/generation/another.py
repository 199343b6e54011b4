"""Questions for another fact than one of the same name: the former owner, the minimum fine, who does not own it."""

from __future__ import annotations

import re
from itertools import pairwise

from kblam.generation.kind_words import ANOTHER, NEGATIVE, OFFICES, OPPOSITES, PERSONS, PLAIN_VERBS
from kblam.generation.openings import ASKING, KNOW, OPENING
from kblam.knowledge.filler import FILLER
from kblam.knowledge.identifiers import forms, spoken
from kblam.knowledge.mention import spans_of, words, words_at
from kblam.knowledge.other_things import NOTHING_ELSE, is_akin

_FAR = 40  # characters before a property or value that are looked at
_WORD_BEFORE = re.compile(r"(?<![^\W_])((?:second[\s-])?[^\W\d_]+(?:['’]s)?)[\s-]+$", re.IGNORECASE)
_NOT_BEFORE = re.compile(r"\bnot\s+(?:(?:the|a|an|its|his|her|their)\s+)?$", re.IGNORECASE)
_ACTS_ON = re.compile(r"\bwho\s+([^\W\d_]+)\s+the\s+$", re.IGNORECASE)
_OWNS = re.compile(r"(?:['’]s|(?<=s)['’])\s+([^\W\d_]+)", re.IGNORECASE)
# Who sits in "the director's chair" is the director.
_PLACES = frozenset(("office", "chair", "seat", "post", "position", "role", "job", "hat", "desk", "shoes"))
# "s" is that of "Ann's".
_THE = frozenset(("the", "its", "his", "her", "their", "which", "what", "s"))
# "Is Ann not the owner?" asks who is.
_MAY_BE_YES = re.compile(
    r"^\W*(?:is|are|was|were|do|does|did|has|have|can|could|isn|aren|wasn|weren|why)\b", re.IGNORECASE
)
_BESIDE = re.compile(
    r"\b(?:before|after|besides|except|instead of|other than|apart from|replac\w+|succe\w+|preced\w+|follow\w+)\s+"
    r"(?:the\s+)?$",
    re.IGNORECASE,
)
# Not "Who should not take it?", which asks for what speaks against it.
_WHO_NOT = re.compile(
    rf"(?:{OPENING}|{KNOW})who(?:['’]s\s+(?:not|never)|\s+(?:is|are|was|were|do|does|did|has|have|had)"
    r"(?:\s+(?:not|never)|n['’]?t))\b",
    re.IGNORECASE,
)


def asks_for_another(question: str, property: str, value: str, name: str) -> bool:
    """Whether a question asks for another fact than this one, as far as words of English tell.

    It says the property only behind a word that makes another one of it ("the former owner", "not the owner"), as whom
    somebody acts on ("Who sued the owner?"), or as the owner of what is asked for ("the owner's lawyer"). It says the
    opposite of a word of the property: the minimum fine is not the maximum. It asks who comes before or after the
    value, or instead of it, or who is not.

    Args:
        question: as it was asked.
        property, value, name: of the triple that would answer.
    """
    own = words(spoken(property))
    is_person = not (PERSONS | OFFICES).isdisjoint(own[-1:])
    said = [place for form in forms(property) for place in spans_of(question, form)]
    return (
        (bool(said) and all(_is_another(question, *place, is_person) for place in said))
        or _says_opposite(question, own, name)
        or (_WHO_NOT.search(question) is not None and NEGATIVE.isdisjoint({*own, *words(value)}))
        or _asks_beside(question, value)
    )


def _is_another(question: str, start: int, end: int, is_person: bool) -> bool:
    """Whether a property that is said at [start, end) is not what is asked for."""
    since = max(0, start - _FAR)
    before = _WORD_BEFORE.search(question, since, start)
    if before is not None and before[1].lower().replace(" ", "-").replace("’", "'") in ANOTHER:
        return True
    if _NOT_BEFORE.search(question, since, start) is not None and _MAY_BE_YES.match(question) is None:
        return True
    owned = _OWNS.match(question, end)
    if owned is not None and owned[1].lower() not in NOTHING_ELSE | FILLER | _PLACES:
        return True
    acts = _ACTS_ON.search(question, since, start) if is_person else None
    return acts is not None and acts[1].lower() not in PLAIN_VERBS


def _says_opposite(question: str, property: list[str], name: str) -> bool:
    """Whether a question says a property with the opposite of one of its words, and not with that word."""
    sides = [(group, side) for group in OPPOSITES for side in group if not side.isdisjoint(property)]
    if not sides:
        return False
    named = list(spans_of(question, name))
    said = [word for word, at, to in words_at(question) if not any(start <= at and to <= end for start, end in named)]
    for group, side in sides:
        others, rest = frozenset[str]().union(*group) - side, [word for word in property if word not in side]
        if rest:
            is_said = any(
                word in others and any(is_akin(behind, one) for one in rest) for word, behind in pairwise(said)
            )
        else:
            is_said = any(word in others and before in _THE for before, word in pairwise(said))
        if is_said and side.isdisjoint(said):
            return True
    return False


def _asks_beside(question: str, value: str) -> bool:
    """Whether a question asks who or what comes before, after or instead of a value, which it says."""
    return any(
        _BESIDE.search(question, max(0, start - _FAR), start) is not None and ASKING.search(question, 0, start)
        for start, _ in spans_of(question, value)
    )
