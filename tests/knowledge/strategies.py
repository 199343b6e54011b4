"""Hypothesis strategies for triples in any language."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

from kblam.knowledge.sources import Source
from kblam.knowledge.triples import Triple

# Everything a UTF-8 text file can hold, control characters and line separators included.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


def can_be_seen(text: str) -> bool:
    """Whether a field may be this text."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


fields = texts.filter(can_be_seen)
sources = st.builds(
    Source,
    document=fields,
    quote=fields,
    page=st.none() | st.integers(1, 2**53),
    offset=st.none() | st.integers(0, 2**53),
)
triples = st.builds(
    Triple,
    name=fields,
    property=fields,
    value=fields,
    key_string=st.none() | fields,
    question=st.none() | fields,
    answer=st.none() | fields,
    sources=st.lists(sources, max_size=2).map(tuple),
)


def unique(items: list[Triple]) -> list[Triple]:
    """The last triple of each identity."""
    return list({triple.identity: triple for triple in items}.values())
