"""The triple: one fact (name, property, value), and how it is read from a record of fields."""

from __future__ import annotations

import builtins
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from kblam.errors import TripleFormatError

DEFAULT_PROPERTY = "description"

# An encoder reads a few hundred tokens at most; beyond this a "field" is an unclosed quote or a pasted file.
MAX_FIELD_CHARACTERS = 100_000

# Each field of a triple and the names it may have in a record: ours, the short form's, upstream's.
FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "name": ("name", "entity"),
    "property": ("property", "description_type"),
    "value": ("value", "description"),
    "key_string": ("key_string",),
    "question": ("question", "Q"),
    "answer": ("answer", "A"),
}
# Upstream's raw records say three things of an entity at once, under the names of their properties.
FURTHER_PROPERTIES = ("objectives", "purpose")
# Sorting a run of combining marks takes time with the square of its length. No script stacks more than a few.
MAX_COMBINING_MARKS = 256
_FIELD_OF_NAME = {name: field for field, names in FIELD_NAMES.items() for name in names}
_REQUIRED = ("name", "value")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_KIND_OF_JSON = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Triple:
    """One fact: the `property` of `name` is `value`.

    `name` and `property` are stored in Unicode normal form C without surrounding white space, so that two
    spellings that look alike are one fact; `value` and the optional fields lose surrounding white space only.

    Args:
        name: the entity, in any language; not empty.
        property: what is said about it; not empty.
        value: the text that answers; not empty.
        key_string: replaces `the {property} of {name}` as the text that the key embedding is made from.
        question, answer: an example pair for training and evaluation; never encoded.

    Raises:
        TripleFormatError: a field is empty, not text, longer than `MAX_FIELD_CHARACTERS`, or holds a
            character that no UTF-8 file can hold (NUL, a lone surrogate).
    """

    name: str
    property: str
    value: str
    key_string: str | None = None
    question: str | None = None
    answer: str | None = None

    def __post_init__(self) -> None:
        # The dataclass is frozen, and this is its constructor.
        object.__setattr__(self, "name", _clean("name", self.name, compose=True))
        object.__setattr__(self, "property", _clean("property", self.property, compose=True))
        object.__setattr__(self, "value", _clean("value", self.value))
        for field in ("key_string", "question", "answer"):
            given = getattr(self, field)
            if given is not None:
                object.__setattr__(self, field, _clean(field, given))

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
        """Read a triple from a mapping with any of the field names of `FIELD_NAMES`.

        Unknown fields are ignored; an optional field that is missing, null or blank is absent, and `property`
        is then "description".

        Raises:
            TripleFormatError: `record` is not a mapping, a required field is missing, a field is not text,
                two names of one field say different things, or it holds several facts (`triples_of` reads those).
        """
        found = triples_of(record)
        if len(found) > 1:
            raise TripleFormatError(
                f"the record of {found[0].name!r} holds {len(found)} facts "
                f"({', '.join(triple.property for triple in found)}); triples_of reads all of them"
            )
        return found[0]

    def to_record(self) -> dict[str, str]:
        """The fields under our own names, absent ones left out: `from_record` gives the same triple back."""
        return {field: text for field in FIELD_NAMES if (text := getattr(self, field)) is not None}


def triples_of(record: object) -> list[Triple]:
    """The facts of a record: one, or each of those that upstream's raw records hold of an entity.

    Such a record has no property; "description", "objectives" and "purpose" are its properties.

    Raises:
        TripleFormatError: as `Triple.from_record`, but for several facts.
    """
    fields = _fields_of(record)
    assert isinstance(record, Mapping)
    further = {} if "property" in fields else {name: record[name] for name in _further_of(record)}
    if not further:
        return [_triple_of(fields, record)]
    first = [_triple_of(fields, record)] if "value" in fields else []
    if "name" not in fields:
        raise _missing("name", record)
    return first + [Triple(fields["name"], name, text) for name, text in further.items()]


def unread_fields(record: object) -> list[str]:
    """Names of the fields of a record that hold something and are no part of a triple."""
    if not isinstance(record, Mapping):
        return []
    read = set(_FIELD_OF_NAME)
    if not any(record.get(name) for name in FIELD_NAMES["property"]):
        read.update(FURTHER_PROPERTIES)
    return [
        str(name)
        for name, given in record.items()
        if name not in read and given is not None and not (isinstance(given, str) and not given.strip())
    ]


def _further_of(record: Mapping[object, object]) -> list[str]:
    found = []
    for name in FURTHER_PROPERTIES:
        given = record.get(name)
        if given is not None and not isinstance(given, str):
            raise TripleFormatError(f'field "{name}" must be text, got {_kind(given)}: {_shorten(given)}')
        if given and given.strip():
            found.append(name)
    return found


def _fields_of(record: object) -> dict[str, str]:
    """Our names of the fields that are there, with their texts."""
    if not isinstance(record, Mapping):
        raise TripleFormatError(f"expected an object with fields, got {_kind(record)}: {_shorten(record)}")
    fields: dict[str, str] = {}
    for name, given in record.items():
        field = _FIELD_OF_NAME.get(name)
        if field is None or given is None:
            continue
        if not isinstance(given, str):
            raise TripleFormatError(f'field "{name}" must be text, got {_kind(given)}: {_shorten(given)}')
        if given.strip() and fields.setdefault(field, given) != given:
            options = " and ".join(f'"{name}"' for name in FIELD_NAMES[field] if record.get(name))
            raise TripleFormatError(f"fields {options} are names of one field but differ; keep one of them")
    return fields


def _triple_of(fields: Mapping[str, str], record: Mapping[object, object]) -> Triple:
    for field in _REQUIRED:
        if field not in fields:
            raise _missing(field, record)
    return Triple(**{"property": DEFAULT_PROPERTY, **fields})


def _missing(field: str, record: Mapping[object, object]) -> TripleFormatError:
    options = " or ".join(f'"{name}"' for name in FIELD_NAMES[field])
    present = ", ".join(f'"{name}"' for name in list(record)[:12]) or "none"
    return TripleFormatError(f"missing field {options}; the fields present: {present[:200]}")


def as_triples(item: Triple | Mapping[str, object]) -> list[Triple]:
    """The triple itself, or those that a mapping describes."""
    return [item] if isinstance(item, Triple) else triples_of(item)


def key_text(name: str, property: str) -> str:
    """The text whose embedding becomes the key of a triple."""
    return f"the {property} of {name}"


def identity_of(name: str, property: str) -> tuple[str, str]:
    """The identity a triple with this name and property has, however they were typed."""
    return _clean("name", name, compose=True), _clean("property", property, compose=True)


def _clean(field: str, text: object, *, compose: bool = False) -> str:
    if not isinstance(text, str):
        raise TripleFormatError(f"{field} must be text, got {_kind(text)}: {_shorten(text)}")
    if len(text) > MAX_FIELD_CHARACTERS:
        raise TripleFormatError(
            f"{field} has {len(text):,} characters, more than {MAX_FIELD_CHARACTERS:,}: {_shorten(text)}"
        )
    if not text.isascii():
        _check_combining_marks(field, text)
    cleaned = (unicodedata.normalize("NFC", text) if compose else text).strip()
    if not cleaned:
        raise TripleFormatError(f"{field} is empty; every triple needs some text there")
    if _UNSTORABLE.search(cleaned):
        raise TripleFormatError(f"{field} holds a NUL or half of a surrogate pair: {_shorten(text)}; remove it")
    return cleaned


def _check_combining_marks(field: str, text: str) -> None:
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MAX_COMBINING_MARKS:
            raise TripleFormatError(
                f"{field} has more than {MAX_COMBINING_MARKS} combining marks on one character: {_shorten(text)}; "
                "remove them"
            )


def _kind(given: object) -> str:
    return "null" if given is None else _KIND_OF_JSON.get(type(given), type(given).__name__)


def _shorten(given: object, limit: int = 60) -> str:
    # Slicing before repr keeps the message cheap when the value is a whole file.
    if isinstance(given, str):
        return repr(given[:limit]) + ("..." if len(given) > limit else "")
    shown = repr(given)
    return shown if len(shown) <= limit else shown[:limit] + "..."
