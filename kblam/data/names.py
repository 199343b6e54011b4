"""Names of the open world: people, places, organisations, projects, products, works, creatures, invented things."""

from __future__ import annotations

import random

from kblam.data.properties import KINDS
from kblam.data.sides import Side
from kblam.data.tables import words

# How many of a hundred entities are of each kind.
SHARES = dict(zip(KINDS, (24, 13, 16, 12, 14, 9, 5, 7), strict=True))

_ONSETS = words("b bl br c ch d dr f g gl gr h j k kl l m n p pr qu r s sh st t th tr v w y z")
_NUCLEI = words("a a e e i i o o u ae ea ou")
_CODAS = ["", "", "", "", "", *words("b ck d g l ll m n n ng p r r rn s sh t th x z")]
_ORGANISATIONS = words(
    "Group Labs Industries Systems Partners Works Foods Motors Bank Institute Museum Hospital University School "
    "Library Airlines Theater Press Brewery Clinic Foundation Society Union Club Choir Café"
)
_COMPANIES = words("Inc Labs Technologies Solutions Studio Company")
_BODIES = words("Museum Institute Bank House Society Ministry")
_BEFORE_PLACES = words("Port Lake Mount Fort New North Upper Saint")
_LAND = words("Valley Island Hill Forest Bay Harbor Bridge")
_TOWN = words("Street Park Square Station Castle Tower")
_PLANS = words("Mission Programme Initiative Plan Study")
_WORKS = words("Initiative Programme Trial Upgrade Expedition Survey")
_MODELS = words("Pro Plus Deluxe Classic Mini")
_TITLES = words("Dr. Professor Captain Sister Aunt")
_ANIMALS = words(
    "owl fox lizard beetle heron otter bat toad lynx crab moth falcon shrew eel finch viper bear goat newt"
)
_LITTLE = frozenset(words("the a of for in and &"))
# Words that names of both sides share.
_FRAME = frozenset(
    word.lower()
    for table in (_ORGANISATIONS, _COMPANIES, _BODIES, _BEFORE_PLACES, _LAND, _TOWN, _PLANS, _WORKS, _MODELS, _TITLES)
    for word in (*table, *_ANIMALS, "Sons", "Daughters", "Project", "Operation", *_LITTLE)
)


def invented(rng: random.Random) -> str:
    """An invented word of one to three syllables, capitalised."""
    syllables = rng.choices((1, 2, 3), weights=(2, 5, 1))[0]
    return "".join(
        rng.choice(_ONSETS) + rng.choice(_NUCLEI) + rng.choice(_CODAS) for _ in range(syllables)
    ).capitalize()


def draw_kind(rng: random.Random) -> str:
    """One of the kinds of entity, by their shares."""
    return rng.choices(list(SHARES), weights=list(SHARES.values()))[0]


def draw_name(kind: str, side: Side, rng: random.Random) -> str:
    """A name that an entity of this kind might have."""
    c = rng.choice
    noun, adjective = c(side.name_nouns).capitalize(), c(side.name_adjectives).capitalize()
    first, last, city, new = c(side.first_names), c(side.last_names), c(side.cities), invented(rng)
    number = str(rng.randrange(2, 3000))
    choices: dict[str, tuple[str, ...]] = {
        "person": (
            *[f"{first} {last}"] * 6,
            f"{first} {c('ABCDEFGHJKLMNPRSTVWZ')}. {last}",
            f"{first} {last}-{c(side.last_names)}",
            f"{c(_TITLES)} {last}",
            f"{first} {new}",
            f"{new} {invented(rng)}",
        ),
        "place": (
            *[city] * 3,
            f"{c(_BEFORE_PLACES)} {c((new, last, first))}",
            f"{new}{c(('ville', 'burg', 'stad', 'mark', 'haven', 'ton', 'ia', 'holm'))}",
            f"{adjective} {c(_LAND)}",
            f"{noun} {c(_TOWN)}",
        ),
        "organisation": (
            f"{last} {c(_ORGANISATIONS)}",
            f"{last} & {c((c(side.last_names), 'Sons', 'Daughters', 'Company'))}",
            f"{noun} {c(_COMPANIES)}",
            f"{city} {c(_ORGANISATIONS)}",
            f"{new} {c(_ORGANISATIONS)}",
            f"{c(_BODIES)} of {noun}",
            f"The {adjective} {noun}",
            new,
        ),
        "project": (
            f"Project {noun}",
            f"Project {adjective} {noun}",
            f"Operation {noun}",
            f"{c(_PLANS)} {c((noun, new, adjective))}",
            f"{adjective} {noun}",
            f"{noun} {c(_WORKS)}",
            f"Project {new}",
        ),
        "product": (
            f"{new} {number}",
            f"{new} {c(('X', 'Mk', 'Pro', 'S', 'Mini', 'Max'))}{c(('', ' '))}{rng.randrange(2, 99)}",
            f"{new} {noun}",
            f"{adjective} {noun} {number}",
            f"{last} {noun}",
            f"{noun} {c(_MODELS)}",
            f"{c('ABCDEFGHKLMNPRSTVWXZ')}{c('ABCDEFGHKLMNPRSTVWXZ')}-{number} {noun.lower()}",
            f"{new}{c(('ol', 'in', 'ex', 'amid', 'on'))}",
        ),
        "work": (
            f"The {adjective} {noun}",
            f"The {noun} of {c((city, c(side.name_nouns).capitalize()))}",
            f"A {noun} for {first}",
            f"{first} and the {noun}",
            f"{adjective} {noun}",
            f"{noun} in {city}",
        ),
        "creature": (
            f"{adjective.lower()} {c(side.name_nouns)} {c(_ANIMALS)}",
            f"{last}'s {c(_ANIMALS)}",
            f"{new.lower()} {c(_ANIMALS)}",
            f"{adjective.lower()} {c(_ANIMALS)}",
        ),
        "thing": (
            noun.lower(),
            f"{adjective.lower()} {noun.lower()}",
            new.lower(),
            f"{noun} {number}",
            f"{new} {noun.lower()}",
            f"{noun.lower()} of {new}",
        ),
    }
    return c(choices[kind])


def near_miss(name: str, other: str, rng: random.Random) -> str:
    """The name with one of its words out of another name; the name itself where that leads nowhere.

    A word that says what it is ("Project", "Labs") may be taken or given, but not all words may be of that kind.
    """
    parts = name.split()
    places = [at for at, part in enumerate(parts) if part.lower() not in _LITTLE]
    others = [part for part in other.split() if part.lower() not in _LITTLE]
    if len(places) < 2 or not others:
        return name
    at = rng.choice(places)
    parts[at] = others[min(places.index(at), len(others) - 1)]
    own = [part for part in parts if part.lower() not in _FRAME]
    return " ".join(parts) if own and len(set(parts)) == len(parts) else name
