"""Names for readers out of identifiers: of IRIs, of types and relations in graphs, of columns."""

from __future__ import annotations

import re
from urllib.parse import unquote

from kblam.knowledge.identifiers import spoken

# Where names themselves may hold a slash: AC/DC.
_ARTICLES = re.compile(
    r"https?://(?:[a-z-]+\.)?dbpedia\.org/resource/(?=.)|https?://[a-z-]+\.wikipedia\.org/wiki/(?=.)"
)
_SCREAMING = re.compile(r"[A-Z][A-Z0-9_]*")


def local_name(iri: str) -> str:
    """The last part of an IRI, with its escapes undone; all of it where there is none."""
    if article := _ARTICLES.match(iri):
        return unquote(iri[article.end() :])
    tail = re.split(r"[#/]", iri.rstrip("/#"))[-1]
    if tail == iri:  # urn:isbn:123, or a name with a prefix
        tail = iri.rsplit(":", 1)[-1]
    return unquote(tail) or iri


def namespace(iri: str) -> str:
    """An IRI without its last part."""
    if article := _ARTICLES.match(iri):
        return article[0]
    return iri[: max(iri.rfind("#"), iri.rfind("/")) + 1]


def as_name(local: str) -> str:
    """The last part of an IRI as a name: `Amber_Falcon` is Amber Falcon."""
    return " ".join(local.replace("_", " ").split()) or local


def as_words(identifier: str) -> str:
    """A property, type or relation as words: `birthPlace` is birth place, `WORKS_AT` works at; others stay."""
    if _SCREAMING.fullmatch(identifier) and ("_" in identifier or len(identifier) > 4):
        return " ".join(identifier.lower().replace("_", " ").split())
    return spoken(identifier)
