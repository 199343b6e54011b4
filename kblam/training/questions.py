"""The questions that stage 1 learns from: drawn once from the entities, then used again with other distractors."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

import torch
from torch import Tensor

from kblam.data.entities import Entity
from kblam.data.meaning import same_meaning
from kblam.data.phrasing import Only, general_questions, open_question, pair_question, question
from kblam.knowledge.triples import key_text

# An entity brings at most so many facts into a batch. Few have more, and then all of them would be most of it.
MOST_OF_ENTITY = 300


class Kind(IntEnum):
    """What a question asks for."""

    SINGLE = 0  # one fact
    PAIR = 1  # two facts
    OPEN = 2  # an entity as a whole
    GENERAL = 3  # nothing that any knowledge base has


Natural = Mapping[str, Sequence[str]]  # by property, questions that mean it
# Shares of the kinds; most of what people ask a knowledge base is one fact.
SHARES = {Kind.SINGLE: 0.82, Kind.PAIR: 0.08, Kind.OPEN: 0.05, Kind.GENERAL: 0.05}


@dataclass(frozen=True)
class Asked:
    """One question and the facts that answer it, as places in `Facts`."""

    text: str
    kind: Kind
    facts: tuple[int, ...]


class Facts:
    """The facts of some entities in one list.

    Attributes:
        owner: (F,) int64, the entity of each fact.
        start: of each entity's facts; those of entity i are start[i] .. start[i + 1] - 1.
    """

    def __init__(self, entities: Sequence[Entity]) -> None:
        self.entities = list(entities)
        counts = [len(entity.facts) for entity in entities]
        self.owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        self.start = [0, *torch.tensor(counts).cumsum(0).tolist()]
        self.identities = [(entity.name, prop) for entity in entities for prop in entity.facts]
        self.values = [value for entity in entities for value in entity.facts.values()]
        self._called: dict[str, list[int]] = {}
        for index, entity in enumerate(entities):
            self._called.setdefault(entity.name.casefold(), []).append(index)

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def key_texts(self) -> list[str]:
        """What the key of each fact is made from."""
        own = (entity.keys.get(prop) for entity in self.entities for prop in entity.facts)
        return [key or key_text(*identity) for key, identity in zip(own, self.identities, strict=True)]

    def of_entity(self, entity: int) -> range:
        """The facts of one entity."""
        return range(self.start[entity], self.start[entity + 1])

    def size_of(self, entity: int) -> int:
        """How many facts `part_of` gives, about."""
        return min(len(self.of_entity(entity)), MOST_OF_ENTITY)

    def part_of(self, entity: int, rng: random.Random, keep: Collection[int] = ()) -> Sequence[int]:
        """The facts of one entity; of many, some drawn at random and those to keep. For few nothing is drawn."""
        own = self.of_entity(entity)
        if len(own) <= MOST_OF_ENTITY:
            return own
        kept = {fact for fact in keep if fact in own}
        others = [fact for fact in own if fact not in kept]
        return sorted([*kept, *rng.sample(others, max(0, MOST_OF_ENTITY - len(kept)))])

    def called_as(self, entity: int) -> list[int]:
        """The entities whose names differ from its name in case alone, itself too: a question may mean any of them."""
        return self._called[self.entities[entity].name.casefold()]

    def of_name(self, entity: int) -> list[int]:
        """The facts of all of these: without its own they would still answer."""
        return [fact for one in self.called_as(entity) for fact in self.of_entity(one)]

    def alike(self, fact: int) -> list[int]:
        """The facts of its name that mean the same, itself too: without it they would still answer."""
        prop = self.identities[fact][1]
        of_name = self.of_name(int(self.owner[fact]))
        return [one for one in of_name if one == fact or same_meaning(self.identities[one][1], prop)]


def draw_questions(
    facts: Facts, count: int, seed: int, only: Only | None = None, natural: Natural = MappingProxyType({})
) -> list[Asked]:
    """`count` questions of all kinds; everything follows from the seed.

    Args:
        only: as in `phrasing.question`.
        natural: by property, as there.
    """
    rng = random.Random(seed)
    general = general_questions()
    kinds = rng.choices(list(SHARES), list(SHARES.values()), k=count)
    return [_draw(facts, kind, general, rng, only, natural) for kind in kinds]


def calibration_questions(
    facts: Facts, count: int, seed: int, only: Only | None = None, natural: Natural = MappingProxyType({})
) -> list[Asked]:
    """As `draw_questions`, but no pairs, which are asked part by part in use."""
    drawn = draw_questions(facts, 2 * count, seed, only, natural)
    return [one for one in drawn if one.kind is not Kind.PAIR][:count]


def _draw(
    facts: Facts, kind: Kind, general: Sequence[str], rng: random.Random, only: Only | None, natural: Natural
) -> Asked:
    if kind is Kind.GENERAL:
        return Asked(rng.choice(general), kind, ())
    fact = rng.randrange(len(facts))
    name, prop = facts.identities[fact]
    entity = int(facts.owner[fact])
    if kind is Kind.OPEN:
        return Asked(open_question(name, rng, only=only), kind, tuple(facts.of_entity(entity)))
    if kind is Kind.PAIR:
        # Of one entity or of two.
        others = [other for other in facts.of_entity(entity) if other != fact]
        second = rng.choice(others) if others and rng.random() < 0.3 else rng.randrange(len(facts))
        if second != fact:
            return Asked(pair_question((name, prop), facts.identities[second], rng), kind, (fact, second))
    properties = [facts.identities[other][1] for other in facts.of_entity(entity) if other != fact]
    text = question(prop, name, rng, others=properties, only=only, natural=natural.get(prop, ()))
    return Asked(text, Kind.SINGLE, (fact,))


def targets(asked: Sequence[Asked], place: Tensor, columns: int) -> Tensor:
    """(B, M): the share of attention that each question should give to each fact that is there; rows sum to 1, or 0.

    Args:
        place: (F,) column of each fact, or -1.
        columns: M.
    """
    wanted = torch.zeros(len(asked), columns, dtype=torch.float32)
    for row, question_ in enumerate(asked):
        there = [column for column in place[list(question_.facts)].tolist() if column >= 0]
        for column in there:
            wanted[row, column] += 1 / len(there)
    return wanted
