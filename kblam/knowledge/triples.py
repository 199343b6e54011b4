"""The triple: one fact (name, property, value)."""

from __future__ import annotations

import builtins
import re
import unicodedata
from dataclasses import dataclass

from kblam.errors import TripleFormatError

DEFAULT_PROPERTY = "description"

# An encoder reads a few hundred tokens at most; beyond this a "field" is an unclosed quote or a pasted file.
MAX_FIELD_CHARACTERS = 100_000

# Sorting a run of combining marks takes time with the square of its length. No script stacks more than a few.
MAX_COMBINING_MARKS = 256
FIELDS = ("name", "property", "value", "key_string", "question", "answer")
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

    def to_record(self) -> dict[str, str]:
        """The fields under our own names, absent ones left out: `from_record` gives the same triple back."""
        return {field: text for field in FIELDS if (text := getattr(self, field)) is not None}


def key_text(name: str, property: str) -> str:
    """The text whose embedding becomes the key of a triple."""
    return f"the {property} of {name}"


def identity_of(name: str, property: str) -> tuple[str, str]:
    """The identity a triple with this name and property has, however they were typed."""
    return _clean("name", name, compose=True), _clean("property", property, compose=True)


def _clean(field: str, text: object, *, compose: bool = False) -> str:
    if not isinstance(text, str):
        raise TripleFormatError(f"{field} must be text, got {kind_of(text)}: {shortened(text)}")
    if len(text) > MAX_FIELD_CHARACTERS:
        raise TripleFormatError(
            f"{field} has {len(text):,} characters, more than {MAX_FIELD_CHARACTERS:,}: {shortened(text)}"
        )
    if not text.isascii():
        _check_combining_marks(field, text)
    cleaned = (unicodedata.normalize("NFC", text) if compose else text).strip()
    if not cleaned:
        raise TripleFormatError(f"{field} is empty; every triple needs some text there")
    if _UNSTORABLE.search(cleaned):
        raise TripleFormatError(f"{field} holds a NUL or half of a surrogate pair: {shortened(text)}; remove it")
    return cleaned


def _check_combining_marks(field: str, text: str) -> None:
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > MAX_COMBINING_MARKS:
            raise TripleFormatError(
                f"{field} has more than {MAX_COMBINING_MARKS} combining marks on one character: {shortened(text)}; "
                "remove them"
            )


def kind_of(given: object) -> str:
    """What a value is, in the words of JSON."""
    return "null" if given is None else _KIND_OF_JSON.get(type(given), type(given).__name__)


def shortened(given: object, limit: int = 60) -> str:
    """A value as a message shows it."""
    # Slicing before repr keeps the message cheap when the value is a whole file.
    if isinstance(given, str):
        return repr(given[:limit]) + ("..." if len(given) > limit else "")
    shown = repr(given)
    return shown if len(shown) <= limit else shown[:limit] + "..."
