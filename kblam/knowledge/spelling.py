"""Names as people type them: without the marks on letters, apostrophes and stops, and "and" for "&".

Only what leaves no other reading: where the words that were typed may mean something else, they do.
"""

from __future__ import annotations

import re
import unicodedata

from kblam.knowledge.mention import words

# Letters that Unicode does not take apart.
_LETTERS = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h", "ŧ": "t", "ё": "е"}
# What is written for them where a keyboard has none: Mueller, Oedegaard or Odegaard.
_IN_TWO = [str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"}), str.maketrans({"å": "aa"})]
# "ʼ" is a letter to Unicode, but few keyboards have it.
_APOSTROPHES, _LETTER_APOSTROPHES = re.compile(r"['’`´ʼʻ]"), re.compile("[ʼʻ]")
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
# J.K., J. K.
_INITIALS = re.compile(r"\b[^\W\d_](?:\.\s?[^\W\d_]\b)+\.?")
# Latin, Greek, ё, Hebrew and Arabic, and the marks on them; the vowel signs of other scripts are letters.
_MARKED = "\u00c0-\u024f\u0300-\u03ff\u0401\u0451\u0591-\u06ff\u1e00-\u1fff"
_TYPED_OTHERWISE = re.compile(rf"[{_MARKED}&'’`´ʼʻ.]|\band\b", re.IGNORECASE)
_SENTENCE_BEGINS = re.compile(r"(?:^|[.!?:\n])\W*$")
# Who leaves these apostrophes out leaves out others.
_LEFT_OUT = re.compile(r"\b(?:what|who|where|when|how|that)s\b", re.IGNORECASE)


def otherwise(name: str) -> set[str]:
    """How a name may be typed otherwise: its words with a space between; without how it is found anyway."""
    if _TYPED_OTHERWISE.search(name) is None:
        return set()
    together = _INITIALS.sub(_joined, name)
    spelt = {_APOSTROPHES.sub("", together).replace("&", " and "), _LETTER_APOSTROPHES.sub("'", together)}
    spelt |= {_AND.sub(" & ", one) for one in spelt}
    lower = {unicodedata.normalize("NFC", one).casefold() for one in spelt}
    lower |= {one.translate(table) for one in lower for table in _IN_TWO}
    return {" ".join(words(one.translate(_PLAIN))) for one in lower} - {" ".join(words(name)), ""}


def fits(name: str, text: str, start: int, end: int) -> bool:
    """Whether characters [start, end) of a text, which have the words of `otherwise(name)`, can be meant for a name."""
    typed = text[start:end]
    if _AND.search(name) and not _AND.search(typed) and "&" not in typed:
        return False  # "Barnes, Noble"
    initials = {_joined(one).casefold() for one in _INITIALS.finditer(name)}
    if any(word.casefold() in initials and not word.isupper() for word in typed.split()):
        return False  # "us" is not "U.S."
    if any(not one.isspace() and one not in ".-/'’" for one in re.sub(r"[\w&]", "", typed)):
        return False  # a comma, a stop with a new sentence
    if " " in " ".join(words(typed)):
        return True
    # A single word may be any other: "male", "rose", "can".
    is_name = typed[:1].isupper() and not text.isupper()
    return is_name and _SENTENCE_BEGINS.search(text[:start]) is None


def can_own(name: str, text: str, start: int, end: int) -> bool:
    """Whether an "s" behind a name, at the end of [start, end), may be a possessive without its apostrophe.

    Not that of "Adams" or "the Buffalo Bills": of one word alone it says nothing, nor if the name was typed with care.
    """
    spelt, typed = words(name), text[start:end]
    last, written = re.split(r"\s", typed)[-1], re.split(r"\s", name)[-1]
    is_careless = (last[:1].islower() and written[:1].isupper()) or _LEFT_OUT.search(text) is not None
    return len(spelt) > 1 and is_careless and _APOSTROPHES.search(text) is None


def _joined(initials: re.Match[str]) -> str:
    return re.sub(r"[.\s]", "", initials[0])


class _Plain(dict[int, str]):
    """A letter in lower case without its marks, in scripts where people leave them out."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        plain = _LETTERS.get(letter, letter)
        # й and ї are letters of their own.
        if re.match(rf"[{_MARKED}]", letter) is not None and letter not in _LETTERS:
            plain = "".join(one for one in unicodedata.normalize("NFD", letter) if unicodedata.category(one) != "Mn")
        return self.setdefault(code, plain)


_PLAIN = _Plain()
