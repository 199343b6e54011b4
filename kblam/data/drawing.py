"""Draws quizzes: about entities of a world that training never saw, and about any base of triples.

Everything follows from the seed, on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kblam.adapter.sentences import Fact
from kblam.data.entities import Entity
from kblam.data.meaning import near_properties
from kblam.data.phrasing import is_missing, open_question, pair_question, question
from kblam.data.quiz import (
    NO_ENTITY,
    NO_PROPERTY,
    OPEN,
    PAIR,
    SHARES,
    SINGLE,
    Question,
    Quiz,
    counts,
    question_stream,
)
from kblam.errors import DataError

# What a base may be asked for that none of its entities has, where it has too few properties to choose from.
FOREIGN_PROPERTIES = ("phone number", "founder", "price", "motto", "owner", "opening hours")
# A quiz about a small base has at most this many questions for each triple; more questions get further bases.
QUESTIONS_PER_TRIPLE = 0.5
# Of a base that is taken apart for a quiz: two names to ask about, and one that is taken out.
LEAST_NAMES = 3


@dataclass(frozen=True)
class Style:
    """How a quiz asks and what it takes for right.

    Args:
        answer: the adapter's sentence about one fact, with {name}, {property} and {value}.
        held_out: ask in the words that training never sees.
        natural: for a property, questions people ask about it, with {name}; half of its questions are of these.
        shares: of the kinds of question.
    """

    answer: str
    held_out: bool = False
    natural: Mapping[str, Sequence[str]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)


def world_quizzes(
    entities: Sequence[Entity],
    triples: int,
    style: Style,
    *,
    questions: int,
    seed: int = 0,
    others: Callable[[int], Sequence[Entity]] | None = None,
) -> list[Quiz]:
    """Quizzes with knowledge bases of exactly `triples` facts; several over a small size, so that questions differ.

    Args:
        entities: asked about, unseen in training.
        triples: size of each knowledge base.
        style: how it is asked.
        questions: of all quizzes together.
        seed: of the drawing.
        others: gives entities with at least so many facts together, which fill a knowledge base up and are never
            asked about.

    Raises:
        DataError: if there are not enough entities.
    """
    rng = question_stream(f"world {seed} {triples} {style.held_out}")
    parts = parts_of(triples, questions)
    sizes = [questions // parts + (part < questions % parts) for part in range(parts)]
    return [_world_quiz(entities, triples, style, size, rng, others) for size in sizes]


def parts_of(triples: int, questions: int) -> int:
    """How many knowledge bases of the world it takes to ask so many questions."""
    return max(1, -(-questions // max(1, int(triples * QUESTIONS_PER_TRIPLE))))


def base_quiz(
    facts: Iterable[Fact],
    style: Style,
    *,
    questions: int,
    seed: int = 0,
    name: str = "base",
    most: int | None = None,
) -> Quiz:
    """Questions about any base of facts. To make some unanswerable, entities and single facts are taken out of it.

    Args:
        facts: of two values for one (name, property) the last counts.
        style: how it is asked.
        questions: how many.
        seed: of the drawing.
        name: of the base; another name is another drawing.
        most: of a larger base only so many facts, those of entities drawn at random.

    Raises:
        DataError: if it has fewer than three entities: two to ask about, and one that is taken out.
    """
    entities = _entities_of(facts, name, least=LEAST_NAMES)
    rng = question_stream(f"base {name} {seed}")
    rng.shuffle(entities)
    if most is not None:
        fitting, _ = _as_many_as_fit(entities, most)
        entities = fitting if len(fitting) >= LEAST_NAMES else entities
    alone = _alone(entities)
    entities.sort(key=lambda entity: entity.name not in alone)  # so that of "Oak" and "oak" neither is taken out
    wanted = counts(questions, style.shares)
    absent = max(1, min(wanted[NO_ENTITY], len(entities) // 4))
    return _quiz(entities[absent:], entities[:absent], [], style, wanted, rng, take_out=True)


def check_base(facts: Iterable[Fact], name: str) -> None:
    """Before long work: whether `base_quiz` can ask about a base, by the name that its user knows.

    Raises:
        DataError: as `base_quiz`.
    """
    _entities_of(facts, name, least=LEAST_NAMES)


def questions_about(
    facts: Iterable[Fact],
    strangers: Sequence[str],
    style: Style,
    *,
    questions: int,
    seed: int = 0,
    name: str = "base",
) -> list[Question]:
    """Questions about a base that stays whole: the unanswerable ones ask for what it does not have.

    Args:
        facts: of two values for one (name, property) the last counts.
        strangers: names that the base does not have, at least one.
        style: how it is asked.
        questions: how many.
        seed: of the drawing.
        name: of the base; another name is another drawing.

    Raises:
        DataError: if it has fewer than two entities.
    """
    known = _entities_of(facts, "this one", least=2)
    rng = question_stream(f"about {name} {seed}")
    properties = sorted({prop for entity in known for prop in entity.facts})
    unknown = [Entity(stranger, {rng.choice(properties): ""}) for stranger in strangers]
    return _quiz(known, unknown, [], style, counts(questions, style.shares), rng, take_out=False).questions


def _entities_of(facts: Iterable[Fact], base: str, least: int) -> list[Entity]:
    by_name: dict[str, dict[str, str]] = {}
    for entity, prop, value in facts:
        by_name.setdefault(entity, {})[prop] = value
    if len(by_name) < least:
        raise DataError(f"questions need a base of at least {least} names; {base} has {len(by_name)}")
    return [Entity(entity, own) for entity, own in by_name.items()]


def _world_quiz(
    entities: Sequence[Entity],
    triples: int,
    style: Style,
    questions: int,
    rng: random.Random,
    others: Callable[[int], Sequence[Entity]] | None,
) -> Quiz:
    wanted = counts(questions, style.shares)
    order = rng.sample(entities, len(entities))
    absent = max(1, min(wanted[NO_ENTITY], len(order) // 4))
    unknown, rest = order[:absent], order[absent:]
    known, held = _as_many_as_fit(rest, triples)
    filling: list[Fact] = []
    if held < triples:
        filling = [fact for entity in rest[len(known) :] for fact in facts_of(entity)]
        if held + len(filling) < triples and others is not None:
            taken = {entity.name.lower() for entity in order}
            filling += [f for entity in others(triples) if entity.name.lower() not in taken for f in facts_of(entity)]
        filling = filling[: triples - held]
    if not known or held + len(filling) < triples:
        raise DataError(f"not enough entities for {triples:,} triples: they have {held + len(filling):,} facts")
    return _quiz(known, unknown, filling, style, wanted, rng, take_out=False)


def facts_of(entity: Entity) -> list[Fact]:
    """An entity's facts."""
    return [(entity.name, prop, value) for prop, value in entity.facts.items()]


def _as_many_as_fit(entities: Sequence[Entity], triples: int) -> tuple[list[Entity], int]:
    fitting: list[Entity] = []
    held = 0
    for entity in entities:
        if held + len(entity.facts) > triples:
            break
        fitting.append(entity)
        held += len(entity.facts)
    return fitting, held


def _quiz(
    known: Sequence[Entity],
    unknown: Sequence[Entity],
    filling: Sequence[Fact],
    style: Style,
    wanted: Mapping[str, int],
    rng: random.Random,
    *,
    take_out: bool,
) -> Quiz:
    properties = sorted({prop for entity in [*known, *unknown] for prop in entity.facts})
    known, drawn = list(known), list[Question]()
    alone = _alone([*known, *unknown])
    places = [place for place, entity in enumerate(known) if entity.name in alone] or range(len(known))
    for _ in range(wanted[NO_PROPERTY]):
        place = rng.choice(places)
        entity = known[place]
        prop = _missing(entity, properties, rng, take_out=take_out)
        if prop in entity.facts:  # taken out of the base, and never asked for as known
            known[place] = entity = Entity(entity.name, {p: text for p, text in entity.facts.items() if p != prop})
        drawn.append(Question(_single(entity, prop, style, rng), (), kind=NO_PROPERTY))
    for _ in range(wanted[NO_ENTITY]):
        entity = rng.choice(unknown)
        prop = rng.choice(list(entity.facts))
        drawn.append(Question(_single(entity, prop, style, rng), (), kind=NO_ENTITY))
    for _ in range(wanted[SINGLE]):
        entity = rng.choice(known)
        fact = _one(entity, rng)
        drawn.append(Question(_single(entity, fact[1], style, rng), (fact,), style.answer, SINGLE))
    for _ in range(wanted[PAIR]):
        first, second = (_one(entity, rng) for entity in rng.sample(known, 2))
        text = pair_question(first[:2], second[:2], rng, style.held_out)
        drawn.append(Question(text, (first, second), style.answer, PAIR))
    for _ in range(wanted[OPEN]):
        entity = rng.choice(known)
        text = open_question(entity.name, rng, style.held_out)
        drawn.append(Question(text, tuple(facts_of(entity)), style.answer, OPEN))
    rng.shuffle(drawn)
    return Quiz([*(fact for entity in known for fact in facts_of(entity)), *filling], drawn)


def _alone(entities: Iterable[Entity]) -> set[str]:
    """The names that no other one differs from in case alone: of those others, what is missing may be known."""
    called = dict[str, list[str]]()
    for entity in entities:
        called.setdefault(entity.name.casefold(), []).append(entity.name)
    return {names[0] for names in called.values() if len(names) == 1}


def _missing(entity: Entity, properties: Sequence[str], rng: random.Random, *, take_out: bool) -> str:
    """A property that the base has not for this entity, also not by another word.

    Half of the time it is close to one that the entity has. With `take_out` it may be one that will be taken out.
    """
    if take_out and len(entity.facts) > 1 and rng.random() < 0.5:
        own = [p for p in entity.facts if is_missing(p, [other for other in entity.facts if other != p])]
        if own:
            return rng.choice(own)
    close = dict.fromkeys(prop for own in entity.facts for prop in near_properties(own))
    near = [prop for prop in close if is_missing(prop, entity.facts)]
    if near and rng.random() < 0.5:
        return rng.choice(near)
    for prop in [*rng.sample(properties, len(properties)), *FOREIGN_PROPERTIES]:
        if is_missing(prop, entity.facts):
            return prop
    raise DataError(f"there is nothing to ask for that the base does not know of {entity.name!r}")


def _one(entity: Entity, rng: random.Random) -> Fact:
    prop = rng.choice(list(entity.facts))
    return entity.name, prop, entity.facts[prop]


def _single(entity: Entity, prop: str, style: Style, rng: random.Random) -> str:
    natural = style.natural.get(prop)
    if natural and rng.random() < 0.5:
        return rng.choice(natural).format(name=entity.name)
    others = [other for other in entity.facts if other != prop]
    return question(prop, entity.name, rng, style.held_out, others=others)
