"""What the demo's knowledge base holds, and what is asked about it.

Half is the test side of the invented world, of which training saw no name and no value; half is real: the chemical
elements, which training did not see either. The questions are found in it by property, so that they stay true when the
world's words change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kblam.data import real
from kblam.data.entities import Entity
from kblam.data.open_world import build_world
from kblam.errors import DataError
from kblam.evaluation.material import ASKED_ABOUT, WORLD_SEED
from kblam.knowledge import Triple

TRIPLES = 2000
ADDED = Triple("Project Nightjar", "lead engineer", "Wiesława Brzęk-Ødegaard")
# Short to read; descriptions and uses of elements would fill the screen.
_OF_ELEMENTS = {
    "discoverer",
    "year of discovery",
    "melting point",
    "boiling point",
    "price per kilogram",
    "CAS number",
    "atomic number",
    "atomic weight",
    "crystal structure",
    "density",
}


@dataclass(frozen=True)
class Story:
    """A knowledge base and eight questions to it.

    Args:
        invented, elements: what the knowledge base holds.
        before: questions that are asked of it as it is; the last one cannot be answered.
        added: a fact that is added then.
        after: the last question of `before` again.
    """

    invented: list[Triple]
    elements: list[Triple]
    before: list[str]
    added: Triple
    after: str


def story() -> Story:
    """The demo's story; the same each time.

    Raises:
        DataError: the package with the chemical elements is not installed; the message says which.
    """
    elements = [triple for triple in real.load("elements") if triple.property in _OF_ELEMENTS]
    elements = elements[: TRIPLES // 2]
    world = build_world(WORLD_SEED, 0, ASKED_ABOUT).test
    rival, dated, valued = (_first(world, prop) for prop in ("rival", "release date", "owner"))
    account = max((one for one in world if "account number" in one.facts), key=_digits)
    # Those that are asked about come first, since few entities have a property and not all of the world is taken.
    asked = {one.name: one for one in (rival, dated, valued, account)}
    entities = [*asked.values(), *(one for one in world if one.name not in asked)]
    invented = [Triple(one.name, prop, value) for one in entities for prop, value in one.facts.items()]
    invented = invented[: TRIPLES - len(elements)]
    unknown = f"Who is the {ADDED.property} of {ADDED.name}?"
    before = [
        f"Who is the rival of {rival.name}?",
        f"When was {dated.name} released?",
        f"What is the account number of {account.name}?",
        "Who discovered polonium?",
        f"What is the melting point of tungsten and who is the owner of {valued.name}?",
        f"What is the shoe size of {rival.name}?",
        unknown,
    ]
    return Story(invented, elements, before, ADDED, unknown)


def _first(entities: Sequence[Entity], prop: str) -> Entity:
    for entity in entities:
        if prop in entity.facts:
            return entity
    raise DataError(f"no entity among the {len(entities)} of the world has the property {prop!r}")


def _digits(entity: Entity) -> int:
    return sum(character.isdigit() for character in entity.facts["account number"])
