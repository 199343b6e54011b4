"""The sentence that says a fact, and where in it each word of the fact stands.

The one home of how an answer is written: training, evaluation and the pointer of generation take it from here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kblam.stops import STOPS

Fact = tuple[str, str, str]  # name, property, value
_FIELD = re.compile(r"\{(name|property|value)\}")
_ORDER = ("name", "property", "value")
_STOPS = (*STOPS, "…")
_QUOTES = " \"'”’»」』"  # and spaces


@dataclass(frozen=True)
class Span:
    """A stretch of a sentence that is one field of one fact.

    Args:
        start, end: characters [start, end) of the sentence.
        fact: which of the sentence's facts, from 0.
        field: "name", "property" or "value".
    """

    start: int
    end: int
    fact: int
    field: str


@dataclass(frozen=True)
class Sentence:
    """A text, and its spans in the order of the text."""

    text: str
    spans: tuple[Span, ...] = ()

    def __add__(self, other: Sentence) -> Sentence:
        """Both texts; the other's facts are counted on from this one's."""
        return Sentence(self.text + other.text, self.spans + other.moved(len(self.text), self.num_facts).spans)

    @property
    def num_facts(self) -> int:
        """How many facts it says."""
        return max((span.fact for span in self.spans), default=-1) + 1

    def moved(self, characters: int, facts: int = 0) -> Sentence:
        """Its spans as they are in a text with so many more characters, and facts, before it."""
        spans = [
            replace(span, start=span.start + characters, end=span.end + characters, fact=span.fact + facts)
            for span in self.spans
        ]
        return Sentence(self.text, tuple(spans))


def answer_sentence(template: str, facts: Sequence[Fact]) -> Sentence:
    """The answer to a question about these facts.

    One fact is `AdapterConfig.answer` filled in. Several are its clauses joined by " and ", where a later "The" is in
    lower case, with one final stop: "The color of A is red and the founder of B is Ann Lee."

    Args:
        template: `AdapterConfig.answer`.
        facts: (name, property, value), at least one.
    """
    clause = template.rstrip()
    stop = "." if clause.endswith(".") else ""
    # A value that is a sentence, or ends in "Inc.", has one of its own.
    if stop and clause.endswith("{value}.") and facts[-1][-1].rstrip(_QUOTES).endswith(_STOPS):
        template, stop = clause[:-1] + template[len(clause) :], ""
        clause = clause[:-1]
    if len(facts) == 1:
        return _filled(template, facts[0])
    clause = clause[: len(clause) - len(stop)]
    later = "t" + clause[1:] if clause.startswith("The ") else clause
    whole = _filled(clause, facts[0])
    for fact in facts[1:]:
        whole = whole + Sentence(" and ") + _filled(later, fact)
    return whole + Sentence(stop)


def _filled(template: str, fact: Fact) -> Sentence:
    text, spans, at = "", [], 0
    for match in _FIELD.finditer(template):
        text += template[at : match.start()]
        said = fact[_ORDER.index(match[1])]
        spans.append(Span(len(text), len(text) + len(said), 0, match[1]))
        text, at = text + said, match.end()
    return Sentence(text + template[at:], tuple(spans))
