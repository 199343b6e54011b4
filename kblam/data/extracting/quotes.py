"""Where a quote stands in a text, however a model wrote its white space, its quotation marks and its letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# One character for one.
_PLAIN = str.maketrans("‘’‚‛“”„‟‐‑‒–—−\u00a0\u202f\u2009", "''''\"\"\"\"------   ")
# What documents, PDFs above all, have for the letters of a word.
_LIGATURES = dict(enumerate(("ff", "fi", "fl", "ffi", "ffl", "st", "st"), start=0xFB00))
# Soft hyphens, joiners, zero-width spaces, marks of direction.
_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e"))
_UNSEEN.update(dict.fromkeys(range(0x2066, 0x206A)))
_LINE_END = re.compile(r"(?<=\w)[-\u00ad][ \t]*\n[ \t]*(?=\w)")  # inside a word
SHORTEST = 4  # characters of a quote that says something


def find_quote(text: str, quote: str) -> tuple[int, int] | None:
    """[start, end) of a quote in a text; None if its words do not stand there, in this order and nothing between."""
    if sum(map(len, quote.split())) < SHORTEST:
        return None
    at = text.find(quote.strip())
    if at >= 0:
        return at, at + len(quote.strip())
    words = "".join(letters for letters, _, _ in _folded(quote)).split()
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    for broken in (False, True) if words else ():
        letters = [(letter, start, end) for found, start, end in _folded(text, broken=broken) for letter in found]
        if found := pattern.search("".join(letter for letter, _, _ in letters)):
            return letters[found.start()][1], letters[found.end() - 1][2]
    return None


def _folded(text: str, *, broken: bool = False) -> Iterator[tuple[str, int, int]]:
    """(letters as they are compared, start, end) of what is one character of a text to its readers.

    Args:
        broken: words that are broken at the end of a line are whole.
    """
    at = 0
    for gap in _LINE_END.finditer(text) if broken else ():
        yield from _characters(text, at, gap.start())
        at = gap.end()
    yield from _characters(text, at, len(text))


def _characters(text: str, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    while start < end:
        after = start + 1
        # Marks on the character, and the vowels and final consonants of Korean.
        while after < end and (unicodedata.combining(text[after]) or "\u1160" <= text[after] <= "\u11ff"):
            after += 1
        whole = unicodedata.normalize("NFC", text[start:after])
        yield whole.translate(_PLAIN).translate(_LIGATURES).translate(_UNSEEN), start, after
        start = after
