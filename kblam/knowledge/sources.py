"""Where a document says a fact: the document, the page, the place in its text, and the words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kblam.errors import TripleFormatError
from kblam.knowledge.fields import clean, kind_of, shortened
from kblam.strict_json import loads, problem

SOURCES = "sources"  # the field of a record
MOST_SOURCES = 1000  # of one triple
_MOST = 2**53  # of pages and offsets: what every JSON reader keeps exact
_NEEDED, _FURTHER = ("document", "quote"), ("page", "offset")


@dataclass(frozen=True, slots=True)
class Source:
    """A place in a document that says a fact.

    Args:
        document: its file name or address; not empty.
        quote: the words that say it, as they stand there; not empty.
        page: from 1: a page, slide or sheet; None where the document has none.
        offset: characters of the document's text before the quote; None where that is not known.

    Raises:
        TripleFormatError: a text is none or empty, or a number is no whole one, or too small.
    """

    document: str
    quote: str
    page: int | None = None
    offset: int | None = None

    def __post_init__(self) -> None:
        for field in _NEEDED:
            object.__setattr__(self, field, clean(f"{field} of a source", getattr(self, field)))
        for field, least in (("page", 1), ("offset", 0)):
            given = getattr(self, field)
            if given is not None and (type(given) is not int or not least <= given <= _MOST):
                raise TripleFormatError(
                    f"{field} of a source must be a whole number from {least}, got {kind_of(given)}: {shortened(given)}"
                )

    def __str__(self) -> str:
        return f"{self.document}, page {self.page}" if self.page is not None else self.document

    def to_record(self) -> dict[str, Any]:
        """Its fields, absent ones left out."""
        record = {field: getattr(self, field) for field in ("document", "page", "offset", "quote")}
        return {field: given for field, given in record.items() if given is not None}


def are_sources(given: object) -> bool:
    """Whether a value of a record is meant as sources: objects with a document and a quote, or the text of such."""
    if isinstance(given, str):
        return given.lstrip().startswith('[{"document"')
    return (
        isinstance(given, list)
        and bool(given)
        and all(isinstance(one, Mapping) and all(field in one for field in _NEEDED) for one in given)
    )


def read_sources(given: object) -> tuple[Source, ...]:
    """The sources in a field of a record, also as the text that a cell of a table holds.

    Raises:
        TripleFormatError: there is another field, or one cannot be.
    """
    if isinstance(given, str):
        try:
            given = loads(given)
        except (ValueError, RecursionError) as error:
            raise TripleFormatError(f"sources are {problem(error)}") from None
    if not are_sources(given) or not isinstance(given, list):
        raise TripleFormatError(
            f'sources must be a list of objects with "document" and "quote", got {kind_of(given)}: {shortened(given)}'
        )
    known = {*_NEEDED, *_FURTHER}
    for one in given:
        if unknown := sorted(str(field) for field in one if field not in known):
            possible = "document, page, offset, quote"
            raise TripleFormatError(f"a source has a field {unknown[0][:60]!r}; possible are {possible}")
    return tuple(Source(**{field: _number(field, text) for field, text in one.items()}) for one in given)


def _number(field: str, given: object) -> Any:
    """Numbers of a file of triples come as their text, with the digits of the file."""
    is_digits = isinstance(given, str) and given.isascii() and given.isdigit() and len(given) < 20
    return int(given) if field in _FURTHER and isinstance(given, str) and is_digits else given


def text_of(sources: Iterable[Source]) -> str:
    """The text that `read_sources` reads, for a cell of a table and for the store."""
    return json.dumps([source.to_record() for source in sources], ensure_ascii=False, separators=(",", ":"))
