"""Parts of a question that say "it" or "her" for the name in a part before them: "Who founded A and where is it?"."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from kblam.generation.clauses import Split
from kblam.knowledge.asking import is_question

NamesIn = Callable[[str], list[tuple[int, int]]]
_OWNED = re.compile(r"\b(?:its|his|her|their)\s+(?=\w)", re.IGNORECASE)
_JOINS = re.compile(r"\b(?:and|also|then|plus|well)\b|[;&+]", re.IGNORECASE)
_WISHES = re.compile(r"\W*(?:\w+\W+)?I\b", re.IGNORECASE)
_ALONE = re.compile(r"\b(?:it|he|she|they|him|her|them)\b", re.IGNORECASE)


def resolved(question: str, split: Split, names_in: NamesIn) -> Split | None:
    """The same cut with names in place of pronouns; None where no part has one that means a name.

    A pronoun means the only name of the nearest part before it that has any, where both have the form of a question, as
    "And its color?" has. Not in "Someone left the height off A's label. What should it read?", which is one question,
    nor in "I want to use A and what's its price?"; and not behind a comma alone, after which the same is often said
    again. Nobody knows whether the name is meant, so a part that then finds nothing is no gap.

    Args:
        question, split: what was cut, and how.
        names_in: the characters [start, end) of each name that a text says.
    """
    if any(start < end and _JOINS.search(question, start, end) is None for start, end in split.cuts):
        return None
    name, parts = None, list[str]()
    for part in split.parts:
        said = names_in(part)
        if said:
            asks = is_question(part) and _WISHES.match(part) is None
            name = part[slice(*said[0])] if len(said) == 1 and asks else None
        elif name is not None and (is_question(part) or _OWNED.search(part) is not None):
            part = _with_name(part, name)
        parts.append(part)
    return None if tuple(parts) == split.parts else replace(split, parts=tuple(parts), is_explicit=False)


def _with_name(part: str, name: str) -> str:
    """A part with a name in place of its first pronoun."""
    owned = _OWNED.search(part)
    if owned is not None:
        return f"{part[: owned.start()]}{name}'s {part[owned.end() :]}"
    return _ALONE.sub(lambda _: name, part, count=1)
