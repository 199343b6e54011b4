"""The demo's benchmark: held-out questions over a knowledge base of a given size, and how answers are scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kblam.demo.questions import (
    HELD_OUT_QUESTIONS,
    PAIR_QUESTIONS,
    QUESTIONS,
    answer_text,
    pair_question,
    single_question,
)
from kblam.demo.words import PROPERTIES
from kblam.demo.world import Entity

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


@dataclass(frozen=True)
class Outcome:
    """What the model did with one question: its text, the triple it rested on most, whether it refused."""

    text: str
    best: Fact | None
    refused: bool


@dataclass(frozen=True)
class Figures:
    """Scores of a quiz, all between 0 and 1.

    Args:
        exact: answerable questions whose whole answer is right, to the letter (case aside).
        exact_single, exact_pair: the same for questions about one and about two facts.
        top1: answerable questions whose strongest evidence is a fact that was asked for.
        refusal_precision: refusals that were right to refuse.
        refusal_recall: unanswerable questions that were refused.
        refusal_f1: harmonic mean of the two.
        questions: how many there were.
    """

    exact: float
    exact_single: float
    exact_pair: float
    top1: float
    refusal_precision: float
    refusal_recall: float
    refusal_f1: float
    questions: int

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def build_quiz(
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
                name, prop = rng.choice(unknown).name, rng.choice(PROPERTIES)
            else:
                entity = rng.choice(known)
                name, prop = entity.name, rng.choice([p for p in PROPERTIES if p not in entity.facts])
            drawn.append(Question(single_question(rng.choice(templates), name, prop), ()))
        elif number < refusals + pairs:
            first, second = (one(entity) for entity in rng.sample(known, 2))
            drawn.append(Question(pair_question(rng.choice(PAIR_QUESTIONS), first[:2], second[:2]), (first, second)))
        else:
            fact = one(rng.choice(known))
            drawn.append(Question(single_question(rng.choice(templates), fact[0], fact[1]), (fact,)))
    rng.shuffle(drawn)
    return Quiz(facts, drawn)


def _same(text: str, expected: str) -> bool:
    return " ".join(text.lower().split()) == " ".join(expected.lower().split())


def _share(hits: int, of: int) -> float:
    return hits / of if of else 1.0


def score(questions: Sequence[Question], outcomes: Sequence[Outcome]) -> Figures:
    """Compares outcomes with what was asked; `questions` and `outcomes` go together one by one."""
    pairs = list(zip(questions, outcomes, strict=True))
    answerable = [(question, outcome) for question, outcome in pairs if question.facts]
    right = [(question, _same(outcome.text, question.answer)) for question, outcome in answerable]
    single = [ok for question, ok in right if len(question.facts) == 1]
    double = [ok for question, ok in right if len(question.facts) == 2]
    refused = [question for question, outcome in pairs if outcome.refused]
    rightly = sum(not question.facts for question in refused)
    precision = _share(rightly, len(refused))
    recall = _share(rightly, len(pairs) - len(answerable))
    return Figures(
        exact=_share(sum(ok for _, ok in right), len(right)),
        exact_single=_share(sum(single), len(single)),
        exact_pair=_share(sum(double), len(double)),
        top1=_share(sum(outcome.best in question.facts for question, outcome in answerable), len(answerable)),
        refusal_precision=precision,
        refusal_recall=recall,
        refusal_f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        questions=len(pairs),
    )
