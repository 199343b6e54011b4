"""Quizzes in the demo model's own words: lower case, and short answers about one fact."""

from __future__ import annotations

import random
from collections.abc import Sequence

from kblam.adapter.sentences import Fact
from kblam.data.entities import Entity
from kblam.data.questions import (
    HELD_OUT_QUESTIONS,
    PAIR_QUESTIONS,
    QUESTIONS,
    clauses,
    pair_question,
    single_question,
)
from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, PAIR, SINGLE, Question, Quiz
from kblam.demo.tiny.words import PROPERTIES


class DemoQuestion(Question):
    """A question to the demo model, which answers all in lower case, as its tokenizer has it."""

    def said(self, facts: Sequence[Fact]) -> str:
        """An answer about one fact alone does not repeat the name."""
        said = clauses(list(facts), brief=self.kind == SINGLE)
        return (" ".join(f"{text} {value}" for text, value in said) + ".").lower()


def demo_quiz(
    entities: Sequence[Entity],
    triples: int,
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
                kind, name, prop = NO_ENTITY, rng.choice(unknown).name, rng.choice(PROPERTIES)
            else:
                entity = rng.choice(known)
                kind, name = NO_PROPERTY, entity.name
                prop = rng.choice([p for p in PROPERTIES if p not in entity.facts])
            drawn.append(DemoQuestion(single_question(rng.choice(templates), name, prop), (), kind=kind))
        elif number < refusals + pairs:
            first, second = (one(entity) for entity in rng.sample(known, 2))
            text = pair_question(rng.choice(PAIR_QUESTIONS), first[:2], second[:2])
            drawn.append(DemoQuestion(text, (first, second), kind=PAIR))
        else:
            fact = one(rng.choice(known))
            text = single_question(rng.choice(templates), fact[0], fact[1])
            drawn.append(DemoQuestion(text, (fact,)))
    rng.shuffle(drawn)
    return Quiz(facts, drawn)
