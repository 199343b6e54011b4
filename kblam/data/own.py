"""Questions made from anybody's triples: what an adapter is tuned and calibrated on for a base of one's own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from kblam.data.entities import Entity
from kblam.data.names import draw_kind, draw_name, near_miss
from kblam.data.phrasing import entity_missing, is_missing, open_question, pair_question, property_missing, question
from kblam.data.properties import TYPED
from kblam.data.quiz import Fact
from kblam.data.sides import side
from kblam.errors import DataError
from kblam.knowledge.triples import Triple

Kind = Literal["fact", "pair", "open", "property_missing", "entity_missing"]


@dataclass(frozen=True)
class Asked:
    """A question, and the facts that answer it.

    Args:
        text: the question.
        facts: (name, property, value) of what it asks for, in this order; empty when the base has no answer.
        kind: of question.
        name, property: what a question without an answer asks for.
    """

    text: str
    facts: tuple[Fact, ...]
    kind: Kind
    name: str | None = None
    property: str | None = None


@dataclass(frozen=True)
class Shares:
    """How likely a question is of each kind; the rest asks for one fact.

    Args:
        pair: two facts; half of them of one entity.
        open: all about one entity.
        property_missing, entity_missing: no answer.
    """

    pair: float = 0.15
    open: float = 0.05
    property_missing: float = 0.2
    entity_missing: float = 0.1


def questions_for(
    triples: Iterable[Triple],
    rng: random.Random,
    *,
    count: int | None = None,
    shares: Shares | None = None,
    held_out: bool = False,
) -> list[Asked]:
    """Questions about triples, by the templates.

    A triple's own example question is asked half of the time. A property is missing only if the entity has none of the
    same meaning; an entity is missing if no name of the base is equal to its name, in any case. Missing names are
    invented, half of them from the names that are there, with a word changed.

    Args:
        triples: the knowledge base, or a part of it.
        rng: draws.
        count: how many questions; by default one a triple.
        shares: of the kinds of question.
        held_out: use the phrasings that training never sees.

    Raises:
        DataError: there are no triples.
    """
    shares = shares or Shares()
    facts: dict[str, dict[str, Triple]] = {}
    for triple in triples:
        facts.setdefault(triple.name, {})[triple.property] = triple
    every = [triple for of_name in facts.values() for triple in of_name.values()]
    if not every:
        raise DataError("there are no triples to ask about; give at least one")
    drawing = _Drawing(facts, every, rng, held_out)
    weights = (shares.pair, shares.open, shares.property_missing, shares.entity_missing)
    one = 1.0 - sum(weights)
    if one < -1e-9 or min(weights) < 0:
        raise DataError(f"the shares {weights} are negative or add up to more than 1; give smaller ones")
    total = len(every) if count is None else count
    makers = (drawing.pair, drawing.open, drawing.property_missing, drawing.entity_missing, drawing.one)
    return [make() for make in rng.choices(makers, weights=(*weights, max(0.0, one)), k=total)]


class _Drawing:
    def __init__(
        self, facts: dict[str, dict[str, Triple]], every: Sequence[Triple], rng: random.Random, held_out: bool
    ) -> None:
        self.facts = facts
        self.every = every
        self.rng = rng
        self.held_out = held_out
        self.own_properties = list(dict.fromkeys(triple.property for triple in every))
        self.properties = list(dict.fromkeys([*self.own_properties, *TYPED]))
        self.names = list(facts)
        self.taken = {name.lower() for name in facts}

    def one(self) -> Asked:
        triple = self.rng.choice(self.every)
        if triple.question is not None and self.rng.random() < 0.5:
            text = triple.question
        else:
            text = question(triple.property, triple.name, self.rng, self.held_out, others=[*self.facts[triple.name]])
        return Asked(text, (_fact(triple),), "fact")

    def pair(self) -> Asked:
        first = self.rng.choice(self.every)
        same = [triple for triple in self.facts[first.name].values() if triple is not first]
        if same and self.rng.random() < 0.5:
            second = self.rng.choice(same)
        elif len(self.every) > 1:
            second = first
            while second is first:
                second = self.rng.choice(self.every)
        else:
            return self.one()
        text = pair_question(first.identity, second.identity, self.rng, self.held_out)
        return Asked(text, (_fact(first), _fact(second)), "pair")

    def open(self) -> Asked:
        name = self.rng.choice(self.names)
        return Asked(open_question(name, self.rng, self.held_out), tuple(map(_fact, self.facts[name].values())), "open")

    def property_missing(self) -> Asked:
        name = self.rng.choice(self.names)
        known = self.facts[name]
        # What other entities of the base have is what people ask for.
        own = [prop for prop in self.own_properties if is_missing(prop, known)]
        properties = own if own and self.rng.random() < 0.7 else self.properties
        missing = property_missing(_entity(name, known), properties, self.rng, self.held_out)
        return Asked(missing.question, (), "property_missing", missing.name, missing.property)

    def entity_missing(self) -> Asked:
        unknown = Entity(self._unknown_name(), dict.fromkeys(self.facts[self.rng.choice(self.names)], ""))
        missing = entity_missing([unknown], self.own_properties, self.rng, self.held_out)
        return Asked(missing.question, (), "entity_missing", missing.name, missing.property)

    def _unknown_name(self) -> str:
        while True:
            name = draw_name(draw_kind(self.rng), side(False), self.rng)
            if self.rng.random() < 0.5:
                name = near_miss(self.rng.choice(self.names), name, self.rng)
            if name.lower() not in self.taken:
                return name


def _fact(triple: Triple) -> Fact:
    return triple.name, triple.property, triple.value


def _entity(name: str, known: dict[str, Triple]) -> Entity:
    return Entity(name, {prop: triple.value for prop, triple in known.items()})
