"""From terms of RDF to statements, labels, and what is left out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from kblam.data.importing.items import NAME, Dropped, Item, Label, Node, Statement
from kblam.data.importing.words import as_words, local_name
from kblam.data.tables import words

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_SKOS = "http://www.w3.org/2004/02/skos/core#"
_XSD = "http://www.w3.org/2001/XMLSchema#"
FIRST, REST, NIL, TYPE = f"{_RDF}first", f"{_RDF}rest", f"{_RDF}nil", f"{_RDF}type"
# What names a thing, the best first.
_LABELS = {
    iri: rank
    for rank, iris in enumerate(
        (
            (f"{_RDFS}label",),
            (f"{_SKOS}prefLabel",),
            ("http://schema.org/name", "https://schema.org/name"),
            ("http://xmlns.com/foaf/0.1/name",),
            ("http://purl.org/dc/terms/title", "http://purl.org/dc/elements/1.1/title"),
        )
    )
    for iri in iris
}
# Words that the last part of the IRI would not give.
_PROPERTIES = {
    f"{_SKOS}altLabel": "other name",
    f"{_RDFS}comment": "description",
    "http://www.w3.org/2002/07/owl#sameAs": "same as",
    "http://schema.org/description": "description",
}
# Wikidata has several predicates for a property, and labels of the property alone. From a thing to its value, and
# from a statement to its value and its qualifiers:
_WIKIDATA_VALUE = re.compile(r"http://www\.wikidata\.org/prop/(?:direct|statement|qualifier)/(P\d+)")
# From a thing to a statement or to the address that stands for a value, which are no further values.
_WIKIDATA_OTHER = re.compile(r"http://www\.wikidata\.org/prop/(direct-normalized/)?(P\d+)")
_WIKIDATA_ENTITY = "http://www.wikidata.org/entity/"
BINARY = "binary data"
_NUMBERS = frozenset(
    f"{_XSD}{kind}"
    for kind in words(
        "integer decimal double float long int short byte nonNegativeInteger positiveInteger nonPositiveInteger "
        "negativeInteger unsignedLong unsignedInt unsignedShort unsignedByte"
    )
)
_BINARY = frozenset((f"{_XSD}base64Binary", f"{_XSD}hexBinary"))
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE](?P<exponent>[+-]?\d{1,9}))?", re.ASCII)
_MOST_ZEROS = 30  # an exponent beyond stays
# Datatypes whose last part is a unit.
_UNITS = ("http://dbpedia.org/datatype/", "http://qudt.org/vocab/unit/", "http://qudt.org/2.1/vocab/unit/")


class Literal(NamedTuple):
    """A text with a language or a datatype (an IRI); both "" where there is none."""

    text: str
    language: str = ""
    datatype: str = ""


class Terms:
    """What a file's terms have in common, worked out once."""

    def __init__(self) -> None:
        self._properties: dict[str, Node | str] = {}

    def property_of(self, iri: str) -> Node | str:
        """A predicate: a node, which may have a label, or words of its own."""
        known = self._properties.get(iri)
        if known is None:
            if of_value := _WIKIDATA_VALUE.fullmatch(iri):
                known = Node(_WIKIDATA_ENTITY + of_value[1], is_shared=True)
            else:
                known = _PROPERTIES.get(iri) or Node(iri, is_shared=True)
            if len(self._properties) < 100_000:
                self._properties[iri] = known
        return known


def beside_values(iri: str) -> tuple[str, str] | None:
    """The property of Wikidata that a predicate is of, and what it leads to beside values; None of any other."""
    found = _WIKIDATA_OTHER.fullmatch(iri)
    return None if found is None else (_WIKIDATA_ENTITY + found[2], "normalized" if found[1] else "statement")


def items_of(terms: Terms, subject: str | None, predicate: str, value: str | Literal | None) -> Iterator[Item]:
    """What one statement of RDF says.

    Args:
        subject: an IRI or `_:id`; None for a statement about a statement.
        value: the same, or a literal; None for a statement.
    """
    if subject is None or value is None:
        yield Dropped("a statement about a statement", local_name(predicate))
        return
    node = _node(subject)
    if isinstance(value, Literal):
        if value.datatype in _BINARY:
            yield Dropped(BINARY, local_name(predicate))
            return
        text = _text(value)
        if not text:
            yield Dropped("an empty text", local_name(predicate))
            return
        rank = _LABELS.get(predicate)
        if rank is None:
            yield Statement(node, terms.property_of(predicate), text, value.language)
        else:
            yield Label(node, text, rank, value.language, is_kept=True)
            yield Statement(node, NAME, text, value.language)
        return
    if predicate == TYPE:
        yield Statement(node, "type", as_words(local_name(value)) if not value.startswith("_:") else _node(value))
    elif value == NIL:
        if predicate != REST:
            yield Dropped("an empty list", local_name(predicate))
    else:
        yield Statement(node, terms.property_of(predicate), _node(value))


def _node(id: str) -> Node:
    return Node(id, is_shared=not id.startswith("_:"))


def _text(literal: Literal) -> str:
    """The text of a literal, with its unit, in the digits that people write."""
    text = literal.text.strip()
    if literal.datatype in _NUMBERS:
        return _written_out(text)
    for start in _UNITS:
        if literal.datatype.startswith(start):
            return f"{_written_out(text)} {as_words(local_name(literal.datatype))}"
    return text


def _written_out(text: str) -> str:
    """A number without an exponent, where that can be, and without a plus sign, which every number of Wikidata has."""
    if not (found := _NUMBER.fullmatch(text)):
        return text
    text = text.removeprefix("+")
    if found["exponent"] is None or abs(int(found["exponent"])) > _MOST_ZEROS:
        return text
    written = f"{Decimal(text):f}"  # all digits of it, where a float would round them
    return written.rstrip("0").rstrip(".") if "." in written else written
