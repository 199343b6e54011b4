"""Names of several words as people type them: no marks on letters, no apostrophes and stops, "and" for "&".

`OrderService` is a name of several words too, typed "order service".

Only where another reading is unlikely. A single word may always be another one ("male" is not Malé), and so may what is
typed as a part of a longer name, over the end of a sentence, or as a list.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from kblam.knowledge.edges import marked_parts
from kblam.knowledge.identifiers import in_words
from kblam.knowledge.mention import words, words_at
from kblam.stops import STOPS

# Letters that Unicode does not take apart.
_LETTERS = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h", "ŧ": "t", "ё": "е"}
# What is written for them where a keyboard has none: Mueller, Oedegaard or Odegaard.
_IN_TWO = [str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"}), str.maketrans({"å": "aa"})]
# "ʼ" is a letter to Unicode, but few keyboards have it.
_APOSTROPHES, _LETTER_APOSTROPHES = re.compile(r"['’`´ʼʻ]"), re.compile("[ʼʻ]")
# What a name without its apostrophes and marks must not consist of: these are other words.
_CONTRACTIONS = frozenset(
    (
        "a",
        "the",
        "cant",
        "hed",
        "hell",
        "id",
        "ill",
        "its",
        "lets",
        "shed",
        "shell",
        "wed",
        "well",
        "were",
        "whore",
        "wont",
    )
)
# What an identifier must not begin or end with to be looked for in words: `ForEach`, `DoIt`, `LogIn`.
_LITTLE = re.compile(
    "a|about|after|again|all|an|and|any|are|as|at|back|be|been|before|both|but|by|can|could|did|do|does|down|each|every|"
    "few|for|from|get|go|had|has|have|he|her|his|how|i|if|in|into|is|it|its|just|many|may|me|more|most|much|must|my|no|"
    "not|now|of|off|on|one|only|or|other|our|out|over|say|she|should|so|some|still|such|than|that|the|their|them|then|"
    "there|these|they|this|those|to|too|under|up|us|very|was|we|were|what|when|where|which|who|whom|whose|why|will|with|"
    "would|yet|you|your"
)
_AND = re.compile(r"\sand\s", re.IGNORECASE)
# J.K., J. K.
_INITIALS = re.compile(r"\b[^\W\d_](?:\.\s?[^\W\d_]\b)+\.?")
# Latin, Greek, ё, Hebrew and Arabic, and the marks on them; the vowel signs of other scripts are letters.
_MARKED = "\u00c0-\u024f\u0300-\u03ff\u0401\u0451\u0591-\u06ff\u1e00-\u1fff"
# In any case of "and" alone: "ſ" is a marked letter, and "s" is one in any case.
_TYPED_OTHERWISE = re.compile(rf"[{_MARKED}&'’`´ʼʻ.]|(?i:\band\b)")
# Who leaves these apostrophes out leaves out others.
_LEFT_OUT = re.compile(r"\b(?:what|who|where|when|how|that)s\b", re.IGNORECASE)
# Before "buffalo bills" these say that the "s" is the name's, or that what follows is a verb.
_NO_OWNER = frozenset(("a", "an", "the", "which", "these", "those", "all", "do", "does", "did", "can", "will", "would"))
# These end with an "s" of their own.
_OWN_S = frozenset(("its", "is", "as", "us", "his", "has", "was", "does", "this"))


class Typed:
    """A text, and what is asked of it more than once.

    Args:
        text: a question.
    """

    def __init__(self, text: str) -> None:
        self.text, self.words = text, words_at(text)

    @cached_property
    def is_careless(self) -> bool:
        """Whether an apostrophe was left out that everybody knows."""
        return _LEFT_OUT.search(self.text) is not None

    @cached_property
    def has_apostrophe(self) -> bool:
        return _APOSTROPHES.search(self.text) is not None

    def key(self, first: int, last: int) -> str:
        """The words [first, last), a space between."""
        return " ".join(word for word, _, _ in self.words[first:last])

    def gaps(self, first: int, last: int) -> list[str]:
        """What stands between the words [first, last)."""
        inside = self.words[first:last]
        return [self.text[end:start] for (_, _, end), (_, start, _) in pairwise(inside)]

    def as_typed(self, place: int) -> str:
        """A word with its capitals; empty where there is none."""
        return self.text[self.words[place][1] : self.words[place][2]] if 0 <= place < len(self.words) else ""

    def is_part_of_more(self, first: int, last: int) -> bool:
        """Whether a word with a capital stands beside these, which have capitals too: "Rose Lee" in "Rose Lee Ltd".

        Or whether they are a part of an identifier: "user" and "name" in "get_user name".
        """
        before, after = self.as_typed(first - 1), self.as_typed(last)
        text, start, end = self.text, self.words[first][1], self.words[last - 1][2]
        if text[:start].endswith("_") or text.startswith("_", end):
            return True
        if before[:1].isupper() and text[start].isupper() and text[self.words[first - 1][2] : start] == " ":
            begins = self.words[first - 1][1]
            # The first word of a sentence has a capital of its own.
            if begins and text[begins - 2 : begins - 1] not in STOPS:
                return True
        return after[:1].isupper() and self.as_typed(last - 1)[:1].isupper() and text[end : self.words[last][1]] == " "


def otherwise(name: str) -> set[str]:
    """How a name may be typed otherwise: its words with a space between; without how it is found anyway.

    Nothing for one that has a part that must be said to the letter.
    """
    found = _spelt_otherwise(name) if _TYPED_OTHERWISE.search(name) is not None else set()
    if not name[1:].islower() and (said := identifier_in_words(name)):
        found.add(said)
        if _TYPED_OTHERWISE.search(said) is not None:  # `ÖlPreis` is oel preis too
            found |= {one for one in _spelt_otherwise(said) if not _has_little_end(one.split(" "))}
    return set() if found and marked_parts(name) else found


def _spelt_otherwise(name: str) -> set[str]:
    together = _INITIALS.sub(_joined, name)
    spelt = {_APOSTROPHES.sub("", together).replace("&", " and "), _LETTER_APOSTROPHES.sub("'", together)}
    spelt |= {_AND.sub(" & ", one) for one in spelt}
    lower = {unicodedata.normalize("NFC", one).casefold() for one in spelt}
    plain = {one.translate(table).translate(PLAIN) for one in lower for table in ({}, *_IN_TWO)}
    own = words(name)
    found = {" ".join(words(one)) for one in lower | plain} - {" ".join(own), ""}
    return {one for one in found if _CONTRACTIONS.isdisjoint({*one.split(" ")} - {*own})}


def identifier_in_words(name: str) -> str:
    """The words of an identifier with capitals inside, a space between: `OrderService` is order service. Else nothing.

    Nor is there anything for one that begins or ends with a little word: "do it" is not `DoIt`.
    """
    if not name.isalnum():
        return ""
    said = words(in_words(name))
    return "" if len(said) < 2 or _has_little_end(said) else " ".join(said)


def _has_little_end(said: Sequence[str]) -> bool:
    return any(map(_LITTLE.fullmatch, (said[0], said[-1])))


def fits(name: str, typed: Typed, first: int, last: int) -> bool:
    """Whether words [first, last) of a text, which are those of `otherwise(name)`, can mean nothing but a name."""
    if last - first < 2 or typed.is_part_of_more(first, last):
        return False
    own, gaps = Typed(name), typed.gaps(first, last)
    allowed = {" ", "-", *own.gaps(0, len(own.words))}
    if is_joint(name):
        allowed |= {" & ", "&"}
        if not any("&" in gap for gap in gaps) and "and" not in typed.key(first, last).split(" "):
            return False  # "Barnes, Noble"
        if all(len(word) == 1 for word in typed.key(first, last).split(" ") if word != "and"):
            return False  # "vitamins a and e"
    if _LETTER_APOSTROPHES.search(name) is not None:
        allowed |= {"'", "’", "`"}
    if not allowed.issuperset(gaps):
        return False
    initials = {_joined(one).casefold().translate(PLAIN) for one in _INITIALS.finditer(name)}
    spelt = [typed.as_typed(place) for place in range(first, last)]
    if not all(word.isupper() for word in spelt if word.casefold() in initials):
        return False  # "us" is not "U.S."
    return not initials or not all(word.isupper() for word in spelt)


def keeps_marks(name: str, said: Sequence[str]) -> bool:
    """Whether words in lower case have no mark but those of a name: "josé alvarez" of "José Álvarez"."""
    own = words(name)
    pairs = zip(own, said, strict=True) if len(own) == len(said) else ()
    letters = [zip(mine, word, strict=True) if len(mine) == len(word) else () for mine, word in pairs]
    return bool(letters) and all(
        bool(each := list(of_word)) and all(typed in (letter, PLAIN[ord(letter)]) for letter, typed in each)
        for of_word in letters
    )


def can_own(name: str, typed: Typed, first: int, last: int) -> bool:
    """Whether an "s" behind a name, at the end of words [first, last), may be a possessive without its apostrophe.

    Not that of "Adams" or "the Buffalo Bills": of one word alone it says nothing, nor if the name was typed with care.
    """
    own = Typed(name)
    if len(own.words) < 2 or typed.has_apostrophe or typed.is_part_of_more(first, last):
        return False
    if not {" ", "-", *own.gaps(0, len(own.words))}.issuperset(typed.gaps(first, last)):
        return False
    end = typed.words[last - 1][2]
    if last == len(typed.words) or typed.text[end : typed.words[last][1]] != " ":
        return False
    if any(word in _NO_OWNER for word, _, _ in typed.words[max(0, first - 2) : first]):
        return False
    # No initials: "give us presidents names" is not about the U.S. President.
    if typed.words[last - 1][0] in _OWN_S or _INITIALS.search(name) is not None:
        return False
    is_lower = typed.as_typed(last - 1)[:1].islower() and own.as_typed(len(own.words) - 1)[:1].isupper()
    return is_lower or typed.is_careless


def in_place(name: str, text: str, start: int, end: int) -> str:
    """A name to stand for characters [start, end) of a text, without the marks at its ends that stand there already."""
    spelt = words_at(name)
    before, after = name[: spelt[0][1]], name[spelt[-1][2] :]
    name = name[len(before) :] if before and text.endswith(before, 0, start) else name
    return name[: -len(after)] if after and text.startswith(after, end) else name


def is_joint(name: str) -> bool:
    """Whether a name joins two: "Tom & Jerry"."""
    return "&" in name or _AND.search(name) is not None


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


PLAIN = _Plain()
