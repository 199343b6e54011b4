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
            TripleFormatError: `record` is not a mapping, a required field is missing, a field is not text, or
                two names of one field say different things.
        """
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
        for field in _REQUIRED:
            if field not in fields:
                options = " or ".join(f'"{name}"' for name in FIELD_NAMES[field])
                present = ", ".join(f'"{name}"' for name in list(record)[:12]) or "none"
                raise TripleFormatError(f"missing field {options}; the fields present: {present[:200]}")
        fields.setdefault("property", DEFAULT_PROPERTY)
        return cls(**fields)

    def to_record(self) -> dict[str, str]:
        """The fields under our own names, absent ones left out: `from_record` gives the same triple back."""
        return {field: text for field in FIELD_NAMES if (text := getattr(self, field)) is not None}


def as_triple(item: Triple | Mapping[str, object]) -> Triple:
    """The triple itself, or the one a mapping describes."""
    return item if isinstance(item, Triple) else Triple.from_record(item)


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
    cleaned = (unicodedata.normalize("NFC", text) if compose else text).strip()
    if not cleaned:
        raise TripleFormatError(f"{field} is empty; every triple needs some text there")
    if _UNSTORABLE.search(cleaned):
        raise TripleFormatError(f"{field} holds a NUL or half of a surrogate pair: {_shorten(text)}; remove it")
    return cleaned


def _kind(given: object) -> str:
    return "null" if given is None else _KIND_OF_JSON.get(type(given), type(given).__name__)


def _shorten(given: object, limit: int = 60) -> str:
    # Slicing before repr keeps the message cheap when the value is a whole file.
    if isinstance(given, str):
        return repr(given[:limit]) + ("..." if len(given) > limit else "")
    shown = repr(given)
    return shown if len(shown) <= limit else shown[:limit] + "..."
