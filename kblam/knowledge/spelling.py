"""Names as people type them: without the marks on letters, apostrophes and stops, and with "and" for "&"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from kblam.knowledge.mention import words, words_at

# Letters that Unicode does not take apart.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h", "ŧ": "t"}
)
# What is written for them where a keyboard has none: Mueller, Oedegaard.
_IN_TWO = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"})
_APOSTROPHE = re.compile(r"['’ʼ`´]")
# A name without any of these is typed as it is written.
_TYPED_OTHERWISE = re.compile(r"[^\x00-\x7f]|[&'`.]")
# Of "U.S." nothing is left that could not be another word.
_SHORTEST = 3


class Word(NamedTuple):
    """A word by which names are compared that may be typed otherwise.

    Args:
        text: in lower case and plain letters.
        start, end: characters [start, end) that it is made of.
    """

    text: str
    start: int
    end: int


def plain_words(text: str) -> list[Word]:
    """The words of a text: "J. K." is one word, and "&" is "and"."""
    found: list[Word] = []
    last, reached = "", 0
    for word, start, end in words_at(text):
        between = text[reached:start]
        if found and "&" in between:
            found.append(Word("and", reached, start))
        if len(last) == len(word) == 1 and between in (".", ". "):
            found[-1] = Word(found[-1].text + _plain(word), found[-1].start, end)
        else:
            found.append(Word(_plain(word), start, end))
        last, reached = word, end
    return found


def otherwise(name: str) -> set[str]:
    """How a name may be typed otherwise: `plain_words` with a space between; without how it is found anyway."""
    if _TYPED_OTHERWISE.search(name) is None:
        return set()
    joined = _APOSTROPHE.sub("", name)
    in_two = unicodedata.normalize("NFC", joined).casefold().translate(_IN_TWO)
    found = {" ".join(word.text for word in plain_words(text)) for text in (joined, in_two)}
    return {text for text in found if len(text) >= _SHORTEST} - {" ".join(words(name))}


def _plain(word: str) -> str:
    """A word in lower case without its marks, in scripts where people leave them out."""
    return word if word.isascii() else "".join(_letters(word)).translate(_LETTERS)


def _letters(word: str) -> Iterator[str]:
    for is_often_left_out, run in groupby(word, key=_has_marks_that_are_left_out):
        part = "".join(run)
        if is_often_left_out:
            part = "".join(one for one in unicodedata.normalize("NFD", part) if unicodedata.category(one) != "Mn")
        yield part


def _has_marks_that_are_left_out(character: str) -> bool:
    """Whether it is Latin, Greek, Cyrillic, Hebrew or Arabic, or a mark there; the vowel signs of others are letters."""
    return character < "\u0700" or "\u1e00" <= character < "\u2000"
