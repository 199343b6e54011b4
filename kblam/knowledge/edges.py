"""Where a name may begin and end in a text: words of most scripts end at a space or mark, and pictures are whole."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from kblam.stops import STOPS

# Thai to Khmer, kana, ideographs, Hangul with its particles: words run into each other there.
RUNS_ON = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
# Of Thai and Lao: vowels that are written before the consonant they follow, and those that belong to one before them.
_LEADS, _FOLLOWS = (
    re.compile(r"[\u0e40-\u0e44\u0ec0-\u0ec4]"),
    re.compile(r"[\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3]"),
)
QUOTES = "\"'`“”‘’«»"
# How a picture is to be shown, which is the same picture; what makes another one of it.
_SHOWN = "[\ufe0e\ufe0f]?"
_JOINER, _CHANGES = "\u200d", re.compile("[\u200d\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]*$")
_LONGEST_RUN = 64  # flags in a row that are counted
# Marks that sentences are made of: only in quotes they are a name.
_USUAL = re.compile(rf"[{re.escape(''.join(sorted(STOPS)))},;:…\-–—'\"’”()\[\]{{}}]+")
_AT_END = re.compile(r"[.,;:!?]*(?:\s|$)")
_IN_QUOTES = re.compile(rf"(?<!\w)[{QUOTES}]([^\s{QUOTES}]+)[{QUOTES}](?!\w)")
_RUN_OF_MARKS = re.compile(r"[^\w\s]{2,}")


def marked_parts(name: str) -> list[str]:
    """What a name has in quotes that marks tell from others: the "../a" of "Path: '../a'", the "..." of "It: '...'"."""
    parts = _IN_QUOTES.findall(name)
    return [part for part in parts if re.search(r"\w", part) is None or has_run_of_marks(part)]


def has_part(text: str, part: str) -> bool:
    """Whether a text has such a part to the letter, as a whole; with or without its quotes."""
    at = text.find(part)
    while at >= 0:
        end = at + len(part)
        is_begin = at == 0 or text[at - 1].isspace() or text[at - 1] in QUOTES or text[at - 1] in ":(["
        if is_begin and (text[end : end + 1] in (*QUOTES, ")", "]") or _AT_END.match(text, end) is not None):
            return True
        at = text.find(part, at + 1)
    return False


def has_run_of_marks(text: str) -> bool:
    """Whether a text has several marks together that are none of a sentence's."""
    return any(not _USUAL.fullmatch(run) for run in _RUN_OF_MARKS.findall(text))


def is_mark(character: str) -> bool:
    """Whether it belongs to the letter before it. Those for symbols, as in the keycap of a digit, do not."""
    return (
        unicodedata.category(character) in ("Mn", "Mc")
        and not "\u20d0" <= character <= "\u20ff"
        and (not "\ufe00" <= character <= "\ufe0f")
    )


def goes_on(character: str) -> bool:
    """Whether a word of a script with spaces has this character; none at a text's end.

    An underscore too: "get" is a part of "get_user".
    """
    is_part = re.match(r"\w", character) is not None or (bool(character) and is_mark(character))
    return is_part and RUNS_ON.match(character) is None


def cuts_syllable(text: str, start: int, end: int) -> bool:
    """Whether characters [start, end) of a text in a script without spaces begin or end within a syllable."""
    before, after = text[start - 1 : start] if start else "", text[end : end + 1]
    is_open = bool(after) and (is_mark(after) or _FOLLOWS.match(after) is not None)
    return is_open or _LEADS.match(before) is not None


def places_of_marks(text: str, name: str) -> Iterator[tuple[int, int]]:
    """The characters [start, end) of each place where a text says a name without letters and digits, to the letter.

    A picture, such as an emoji, may stand anywhere beside none that makes it another one, and not within a word. Other
    marks have to stand in quotes, or, if they are several and no usual ones, by themselves: "What does ++ do?"
    """
    name = name.strip()
    if not name:
        return
    is_picture = all(map(_is_of_picture, name)) and any(unicodedata.category(one) == "So" for one in name)
    letters = [re.escape(one) for one in name if not is_picture or one not in "\ufe0e\ufe0f"]
    for found in re.finditer(_SHOWN.join([*letters, ""]) if is_picture else "".join(letters), text):
        start, end = found.span()
        if (_is_whole_picture if is_picture else _is_apart)(text, start, end):
            yield start, end


def _is_of_picture(character: str) -> bool:
    is_other = character == "\ufe0e" or character == "\ufe0f" or _CHANGES.match(character) is not None
    return is_other or unicodedata.category(character) == "So"


def _is_whole_picture(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if before == _JOINER or goes_on(before) or goes_on(after):
        return False
    if after and (_CHANGES.match(after) or unicodedata.category(after).startswith("M")):
        return False
    # Two letters are a flag: the second of one and the first of the next are none.
    flags = _FLAG.search(text, max(0, start - _LONGEST_RUN), start)
    return _FLAG.match(text[start]) is None or flags is None or len(flags[0]) % 2 == 0


def _is_apart(text: str, start: int, end: int) -> bool:
    if start > 0 and end < len(text) and text[start - 1] in QUOTES and text[end] in QUOTES:
        return True
    if end - start < 2 or _USUAL.fullmatch(text, start, end):
        return False
    return (start == 0 or text[start - 1].isspace()) and _AT_END.match(text, end) is not None
