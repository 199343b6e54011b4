"""The properties that people ask for and tables have under other names: the column "word class" is the part of speech.

`other_names.txt` has, for each property of the training world, the headings under which tables keep the same. Two
writers who saw the names of these properties, and neither a question nor a table of ours, wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files

from kblam.knowledge.identifiers import forms
from kblam.knowledge.mention import words


def meant_by(column: str, properties: tuple[str, ...]) -> list[str]:
    """Those of some properties, in their order, of which a column with this name has the values.

    Args:
        column: as a table writes it, `wordClass` or `word_class` too; one or many (synonym, synonyms), with or without
            hyphens (check-out time, checkout time).
        properties: what people may ask for.
    """
    headings = _headings(properties)
    found = {place for form in forms(column) for one in _keys(form) for place in headings.get(one, ())}
    return [properties[place] for place in sorted(found)]


@lru_cache(maxsize=8)
def _headings(properties: tuple[str, ...]) -> Mapping[str, list[int]]:
    """By `_keys` of a heading, the places of the properties it stands for."""
    found: dict[str, list[int]] = {}
    names = _other_names()
    for place, prop in enumerate(properties):
        for one in dict.fromkeys(one for heading in (prop, *names.get(prop, ())) for one in _keys(heading)):
            found.setdefault(one, []).append(place)
    return found


@lru_cache(maxsize=1)
def _other_names() -> Mapping[str, list[str]]:
    """By property, the headings."""
    text = (files(__package__) / "other_names.txt").read_text(encoding="utf-8")
    rows = (line.partition(": ") for line in text.splitlines())
    return {prop: headings.split("; ") for prop, _, headings in rows}


def _keys(text: str) -> list[str]:
    """What headings have in common that differ in case, hyphens, spaces and number: any of these."""
    *first, last = words(text) or [text]
    return ["".join([*first, one]) for one in _numbers(last)]


def _numbers(word: str) -> Iterator[str]:
    """A word, and what it may be the plural of."""
    yield word
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        yield word[:-1]
        if word.endswith("ies"):
            yield word[:-3] + "y"
        if word.endswith(("ses", "xes", "zes", "ches", "shes")):
            yield word[:-2]
