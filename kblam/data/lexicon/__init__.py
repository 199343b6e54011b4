"""Word material of the open world: words and glosses of WordNet, names of people and places from Faker.

One compressed file beside this one, written by `make.py`; its licences are in `NOTICE`.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from typing import Any

from kblam.errors import DataError
from kblam.strict_json import loads

FILE = "lexicon.json.gz"


@dataclass(frozen=True)
class Lexicon:
    """Sorted lists, so that whatever is drawn from them is the same everywhere.

    Args:
        nouns, adjectives, verbs: common English words of 3 to 12 letters.
        property_nouns: common nouns that name a property, each with its WordNet synonyms among them (itself first).
        glosses: (lemma, gloss) of lemmas that the real base `wordnet` never uses.
        first_names, last_names, cities: in Latin letters, of about twenty languages.
        people: full names in other scripts: Cyrillic, Greek, Japanese.
        places: cities in other scripts.
        jobs: in English.
        foreign: language -> words of it.
    """

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]
    property_nouns: tuple[tuple[str, ...], ...]
    glosses: tuple[tuple[str, str], ...]
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    cities: tuple[str, ...]
    people: tuple[str, ...]
    places: tuple[str, ...]
    jobs: tuple[str, ...]
    foreign: dict[str, tuple[str, ...]]


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The word material, read once.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        packed = resources.files(__package__).joinpath(FILE).read_bytes()
        content = loads(gzip.decompress(packed))
        return Lexicon(**{part.name: _frozen(content[part.name]) for part in fields(Lexicon)})
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"cannot read the word list {FILE} of kblam ({error}); install kblam-kernels again") from error


def _frozen(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _frozen(inner) for key, inner in content.items()}
    return tuple(map(_frozen, content)) if isinstance(content, list) else content
