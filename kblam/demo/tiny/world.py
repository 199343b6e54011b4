"""The demo world: entities with invented facts, split so that no test name and no test value is ever trained on.

Two kinds of entity:

- *grid* entities ("Amber Falcon") come from a dense grid of two word lists. They are the benchmark: most names
  share a word with many others, so retrieval has to read the whole name.
- *open* entities have names of one to three words in any words: real ones from MiniLM's vocabulary, invented
  ones made of syllables ("Zorblax Quellin"), now and then a number. They teach that a name may be anything.

A value is test-only when crc32(value) is divisible by 8, a real word of open names when crc32(word) is.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

from kblam.data.entities import Entity
from kblam.demo.tiny.words import FIRST_NAMES, PROPERTIES, SECOND_NAMES, VALUE_GRAMMAR

HELD_OUT_SHARE = 8
FACTS_PER_ENTITY = 8


def _split(words: str) -> list[str]:
    return words.split()


_ONSETS = _split("b bl br c ch d dr f g gl gr h j k kl l m n p pr qu r s sh st t th tr v w y z")
_NUCLEI = _split("a a e e i i o o u ae ea ou")
_CODAS = ["", "", "", "", "", *_split("b ck d g l ll m n n ng p r r rn s sh t th x z")]


@dataclass(frozen=True)
class World:
    """All entities of the demo world; see the module's text for the four parts."""

    train_grid: list[Entity]
    train_open: list[Entity]
    test_grid: list[Entity]
    test_open: list[Entity]

    @property
    def train(self) -> list[Entity]:
        return self.train_grid + self.train_open


def is_held_out(text: str) -> bool:
    """Whether a value (or a word of an open name) belongs to the test side; the same on every machine."""
    return zlib.crc32(text.lower().encode()) % HELD_OUT_SHARE == 0


def world_words() -> list[str]:
    """Every word a value may hold, sorted: the words the demo model can put into an answer besides names."""
    words: set[str] = set()
    for pattern, classes in VALUE_GRAMMAR.values():
        words.update(pattern.replace("{}", " ").split())
        for word_class in classes:
            words.update(word_class.split())
    return sorted(words)


def draw_value(prop: str, rng: random.Random, *, held_out: bool) -> str:
    """One random value of a property, from the training values or from the held-out ones."""
    pattern, classes = VALUE_GRAMMAR[prop]
    while True:
        value = pattern.format(*(rng.choice(word_class.split()) for word_class in classes))
        if is_held_out(value) == held_out:
            return value


def draw_entity(name: str, rng: random.Random, *, held_out: bool, facts: int = FACTS_PER_ENTITY) -> Entity:
    """An entity with `facts` random properties and a value for each."""
    properties = rng.sample(PROPERTIES, facts)
    return Entity(name, {prop: draw_value(prop, rng, held_out=held_out) for prop in properties})


def grid_names(rng: random.Random) -> list[str]:
    """Every name of the grid in random order."""
    names = [f"{first} {second}".title() for first in FIRST_NAMES for second in SECOND_NAMES]
    rng.shuffle(names)
    return names


def syllable_word(rng: random.Random) -> str:
    """An invented word of one to three syllables; WordPiece cuts it into several pieces."""
    syllables = rng.choices((1, 2, 3), weights=(2, 5, 1))[0]
    return "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables))


def open_name(vocabulary: list[str], rng: random.Random) -> str:
    """A name of one to three words: real, invented, or (seldom) a number."""
    words = []
    for _ in range(rng.choices((1, 2, 3), weights=(2, 5, 2))[0]):
        kind = rng.random()
        if kind < 0.62:
            words.append(rng.choice(vocabulary))
        elif kind < 0.97:
            words.append(syllable_word(rng))
        else:
            words.append(str(rng.randrange(2, 3000)))
    return " ".join(words).title()


def _open_entities(
    count: int, vocabulary: list[str], rng: random.Random, taken: set[str], *, held_out: bool, facts: int
) -> list[Entity]:
    """Open entities; three in ten names differ from an earlier one in a single word, as near-misses."""
    entities: list[Entity] = []
    while len(entities) < count:
        name = open_name(vocabulary, rng)
        if entities and rng.random() < 0.3:
            words = rng.choice(entities).name.split()
            words[rng.randrange(len(words))] = name.split()[0]
            name = " ".join(words)
        if name not in taken:
            taken.add(name)
            entities.append(draw_entity(name, rng, held_out=held_out, facts=facts))
    return entities


def build_world(
    real_words: list[str],
    *,
    seed: int = 0,
    train_grid: int = 3000,
    train_open: int = 8000,
    test_grid: int = 1300,
    test_open: int = 400,
    open_facts: int = 5,
) -> World:
    """Draw the whole world.

    Args:
        real_words: lower-case words that open names may use (`tokenizer.real_words`); the held-out eighth
            appears in test names only.
        seed: the same seed gives the same world on every machine and Python version.
        train_grid, train_open, test_grid, test_open: entities of each part.
        open_facts: facts of an open training entity; fewer than the grid's, to spend embeddings on names.
    """
    rng = random.Random(seed)
    names = grid_names(rng)
    if train_grid + test_grid > len(names):
        raise ValueError(f"the grid has {len(names)} names, {train_grid + test_grid} were asked for")
    taken = set(names)
    seen = [word for word in real_words if not is_held_out(word)]
    unseen = [word for word in real_words if is_held_out(word)]
    return World(
        train_grid=[draw_entity(name, rng, held_out=False) for name in names[:train_grid]],
        train_open=_open_entities(train_open, seen, rng, taken, held_out=False, facts=open_facts),
        test_grid=[draw_entity(name, rng, held_out=True) for name in names[train_grid : train_grid + test_grid]],
        test_open=_open_entities(test_open, unseen, rng, taken, held_out=True, facts=FACTS_PER_ENTITY),
    )
