"""Whether two properties mean the same: what tells a missing fact from one that is known by another word."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import product

from kblam.data.alike import NEAR, SYNONYMS
from kblam.data.lexicon import lexicon
from kblam.data.tables import words
from kblam.knowledge.identifiers import forms

_LITTLE_WORDS = frozenset(words("of the a an in on at to for by and its his her their"))


@lru_cache(maxsize=200_000)
def same_meaning(first: str, second: str) -> bool:
    """Whether an entity that has one of two properties answers for the other, so that it never counts as missing.

    True for equal words (in any case, order, or number), for words of one meaning (the table of synonyms, and
    WordNet's for common nouns), and if one property only says more than the other ("engineer", "lead engineer").
    Rather too often true than too seldom: a fact wrongly called missing teaches to refuse what is known.
    """
    for one, two in product(map(_normal, forms(first)), map(_normal, forms(second))):
        some, others = _words(one), _words(two)
        if some <= others or others <= some or two in _table().get(one, frozenset()):
            return True
    return False


def near_properties(prop: str) -> list[str]:
    """Typed properties that are close in meaning to this one, and do not mean the same."""
    near = dict.fromkeys(other for group in NEAR if prop in group for other in group)
    return [other for other in near if not same_meaning(prop, other)]


@lru_cache(maxsize=20_000)
def _normal(prop: str) -> str:
    return " ".join(re.sub(r"[_\-/]+", " ", prop.lower()).split())


@lru_cache(maxsize=20_000)
def _words(prop: str) -> frozenset[str]:
    telling = frozenset(_singular(word) for word in re.findall(r"\w+", prop) if word not in _LITTLE_WORDS)
    return telling or frozenset({prop})  # without this "%" would be part of everything


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=1)
def _table() -> dict[str, frozenset[str]]:
    """Property -> all that mean the same, from the table above and from WordNet's synonyms."""
    found: dict[str, set[str]] = {}
    groups = [[_normal(word) for word in group] for group in SYNONYMS]
    for word, *synonyms in lexicon().property_nouns:
        groups += [[word, synonym] for synonym in synonyms]
    for group in groups:
        for word in group:
            found.setdefault(word, set()).update(group)
    return {word: frozenset(group) for word, group in found.items()}
