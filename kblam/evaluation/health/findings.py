"""What can be wrong with a triple, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kblam.data.tables import words
from kblam.knowledge.triples import Triple

# Kinds of findings, and what to do.
SAYS_NOTHING = "values that say nothing"
BINARY = "values that are no text"
BROKEN = "values in a broken encoding"
LONG = "texts longer than the encoder reads"
NEAR_PROPERTIES = "properties that the encoder takes for one"
NEAR_NAMES = "names that the encoder takes for one"
NOT_FOUND = "questions that find another fact"
UNSEEN = "names with characters that nobody sees"
FIXES = {
    SAYS_NOTHING: "remove the triple: what the base does not have is refused, and this would be answered",
    BINARY: "remove the triple, or put a description in its place",
    BROKEN: "read the source again in its own encoding (UTF-8 was read as Latin-1)",
    LONG: "make several triples of it: what comes after the encoder's limit has no part in the vector",
    NEAR_PROPERTIES: "give the two properties words that differ more, or make one triple of both",
    NEAR_NAMES: "put what tells the two apart into the name, such as a place or a year",
    UNSEEN: "remove them: a question has none, and a name beside it that looks alike is another one",
    NOT_FOUND: "name the property as people ask for it, or tell the two names apart",
}
_NOTHING = frozenset(
    (
        *words("n/a null nil undefined unknown tbd todo - -- — ? . ... [] {}"),
        *words("#n/a #ref! #value! #name? #div/0! #num!"),
        *("not available", "not applicable", "no data"),
    )
)
# In these letters only: Na is sodium, and a planet may have none.
_NOTHING_AS_WRITTEN = frozenset(("NA", "NaN", "nan", "None", "NONE"))
_BINARY = re.compile(
    r"[\x00-\x08\x0e-\x1f]|^b['\"]|^data:[\w.+-]+/[\w.+-]+;base64,|^(?:0x)?[0-9a-fA-F]{64,}$|^[A-Za-z0-9+/]{80,}={0,2}$"
)
# Not U+200C and U+200D, which Persian, Hindi and others spell words with.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
# UTF-8 read as Latin-1 or Windows-1252, and the mark that stands for what could not be read.
_BROKEN = re.compile("\ufffd|[ÂÃ][\u0080-\u00bf\u2018-\u203a€]|â€")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: of the table above.
        what: the triple, or two of them, in a few words.
        weight: how bad, from 0 to 1: the worst are shown first.
    """

    kind: str
    what: str
    weight: float

    @property
    def fix(self) -> str:
        """What to do."""
        return FIXES[self.kind]


def of_value(triple: Triple) -> Finding | None:
    """What the text of a value alone tells."""
    value = triple.value
    if value.casefold() in _NOTHING or value in _NOTHING_AS_WRITTEN:
        return Finding(SAYS_NOTHING, f"{told(triple)}: {value}", 0.9)
    if _BINARY.search(value):
        return Finding(BINARY, f"{told(triple)}: {cut(value)}", 1.0)
    if _BROKEN.search(value) or _BROKEN.search(triple.name):
        return Finding(BROKEN, f"{told(triple)}: {cut(value)}", 0.8)
    return None


def told(triple: Triple) -> str:
    """A triple without its value."""
    return f"the {cut(triple.property)} of {cut(triple.name)}"


def of_name(triple: Triple) -> Finding | None:
    """Characters in a name or a property that no screen shows: zero width, direction, control."""
    if not (unseen := _UNSEEN.search(f"{triple.property} {triple.name}")):
        return None
    return Finding(UNSEEN, f"{told(triple)} (U+{ord(unseen[0]):04X})", 0.85)


def cut(text: str, most: int = 60) -> str:
    """A text on one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."
