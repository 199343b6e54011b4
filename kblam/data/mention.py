"""Whether a text says a fact's name and property in so many words."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """The words of a text for comparisons, in lower case."""
    return re.findall(r"\w+", text.casefold())


def place_of(said: list[str], wanted: list[str]) -> int | None:
    """Where some words stand among others, in this order and together; None if nowhere."""
    if not wanted:
        return None
    places = range(len(said) - len(wanted) + 1)
    return next((at for at in places if said[at : at + len(wanted)] == wanted), None)


def mentions(text: str, name: str, property: str) -> bool:
    """Whether a text has both the name and the property, word for word, in any case."""
    said = words(text)
    return all(place_of(said, words(field)) is not None for field in (name, property))
