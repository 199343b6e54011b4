"""One fact said several times is one triple with several sources; one name spelled in several ways is one name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kblam.knowledge import Source, Triple
from kblam.knowledge.records import joined
from kblam.knowledge.sources import MOST_SOURCES

_QUOTES = re.compile("[\"'`´‘’‚‛“”„‟«»]")
_HYPHENS = re.compile(r"[_\-‐‑‒–—]+")
_DOTS = re.compile(r"(?<!\d)\.|\.(?!\d)")
_ARTICLE = re.compile(r"^(?:the|a|an)\s+(?=\S)")


@dataclass(frozen=True)
class Merged:
    """Triples, each name and property once, and what was put together for it.

    Args:
        triples: in the order in which they were first said.
        names, properties: each spelling that was kept, and the others that became it.
        joined: (name, property) of the facts of which different values were said, and how many; all are in the value.
        repeated: how often a fact was said again.
        dropped_sources: sources beyond the most that a triple has.
    """

    triples: list[Triple]
    names: dict[str, list[str]]
    properties: dict[str, list[str]]
    joined: dict[tuple[str, str], int]
    repeated: int = 0
    dropped_sources: int = 0


def merge(found: Sequence[Triple]) -> Merged:
    """Puts together what says the same: names and properties by `spelling`, values but for case, spaces and a stop.

    Of several spellings the commonest is kept, of equally common ones the first.
    """
    name_of, names = _chosen(triple.name for triple in found)
    property_of, properties = _chosen(triple.property for triple in found)
    # By name and property the values, each with the triple that said it first, and all sources.
    facts: dict[tuple[str, str], dict[str, Triple]] = {}
    sources: dict[tuple[str, str], dict[Source, None]] = {}
    repeated = dropped = 0
    for triple in found:
        triple = replace(triple, name=name_of[triple.name], property=property_of[triple.property])
        values = facts.setdefault(triple.identity, {})
        repeated += values.setdefault(_same_value(triple.value), triple) is not triple
        sources.setdefault(triple.identity, {}).update(dict.fromkeys(triple.sources))
    triples, several = [], {}
    for identity, values in facts.items():
        every = tuple(sources[identity])
        dropped += max(0, len(every) - MOST_SOURCES)
        if len(values) > 1:
            several[identity] = len(values)
        first, value = next(iter(values.values())), joined([one.value for one in values.values()])
        triples.append(replace(first, value=value, sources=every[:MOST_SOURCES]))
    return Merged(triples, names, properties, several, repeated, dropped)


def spelling(text: str) -> str:
    """What two spellings of a name share: no case, quotes, hyphens, article, and no dots but decimal points."""
    whole = unicodedata.normalize("NFKC", text).casefold()
    plain = _DOTS.sub("", _HYPHENS.sub(" ", _QUOTES.sub("", whole)))
    return _ARTICLE.sub("", " ".join(plain.split())) or whole


def _chosen(texts: Iterable[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Each text and the one that stands for it; and the ones that stand for others, with those."""
    groups: dict[str, Counter[str]] = {}
    for text in texts:
        groups.setdefault(spelling(text), Counter())[text] += 1
    chosen, merged = {}, {}
    for group in groups.values():
        kept = group.most_common(1)[0][0]  # of equally common ones the first that was met
        chosen.update(dict.fromkeys(group, kept))
        if len(group) > 1:
            merged[kept] = [text for text in group if text != kept]
    return chosen, merged


def _same_value(value: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", value).casefold().split()).removesuffix(".")
