"""Questions for the other side of a fact: whom Ann manages is not told by the manager of Ann."""

from __future__ import annotations

import re

from kblam.generation.kind_words import OFFICES, PERSONS
from kblam.knowledge.identifiers import forms, spoken
from kblam.knowledge.mention import says_property, spans_of, words

_FAR = 80  # characters before a name that are looked at
_IS = re.compile(r"\s+(?:is|are|was|were)\s+(?:the\s+|an?\s+)?$", re.IGNORECASE)
_WHOSE = re.compile(r"\bwhose\s+$", re.IGNORECASE)
_DOES = re.compile(r"\b(?:does|did|do|has|have|had|will|can|could)\s+(?:the\s+)?$", re.IGNORECASE)
_BY = re.compile(r"\b([^\W\d_]+)\s+by\s+(?:the\s+)?$", re.IGNORECASE)
_VERB = re.compile(r"\s+([^\W\d_]+)")
_MEMBERS = re.compile(
    r"\b(?:who|(?:which|what|how\s+many)\s+(?:people|persons|employees|staff|colleagues|men|women))\s+"
    r"(?:(?:is|are|was|were|all|else)\s+)*"
    r"(?:work(?:s|ed|ing)?|report(?:s|ed|ing)?|liv(?:e|es|ed|ing)|sit(?:s|ting)?|play(?:s|ed|ing)?|belongs?|"
    r"stud(?:y|ies|ied|ying))\s+(?:(?:for|in|at|under|to|with)\s+)?(?:the\s+)?$",
    re.IGNORECASE,
)
_AGENT = re.compile(r"(.{3,})(?:er|or)")


def asks_for_other_side(question: str, property: str, name: str) -> bool:
    """Whether a question asks of whom, or of what, this name is the value, as far as words of English tell.

    "Whose manager is Ann?", "Who does Ann manage?", "What is managed by Ann?"; and "Who works for Ann?", of somebody
    who manages, heads or owns: that is one, and not those who work for her.

    Args:
        question: as it was asked.
        property, name: of the triple that would answer.
    """
    last = (words(spoken(property)) or [""])[-1]
    agent = _AGENT.fullmatch(last)
    is_person = last in PERSONS or last in OFFICES

    def is_done_by(verb: str) -> bool:
        stem = "" if agent is None else agent[1]
        return bool(stem) and _begins(verb.lower(), stem, last)

    for start, end in spans_of(question, name):
        since = max(0, start - _FAR)
        if _whose(question, property, since, start):
            return True
        verb, by = _VERB.match(question, end), _BY.search(question, since, start)
        if verb is not None and _DOES.search(question, since, start) is not None and is_done_by(verb[1]):
            return True
        if by is not None and is_done_by(by[1]):
            return True
        if is_person and _MEMBERS.search(question, since, start) and not says_property(question, property, name):
            return True
    return False


def _whose(question: str, property: str, since: int, start: int) -> bool:
    """Whether a question says "whose manager is" before a place, with this property."""
    return _IS.search(question, since, start) is not None and any(
        _WHOSE.search(question, 0, at) is not None for form in forms(property) for at, _ in spans_of(question, form)
    )


def _begins(verb: str, stem: str, agent: str) -> bool:
    """Whether a verb is what an agent does: "manage" for "manag(er)", "run" for "runn(er)"."""
    short = stem[:-1] if stem[-1] == stem[-2] else stem
    return not verb.startswith(agent) and verb.startswith(short) and len(verb) <= len(stem) + 3
