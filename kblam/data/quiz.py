"""Quizzes: a knowledge base, and questions that it can and cannot answer."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Fact = tuple[str, str, str]  # name, property, value

SINGLE, PAIR, OPEN = "single", "pair", "open"
NO_ENTITY, NO_PROPERTY = "no entity", "no property"
# Of a quiz's questions: a quarter cannot be answered, half of them for either reason.
SHARES: dict[str, float] = {SINGLE: 0.55, PAIR: 0.1, OPEN: 0.1, NO_ENTITY: 0.125, NO_PROPERTY: 0.125}


@dataclass(frozen=True)
class Question:
    """One question, with what the right answer is made of.

    Args:
        text: the question.
        facts: the facts it asks for; empty when the knowledge base has no answer.
        clauses: what the right answer says of each fact, without the final stop.
        kind: SINGLE, PAIR, OPEN, NO_ENTITY or NO_PROPERTY.
    """

    text: str
    facts: tuple[Fact, ...]
    clauses: tuple[str, ...] = ()
    kind: str = SINGLE

    @property
    def answer(self) -> str:
        """The right answer to an answerable question."""
        return joined(self.clauses)


@dataclass(frozen=True)
class Quiz:
    """A knowledge base and questions about it."""

    facts: list[Fact]
    questions: list[Question]


def clause(fact: Fact, template: str) -> str:
    """What an answer says of one fact, without the final stop; `template` has {name}, {property} and {value}."""
    name, prop, value = fact
    return template.removesuffix(".").format(name=name, property=prop, value=value)


def joined(clauses: Sequence[str]) -> str:
    """Clauses as one sentence, as `kblam.adapter.sentences` joins them: by "and", one final stop."""
    later = ("the " + clause[4:] if clause.startswith("The ") else clause for clause in clauses[1:])
    return " and ".join([*clauses[:1], *later]) + "."


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
