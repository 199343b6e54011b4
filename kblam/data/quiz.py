"""Quizzes: a knowledge base, and questions that it can and cannot answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kblam.adapter.sentences import Fact, answer_sentence

SINGLE, PAIR, OPEN = "single", "pair", "open"
NO_ENTITY, NO_PROPERTY = "no entity", "no property"
# Of a quiz's questions: a quarter cannot be answered, half of them for either reason.
SHARES: dict[str, float] = {SINGLE: 0.55, PAIR: 0.1, OPEN: 0.1, NO_ENTITY: 0.125, NO_PROPERTY: 0.125}

Keys = Mapping[tuple[str, str], str]  # (name, property) to the text of its key


@dataclass(frozen=True)
class Question:
    """One question, with what the right answer is made of.

    Args:
        text: the question.
        facts: the facts it asks for; empty when the knowledge base has no answer.
        template: what an answer says of one fact, with {name}, {property} and {value}.
        kind: SINGLE, PAIR, OPEN, NO_ENTITY or NO_PROPERTY.
    """

    text: str
    facts: tuple[Fact, ...]
    template: str = ""
    kind: str = SINGLE

    def said(self, facts: Sequence[Fact]) -> str:
        """What a right answer says of some of the facts, at least one."""
        return answer_sentence(self.template, facts).text

    @property
    def answer(self) -> str:
        """The right answer to an answerable question."""
        return self.said(self.facts)

    @property
    def clauses(self) -> tuple[str, ...]:
        """What the right answer says of each fact, without the final stop."""
        return tuple(self.said([fact]).removesuffix(".") for fact in self.facts)


@dataclass(frozen=True)
class Quiz:
    """A knowledge base and questions about it.

    Args:
        facts: what the knowledge base holds.
        questions: about them, and about what it does not hold.
        keys: the key text of a (name, property), where it is not made from the two; others may be among them.
    """

    facts: list[Fact]
    questions: list[Question]
    keys: Keys = field(default_factory=dict)


def counts(questions: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many questions of each kind; the largest remainders are rounded up, the first kinds first."""
    whole = {kind: int(share * questions) for kind, share in shares.items()}
    by_remainder = sorted(shares, key=lambda kind: whole[kind] - shares[kind] * questions)
    for kind in by_remainder[: questions - sum(whole.values())]:
        whole[kind] += 1
    return whole


def question_stream(seed: object) -> random.Random:
    """Random numbers that are the same on every machine, for anything that has a readable text."""
    return random.Random(f"kblam quiz {seed}")
