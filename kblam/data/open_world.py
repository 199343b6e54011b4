"""The open world: invented entities with natural names and open values, of which no test name or value is trained on.

Training and test side have words of their own, for names and for values; whole names and values are split apart too,
so that invented words, numbers and dates, which share their letters and digits, never coincide. A fifth of the
properties that are common nouns, and a few typed ones, belong to the test side alone.

Every entity has four to seven facts, and more than half have some that are close in meaning (founder, owner, lead
engineer): the question which of them is meant is the hard one. No entity has two properties of one meaning.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass

from kblam.data.alike import NEAR
from kblam.data.entities import Entity
from kblam.data.meaning import same_meaning
from kblam.data.names import draw_kind, draw_name, near_miss
from kblam.data.properties import TYPED, Property
from kblam.data.sides import Side, is_held_out, side
from kblam.data.values import Maker, anything
from kblam.errors import DataError

NEAR_MISS_SHARE = 0.2  # names that share a word with an earlier one on purpose
NEAR_SHARE = 0.6  # entities with properties that are close in meaning
STRAY_SHARE = 0.15  # typed properties that entities of this kind do not usually have
NOUN_SHARE = 0.25  # properties that are common nouns
MEANING_SHARE = 0.08  # training entities that are words of a dictionary
FACTS = (4, 7)
_TRIES = 400


@dataclass(frozen=True)
class OpenWorld:
    """Both sides of the world.

    Args:
        train, test: entities; no name and no value is on both sides.
        train_properties, test_properties: sorted; what the entities of a side may have. The test side has all typed
            properties, some of them alone, and common nouns of its own.
    """

    train: list[Entity]
    test: list[Entity]
    train_properties: tuple[str, ...]
    test_properties: tuple[str, ...]


def build_world(seed: int = 0, train_entities: int = 8000, test_entities: int = 2600) -> OpenWorld:
    """Draws the world.

    Args:
        seed: the same seed gives the same world on every machine and Python version.
        train_entities, test_entities: how many; about 5.5 facts each. Fewer entities are the first ones of more.

    Raises:
        DataError: more entities are asked for than the words of a side have names for.
    """
    train = _Drawing(side(False), random.Random(f"train {seed}"))
    test = _Drawing(side(True), random.Random(f"test {seed}"))
    return OpenWorld(
        train=train.entities(train_entities),
        test=test.entities(test_entities),
        train_properties=train.properties,
        test_properties=test.properties,
    )


class _Drawing:
    """The entities of one side, one after the other."""

    def __init__(self, words: Side, rng: random.Random) -> None:
        self.words = words
        self.rng = rng
        self.typed = [prop for prop in TYPED.values() if words.held_out or not prop.held_out]
        self.typed = [prop for prop in self.typed if prop.name != "meaning" or words.glosses]
        names = [prop.name for prop in self.typed]
        self.near = [[name for name in group if name in names] for group in NEAR]
        self.nouns = [word for word in words.property_nouns if word not in TYPED]
        self.properties = tuple(sorted({*names, *self.nouns}))
        self.taken: set[str] = set()
        self.by_kind: dict[str, list[str]] = {}

    def entities(self, count: int) -> list[Entity]:
        return [self._entity() for _ in range(count)]

    def _entity(self) -> Entity:
        rng = self.rng
        size = rng.randint(*FACTS)
        if self.words.glosses and rng.random() < MEANING_SHARE:
            lemma, gloss = self._fresh_gloss()
            return Entity(lemma, self._facts("thing", size, {"meaning": gloss}))
        kind = draw_kind(rng)
        return Entity(self._name(kind), self._facts(kind, size, {}))

    def _name(self, kind: str) -> str:
        rng = self.rng
        earlier = self.by_kind.setdefault(kind, [])
        for _ in range(_TRIES):
            name = draw_name(kind, self.words, rng)
            if earlier and rng.random() < NEAR_MISS_SHARE:
                name = near_miss(rng.choice(earlier), name, rng)
            if name.lower() not in self.taken and self._own(name, "whole name"):
                self.taken.add(name.lower())
                earlier.append(name)
                return name
        raise DataError(f"there is no new name for another {kind} after {len(self.taken):,}; ask for fewer entities")

    def _fresh_gloss(self) -> tuple[str, str]:
        for _ in range(_TRIES):
            lemma, gloss = self.rng.choice(self.words.glosses)
            fresh = lemma.lower() not in self.taken and self._own(lemma, "whole name")
            if fresh and not _on_other_side(lemma):
                self.taken.add(lemma.lower())
                return lemma, gloss
        raise DataError(f"there is no new word for another entity after {len(self.taken):,}; ask for fewer entities")

    def _facts(self, kind: str, size: int, facts: dict[str, str]) -> dict[str, str]:
        rng = self.rng
        if rng.random() < NEAR_SHARE:
            groups = [group for group in self.near if sum(kind in TYPED[name].kinds for name in group) > 1]
            group = rng.choice(groups)
            for name in rng.sample(group, min(len(group), rng.randint(2, 4))):
                self._add(name, TYPED[name].make, facts, size)
        usual = [prop for prop in self.typed if kind in prop.kinds and prop.name != "meaning"]
        while len(facts) < size:
            draw = rng.random()
            if draw < NOUN_SHARE:
                self._add(rng.choice(self.nouns), anything, facts, size)
            else:
                prop: Property = rng.choice(self.typed if draw < NOUN_SHARE + STRAY_SHARE else usual)
                self._add(prop.name, prop.make, facts, size)
        names = list(facts)
        rng.shuffle(names)
        return {name: facts[name] for name in names}

    def _add(self, name: str, make: Maker, facts: dict[str, str], size: int) -> None:
        """One more fact, unless the entity has that property under another word."""
        if len(facts) < size and not _known(name, facts):
            facts[name] = self._value(make)

    def _value(self, make: Maker) -> str:
        for _ in range(_TRIES):
            value = make(self.words, self.rng)
            if self._own(value, "whole"):
                return value
        raise DataError(f"{make.__name__} has no value for this side of the world")

    def _own(self, text: str, salt: str) -> bool:
        """Whether a whole name or value, whose words may be invented or shared, belongs to this side."""
        return is_held_out(text, salt) == self.words.held_out


def _known(name: str, facts: Collection[str]) -> bool:
    return any(same_meaning(name, other) for other in facts)


def _on_other_side(lemma: str) -> bool:
    """Whether a word of the dictionary may be a name of the test side."""
    return any(is_held_out(word, "name") for word in lemma.split())
