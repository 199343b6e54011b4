"""The triple: one fact (name, property, value)."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from kblam.errors import TripleFormatError
from kblam.knowledge.fields import clean, kind_of
from kblam.knowledge.sources import MOST_SOURCES, SOURCES, Source, text_of

DEFAULT_PROPERTY = "description"

FIELDS = ("name", "property", "value", "key_string", "question", "answer")  # those that are texts


@dataclass(frozen=True, slots=True)
class Triple:
    """One fact: the `property` of `name` is `value`.

    `name` and `property` are stored in Unicode normal form C without surrounding white space, so that two
    spellings that look alike are one fact; `value` and the optional fields lose surrounding white space only. At the
    ends, what shows nothing counts as white space, such as a zero-width space.

    Args:
        name: the entity, in any language; not empty.
        property: what is said about it; not empty.
        value: the text that answers; not empty.
        key_string: replaces `the {property} of {name}` as the text that the key embedding is made from.
        question, answer: an example pair for training and evaluation; never encoded.
        sources: where documents say it; each is kept once.

    Raises:
        TripleFormatError: a field is empty or cannot be seen, not text, longer than `MAX_FIELD_CHARACTERS`, or holds a
            character that no UTF-8 file can hold (NUL, a lone surrogate); a source is none, or there are more than
            `MOST_SOURCES`.
    """

    name: str
    property: str
    value: str
    key_string: str | None = None
    question: str | None = None
    answer: str | None = None
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        # The dataclass is frozen, and this is its constructor.
        object.__setattr__(self, "name", clean("name", self.name, compose=True))
        object.__setattr__(self, "property", clean("property", self.property, compose=True))
        object.__setattr__(self, "value", clean("value", self.value))
        for field in ("key_string", "question", "answer"):
            given = getattr(self, field)
            if given is not None:
                object.__setattr__(self, field, clean(field, given))
        if self.sources:
            object.__setattr__(self, "sources", _each_once(self.sources))

    @builtins.property
    def identity(self) -> tuple[str, str]:
        """(name, property): a knowledge base holds one value for each."""
        return (self.name, self.property)

    @builtins.property
    def key_text(self) -> str:
        """The text the key embedding is made from."""
        return self.key_string or key_text(self.name, self.property)

    @builtins.property
    def value_text(self) -> str:
        """The text the value embedding is made from."""
        return self.value

    @classmethod
    def from_record(cls, record: object) -> Triple:
        """Read a triple from a mapping in any of the forms that a file may have.

        Fields that are no part of a triple are ignored; an optional field that is missing, null or blank is absent,
        and `property` is then "description".

        Raises:
            TripleFormatError: `record` is not a mapping, a required field is missing, a field cannot be text,
                two names of one field say different things, or it holds several facts (`triples_of` reads those).
        """
        from kblam.knowledge.records import triples_of  # which makes triples

        found = triples_of(record)
        if len(found) > 1:
            raise TripleFormatError(
                f"the record of {found[0].name!r} holds {len(found)} facts "
                f"({', '.join(triple.property for triple in found)[:200]}); triples_of reads all of them"
            )
        return found[0]

    def to_record(self) -> dict[str, Any]:
        """The fields under our own names, absent ones left out: `from_record` gives the same triple back."""
        record: dict[str, Any] = {field: text for field in FIELDS if (text := getattr(self, field)) is not None}
        if self.sources:
            record[SOURCES] = [source.to_record() for source in self.sources]
        return record


def sources_text(triple: Triple) -> str | None:
    """Its sources as a store has them; None where there are none."""
    return text_of(triple.sources) if triple.sources else None


def key_text(name: str, property: str) -> str:
    """The text whose embedding becomes the key of a triple."""
    return f"the {property} of {name}"


def identity_of(name: str, property: str) -> tuple[str, str]:
    """The identity a triple with this name and property has, however they were typed."""
    return clean("name", name, compose=True), clean("property", property, compose=True)


def _each_once(sources: object) -> tuple[Source, ...]:
    if not isinstance(sources, tuple | list) or not all(isinstance(one, Source) for one in sources):
        raise TripleFormatError(f"sources must be Source objects in a tuple, got {kind_of(sources)}")
    found = tuple(dict.fromkeys(sources))
    if len(found) > MOST_SOURCES:
        raise TripleFormatError(f"{len(found):,} sources of one triple; {MOST_SOURCES:,} are the most")
    return found
