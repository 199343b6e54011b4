"""Which words belong to the training side of the open world and which to its test side."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

from kblam.data.lexicon import lexicon

HELD_OUT_SHARE = 6  # one word, or one value, in so many is test-only
HELD_OUT_PROPERTIES = 5


def is_held_out(text: str, salt: str = "", share: int = HELD_OUT_SHARE) -> bool:
    """Whether a text belongs to the test side; the same on every machine. `salt` makes splits independent."""
    return zlib.crc32(f"{salt}|{text.lower()}".encode()) % share == 0


@dataclass(frozen=True)
class Side:
    """The word lists of one side; see `Lexicon`. Words of names and words of values are split apart."""

    held_out: bool
    nouns: list[str]
    adjectives: list[str]
    verbs: list[str]
    name_nouns: list[str]
    name_adjectives: list[str]
    first_names: list[str]
    last_names: list[str]
    cities: list[str]
    people: list[str]
    places: list[str]
    jobs: list[str]
    foreign: dict[str, list[str]]
    glosses: list[tuple[str, str]]  # training only
    property_nouns: list[str]


@lru_cache(maxsize=2)
def side(held_out: bool) -> Side:
    """The words of the training side, or of the test side."""
    words = lexicon()

    def split(items: tuple[str, ...], salt: str, share: int = HELD_OUT_SHARE) -> list[str]:
        return [item for item in items if is_held_out(item, salt, share) == held_out]

    return Side(
        held_out=held_out,
        nouns=split(words.nouns, "value"),
        adjectives=split(words.adjectives, "value"),
        verbs=split(words.verbs, "value"),
        name_nouns=split(words.nouns, "name"),
        name_adjectives=split(words.adjectives, "name"),
        first_names=split(words.first_names, "first"),
        last_names=split(words.last_names, "last"),
        cities=split(words.cities, "city"),
        people=split(words.people, "people"),
        places=split(words.places, "places"),
        jobs=split(words.jobs, "job"),
        foreign={language: split(listed, "foreign") for language, listed in words.foreign.items()},
        glosses=[] if held_out else list(words.glosses),
        property_nouns=split(tuple(group[0] for group in words.property_nouns), "property", HELD_OUT_PROPERTIES),
    )
