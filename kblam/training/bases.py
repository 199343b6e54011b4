"""What knowledge bases the questions of a calibration are asked of: the properties that a question is compared with."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kblam.models.judging import MOST_PROPERTIES
from kblam.training.questions import Asked, Facts

# Of how many entities a base has the properties, besides those asked about. Tables have a dozen columns: where there
# are hundreds, much of what an entity lacks is near to what it has.
_ENTITIES = (1, 30)
# How often a fact that a question is asked without is one that others of the base have, as cells of a table are empty.
_OF_OTHERS = 0.8


class Shown(NamedTuple):
    """A question, and what of the facts it may see."""

    asked: Asked
    row: int  # of the question
    hidden: tuple[int, ...] = ()


# Of questions that are asked together, the properties that they are compared with; the most used first.
Bases = Callable[[Sequence[Shown]], list[str]]


def drawn_bases(facts: Facts, draw: random.Random) -> Bases:
    """Of the entities asked about, mostly of what is hidden of them too, and of some others.

    In use, most bases have properties of one kind, and what one of its entities lacks others have, or none.
    """

    def properties(shown: Sequence[Shown]) -> list[str]:
        few, many = _ENTITIES
        size = min(len(facts.entities), round(math.exp(draw.uniform(math.log(few), math.log(many)))))
        used = Counter(prop for entity in draw.sample(facts.entities, size) for prop in entity.facts)
        for one in shown:
            owners = {int(facts.owner[fact]) for fact in one.asked.facts}
            hidden = set[int]() if draw.random() < _OF_OTHERS else set(one.hidden)
            seen = {place for owner in owners for place in facts.of_entity(owner)} - hidden
            used.update(facts.identities[place][1] for place in seen)
        return _most(used)

    return properties


def own_base(facts: Facts) -> Bases:
    """Of all facts but those hidden, as `ask` compares with all properties that its knowledge base has."""
    all_facts = Counter(prop for _, prop in facts.identities)

    def properties(shown: Sequence[Shown]) -> list[str]:
        hidden = {fact for one in shown for fact in one.hidden}
        return _most(all_facts - Counter(facts.identities[fact][1] for fact in hidden))

    return properties


def _most(used: Counter[str]) -> list[str]:
    return [prop for prop, _ in used.most_common(MOST_PROPERTIES)]
