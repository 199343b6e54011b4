"""Properties that the calibration asks for and its judging head has not learned, as most of a user's own are.

A head that has learned every property tells them apart better than it does in use, and a confidence that was learned
with it alone trusts it too much. So every fifth field of the further properties (`kblam.data.phrases.further`) is kept
from that head, and some entities of the calibration have a few facts of one of these fields.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from kblam.data.entities import Entity
from kblam.data.phrases import further
from kblam.data.phrasing import is_missing
from kblam.data.properties import TYPED
from kblam.data.sides import side
from kblam.data.values import anything

# Properties that stand beside each other in the list are of one field.
_FIELD = 12
_KEPT = 5  # one field in so many
_SHARE = 0.6  # entities that have facts of one
_FACTS = (2, 5)


@lru_cache(maxsize=1)
def fields() -> tuple[tuple[str, ...], ...]:
    """The properties that are kept from the judging head, by field."""
    listed = [prop for prop in further() if prop not in TYPED]
    every = [tuple(listed[start : start + _FIELD]) for start in range(0, len(listed), _FIELD)]
    return tuple(every[::_KEPT])


@lru_cache(maxsize=1)
def unlearned() -> frozenset[str]:
    """All of them."""
    return frozenset(prop for field in fields() for prop in field)


def natural_questions() -> dict[str, tuple[str, ...]]:
    """By property, how people ask for it, with {n} for the name."""
    return {prop: further()[prop] for prop in sorted(unlearned())}


def with_unlearned(entities: Sequence[Entity], seed: int) -> list[Entity]:
    """The same entities, many of them with facts of one of these fields, in any order."""
    rng, words = random.Random(f"{seed} unlearned"), side(False)
    more: list[Entity] = []
    for entity in entities:
        facts = dict(entity.facts)
        if rng.random() < _SHARE:
            field = rng.choice(fields())
            for prop in rng.sample(field, min(len(field), rng.randint(*_FACTS))):
                if is_missing(prop, facts):
                    facts[prop] = anything(words, rng)
        names = rng.sample(list(facts), len(facts))
        more.append(Entity(entity.name, {name: facts[name] for name in names}, entity.keys))
    return more
