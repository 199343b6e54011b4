"""Quizzes: a knowledge base of a given size, and questions that it can and cannot answer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from kblam.data.entities import Entity
from kblam.data.questions import (
    HELD_OUT_QUESTIONS,
    PAIR_QUESTIONS,
    QUESTIONS,
    answer_text,
    pair_question,
    single_question,
)

Fact = tuple[str, str, str]  # name, property, value


@dataclass(frozen=True)
class Question:
    """One question, with what the right answer is made of.

    Args:
        text: the question.
        facts: the facts it asks for; empty when the knowledge base has no answer.
    """

    text: str
    facts: tuple[Fact, ...]

    @property
    def answer(self) -> str:
        """The right answer to an answerable question."""
        return answer_text(list(self.facts))


@dataclass(frozen=True)
class Quiz:
    """A knowledge base and questions about it."""

    facts: list[Fact]
    questions: list[Question]


def build_quiz(
    entities: Sequence[Entity],
    triples: int,
    properties: Sequence[str],
    *,
    questions: int = 200,
    seed: int = 0,
    unseen_phrasing: bool = False,
    others: Sequence[Entity] = (),
) -> Quiz:
    """A knowledge base of `triples` facts and questions about it: a quarter unanswerable, a tenth about two facts.

    Half of the unanswerable questions name an entity the knowledge base does not know, half ask for a property that
    the entity has not.

    Args:
        entities: asked about; the last ones stay out of the knowledge base, to be the unknown ones.
        triples: size of the knowledge base.
        properties: what an entity may be asked for.
        questions: how many.
        seed: of the drawing.
        unseen_phrasing: use the phrasings that training never sees (then no question is about two facts).
        others: entities that fill the knowledge base up but are never asked about.

    Raises:
        ValueError: if there are not enough entities.
    """
    rng = random.Random(seed)
    refusals, pairs = questions // 4, 0 if unseen_phrasing else questions // 10
    templates = HELD_OUT_QUESTIONS if unseen_phrasing else QUESTIONS
    unknown = list(entities[-max(1, refusals // 2) :])
    facts: list[Fact] = []
    known: list[Entity] = []
    for index, entity in enumerate([*entities[: -len(unknown)], *others]):
        if len(facts) + len(entity.facts) > triples:
            break
        facts += [(entity.name, prop, value) for prop, value in entity.facts.items()]
        if index < len(entities) - len(unknown):
            known.append(entity)
    if not known or triples - len(facts) >= 20:
        raise ValueError(f"not enough entities for {triples} triples: {len(facts)} facts")

    def one(entity: Entity) -> Fact:
        prop = rng.choice(list(entity.facts))
        return entity.name, prop, entity.facts[prop]

    drawn: list[Question] = []
    for number in range(questions):
        if number < refusals:
            if number % 2:
                name, prop = rng.choice(unknown).name, rng.choice(properties)
            else:
                entity = rng.choice(known)
                name, prop = entity.name, rng.choice([p for p in properties if p not in entity.facts])
            drawn.append(Question(single_question(rng.choice(templates), name, prop), ()))
        elif number < refusals + pairs:
            first, second = (one(entity) for entity in rng.sample(known, 2))
            drawn.append(Question(pair_question(rng.choice(PAIR_QUESTIONS), first[:2], second[:2]), (first, second)))
        else:
            fact = one(rng.choice(known))
            drawn.append(Question(single_question(rng.choice(templates), fact[0], fact[1]), (fact,)))
    rng.shuffle(drawn)
    return Quiz(facts, drawn)
