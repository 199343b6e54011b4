"""The text of one field of a triple: what may stand in it, and how messages show what may not."""

from __future__ import annotations

import re
import unicodedata

from kblam.errors import TripleFormatError

# An encoder reads a few hundred tokens at most; beyond this a "field" is an unclosed quote or a pasted file.
MAX_FIELD_CHARACTERS = 100_000

# Sorting a run of combining marks takes time with the square of its length. No script stacks more than a few.
MAX_COMBINING_MARKS = 256
# Besides white space: what web pages and spreadsheets leave at the ends of a text, where it means nothing. Zero-width
# space, byte order mark, word joiner, soft hyphen; joiners and marks of direction belong to words of some scripts.
_ENDS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\ufeff\u2060\u00ad"
_UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_KIND_OF_JSON = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


def clean(field: str, text: object, *, compose: bool = False) -> str:
    """A text as it is stored: without white space around it, and composed (normal form C) where it is compared.

    Raises:
        TripleFormatError: it is empty, no text, too long, or holds what no UTF-8 file can.
    """
    if not isinstance(text, str):
        raise TripleFormatError(f"{field} must be text, got {kind_of(text)}: {shortened(text)}")
    if len(text) > MAX_FIELD_CHARACTERS:
        raise TripleFormatError(
            f"{field} has {len(text):,} characters, more than {MAX_FIELD_CHARACTERS:,}: {shortened(text)}"
        )
    if _is_plain(text):
        return text
    if not text.isascii():
        _check_combining_marks(field, text)
    cleaned = bare(text) if compose else text.strip(_ENDS)
    if not cleaned:
        raise TripleFormatError(f"{field} is empty; every triple needs some text there")
    if not can_be_seen(cleaned):
        raise TripleFormatError(f"{field} has no character that can be seen: {cleaned[:20]!a}")
    check_storable(field, cleaned)
    return cleaned


def _is_plain(text: str) -> bool:
    """Whether it is ASCII that prints, no space around it, as most texts are: `clean` has nothing to do."""
    if type(text) is not str:  # such as numpy's: what is stored is Python's
        return False
    return text.isascii() and text.isprintable() and bool(text) and text[0] != " " and text[-1] != " "


def bare(text: str) -> str:
    """A text as names are compared: composed, and without what means nothing at its ends."""
    return unicodedata.normalize("NFC", text).strip(_ENDS)


def can_be_seen(text: str) -> bool:
    """Whether any character of a text shows."""
    return any(unicodedata.category(character) not in _UNSEEN for character in text)


def is_storable(text: str) -> bool:
    """Whether a UTF-8 file can hold a text: it has no NUL and no half of a surrogate pair."""
    return _UNSTORABLE.search(text) is None


def check_storable(field: str, text: str) -> None:
    """A text that a UTF-8 file can hold.

    Raises:
        TripleFormatError: it cannot.
    """
    if not is_storable(text):
        raise TripleFormatError(f"{field} holds a NUL or half of a surrogate pair: {shortened(text)}; remove it")


def _check_combining_marks(field: str, text: str) -> None:
    if len(text) <= MAX_COMBINING_MARKS:
        return
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
