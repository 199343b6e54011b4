"""What a text says of a fact in so many words: its name, its property, or another property in its place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from kblam.knowledge.edges import (
    RUNS_ON,
    cuts_syllable,
    goes_on,
    has_part,
    has_run_of_marks,
    is_mark,
    marked_parts,
    places_of_marks,
)
from kblam.knowledge.identifiers import forms


def words(text: str) -> list[str]:
    """The words of a text for comparisons, in lower case and normal form C, with the marks on their letters."""
    return _words_of(folded_text(text))


def words_at(text: str) -> list[tuple[str, int, int]]:
    """`words`, each with the characters [start, end) of the text that it is made from."""
    folded, places = folded_text(text), _Places(text)
    return [(one[0], *places.of(*one.span())) for one in _word(folded).finditer(folded)]


def place_of(said: list[str], wanted: list[str], since: int = 0) -> int | None:
    """Where some words stand among others, in this order and together, from a place on; None if nowhere."""
    if not wanted:
        return None
    places = range(since, len(said) - len(wanted) + 1)
    return next((at for at in places if said[at : at + len(wanted)] == wanted), None)


def apart_from(said: list[str], named: list[str], *, once: bool = False) -> list[str]:
    """Words with an empty one in place of a name, wherever it stands among them, or where it does first."""
    rest, reached = list[str](), 0
    while not (once and reached) and (at := place_of(said, named, reached)) is not None:
        rest += [*said[reached:at], ""]
        reached = at + len(named)
    return rest + said[reached:]


def mentions(text: str, name: str, property: str) -> bool:
    """Whether a text has both the name and, beside it, the property, word for word, in any case."""
    said, named = words(text), words(name)
    return all(
        any(
            (place_of(among, own) is not None and (is_by_words(text, one) or says(text, one)))
            or (not own and says(text, one))
            for one in of_field
            for own in [words(one)]
            for among in [said if own == named else apart_from(said, named)]
        )
        for of_field in ((name,), forms(property))
    )


def is_by_words(text: str, name: str) -> bool:
    """Whether a text that has the words of a name says it, whatever else is written there; else `says` tells."""
    return "_" not in text and "_" not in name and not marked_parts(name)


def says_property(text: str, property: str, name: str = "") -> bool:
    """Whether a text says a property word for word, in any case, as it is written or in words.

    Args:
        name: of which it may be no part: "Height Tower" says no height.
    """
    said = [place for one in forms(property) for place in spans_of(text, one)]
    named = list(spans_of(text, name)) if said else []
    return any(
        not any(start <= at and stop <= end and (at, stop) != (start, end) for start, end in named) for at, stop in said
    )


def says(text: str, phrase: str) -> bool:
    """Whether a text says a name or property word for word, in any case; in scripts without spaces, anywhere."""
    return next(spans_of(text, phrase), None) is not None


_MARKS, _MARKS_AT_END = re.compile(r"[\W_]+"), re.compile(r"[\W_]+$")


def without_name(text: str, name: str, pronoun: str) -> str | None:
    """The text with a pronoun in place of a name and of the marks around it; None if it does not say the name."""
    start, end = next(spans_of(text, name), (0, 0))
    if not end:
        return None
    before, after = _MARKS.match(name), _MARKS_AT_END.search(name)
    if before is not None and before[0] != name and text[:start].endswith(before[0]):
        start -= len(before[0])
    if after is not None and after[0] != name and text.startswith(after[0], end):
        end += len(after[0])
    return text[:start] + pronoun + text[end:]


def to_the_letter(text: str, names: Iterable[str]) -> set[str]:
    """Of names that have the same words, such as "C" and "C++", those that a text says with all their marks.

    Of these again the longest, and of "CO" and "Co" the one with its capitals; where it says none to the letter, all.
    """
    by_words: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        by_words.setdefault(tuple(words(name)) or (name,), []).append(name)
    folded, kept = folded_text(text), set[str]()
    for alike in by_words.values():
        exact = [name for name in alike if folded_text(name) in folded] if len(alike) > 1 else alike
        longest = max(map(len, exact), default=0)
        exact = [name for name in exact if len(name) == longest] or alike
        kept.update([name for name in exact if len(exact) > 1 and _stands(text, name)] or exact)
    return kept


def _stands(text: str, name: str) -> bool:
    """Whether a text says a name with its capitals."""
    written = unicodedata.normalize("NFC", name)
    return any(unicodedata.normalize("NFC", text[start:end]) in written for start, end in spans_of(text, name))


_GLUED = re.compile(r"\.[^\W_]|(?<=\d),\d|[#+]+(?![^\W_])")
_NUMBER_GOES_ON = re.compile(r"\d[.,]\d")


class _Phrase(NamedTuple):
    found: re.Pattern[str]  # how it stands in a folded text
    words: list[str]
    runs_before: bool  # whether a word may go on before it, and after it
    runs_after: bool
    marks: str  # at its end
    parts: list[str]  # that are to be said to the letter where marks are said at all


@lru_cache(maxsize=4096)
def _phrase(phrase: str) -> _Phrase | None:
    """None for one without words."""
    said = words(phrase)
    if not said:
        return None
    # The underscores around "__init__" are its own; without them it would be a part of that.
    folded = folded_text(phrase)
    found_words = list(_word(folded).finditer(folded))
    before, marks = folded[: found_words[0].start()], folded[found_words[-1].end() :]
    before, after = before[len(before.rstrip("_")) :], marks[: len(marks) - len(marks.lstrip("_"))]
    found = re.compile(before + r"[\W_]+".join(map(re.escape, said)) + after)
    runs_before, runs_after = RUNS_ON.match(said[0]) is not None, RUNS_ON.match(said[-1][-1]) is not None
    return _Phrase(found, said, runs_before, runs_after, marks, marked_parts(folded))


def spans_of(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    """The characters [start, end) of each place where a text says a name or property, as `says` finds it."""
    known = _phrase(phrase)
    if known is None:
        yield from places_of_marks(text, phrase)
        return
    folded = folded_text(text)
    found = known.found.search(folded)
    if found is None:
        return
    places = _places(text)
    while found is not None:
        start, end = found.span()
        # Not by look-around in the pattern: compiling its ranges takes milliseconds for each phrase.
        is_whole = (
            (known.runs_before or not goes_on(folded[start - 1 : start]))
            and (known.runs_after or not goes_on(folded[end : end + 1]))
            and not (known.runs_before and known.runs_after and cuts_syllable(folded, start, end))
            and (found[0].isascii() or _words_of(found[0]) == known.words)  # a mark between two belongs to the first
            and places.are_ends(start, end)  # a vowel of Hangul belongs to the syllable before it
            and not _is_glued(text, known.marks, *places.of(start, end))
            and (not known.parts or _has_parts(folded, start, end, known))
        )
        if is_whole:
            yield places.of(start, end)
        found = known.found.search(folded, end if is_whole else start + 1)


def _has_parts(folded: str, start: int, end: int, known: _Phrase) -> bool:
    """Whether characters [start, end) of a text, with the marks around them, have the parts of a name.

    "Path Traversal (Multiple Dot)" is said without its '....', and "Path Traversal: '....//'" is not.
    """
    while start > 0 and not folded[start - 1].isalnum():
        start -= 1
    while end < len(folded) and not folded[end].isalnum():
        end += 1
    said = folded[start:end]
    missing = [part for part in known.parts if not has_part(said, part)]
    return not missing or not (has_run_of_marks(said) or any(part in known.marks for part in missing))


def _is_glued(text: str, own: str, start: int, end: int) -> bool:
    """Whether signs beside a phrase make it another one: "C" in "C#", "Lot 5" in "Lot 5.5", "Node" in "Node.js".

    Before it only a number does, of which it has the last digits: "5 mm" in "2.5 mm", "500 kg" in "1,500 kg".

    Args:
        own: the marks at its end.
        start, end: of its words in the text.
    """
    if start >= 2 and _NUMBER_GOES_ON.match(text, start - 2) is not None:
        return True
    found = _GLUED.match(text, end + len(own) * text.startswith(own, end))
    return found is not None and not found[0][-1].isupper()  # "in Acme.Who founded it?"


def _words_of(folded: str) -> list[str]:
    return _word(folded).findall(folded)


def _word(folded: str) -> re.Pattern[str]:
    return _ASCII_WORD if folded.isascii() else _word_with_marks()


# "date_of_birth", as columns of tables are called, is said by who says "date of birth".
_ASCII_WORD = re.compile(r"[^\W_]+")


@cache
def _word_with_marks() -> re.Pattern[str]:
    """A letter or digit, and what follows with its marks: vowel signs too, without which "दिन" would be "दन"."""
    marks = "".join(re.escape(one) for one in map(chr, range(0x300, 0x1F000)) if is_mark(one))
    return re.compile(rf"[^\W_](?:[^\W_]|[{marks}])*")


def folded_text(text: str) -> str:
    """In normal form C, as names are stored, and in lower case, also what has none of its own ("ß" is "ss").

    A Turkish i is one with its dot and without.
    """
    return _plain_i(text if text.isascii() else unicodedata.normalize("NFC", text)).casefold()


def _plain_i(text: str) -> str:
    return text.replace("İ", "i").replace("ı", "i")


class _Places:
    """Which characters of a text its folded form is made of."""

    def __init__(self, text: str) -> None:
        # By character of the folded text; None where each is of the one at its own place.
        self._spans: list[tuple[int, int]] | None = None
        if len(folded_text(text)) != len(text) or not unicodedata.is_normalized("NFC", text):
            self._spans = [span for span, part in _clusters(text) for _ in folded_text(part)]

    def are_ends(self, start: int, end: int) -> bool:
        """Whether [start, end) of the folded form is of whole pieces of the text."""
        spans = self._spans
        return spans is None or (
            (start == 0 or spans[start - 1] != spans[start]) and (end == len(spans) or spans[end - 1] != spans[end])
        )

    def of(self, start: int, end: int) -> tuple[int, int]:
        """[start, end) of the text for [start, end) of its folded form."""
        return (start, end) if self._spans is None else (self._spans[start][0], self._spans[end - 1][1])


@lru_cache(maxsize=8)
def _places(text: str) -> _Places:
    """Kept for a few texts: a question is looked through for many names."""
    return _Places(text)


# A part of a syllable, and one that goes on with it.
_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7a3][\u1160-\u11ff]")


def _clusters(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    """The pieces of a text that are composed each by itself: a character, and the marks and Hangul parts after it."""
    start = 0
    for end in range(1, len(text) + 1):
        if end < len(text) and (unicodedata.category(text[end])[0] == "M" or _HANGUL.match(text, end - 1) is not None):
            continue
        yield (start, end), text[start:end]
        start = end
