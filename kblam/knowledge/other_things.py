"""A name as a part of what means something else: "West Virginia", "Guinea-Bissau", "the age of Ann's mother".

`LongerNames` tells by other names of the knowledge base; here the words beside a name tell, in English.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from kblam.knowledge.filler import FILLER
from kblam.knowledge.mention import says_property, words, words_at

Begins = Callable[[str], bool]

# What a text has beside a name is looked for in so many characters.
_FAR = 200
_COMPASS = """
north south east west northeast northwest southeast southwest northern southern eastern western northeastern
northwestern southeastern southwestern
"""
# Of these "the new Acme" says only what Acme is like, and "New York" names something else.
_PARTS = "new old upper lower inner outer greater little equatorial papua"
_ARTICLES = "the a an this that these those my your his her its our their whose which what any some every each no"
_BEFORE_NAMES = "of in for to from at about near around on"
# "Acme's founder's name" and "the location of the headquarters of Acme" ask for these, and "Acme's last year's revenue"
# for Acme's.
_ASKED_OF = """
name names full title identity value amount size level type kind location place site address seat date year time meaning
description extent currency unit language status
"""
_DAYS = "year month week quarter season today yesterday tomorrow tonight decade"
_DIRECTIONS, _MAY_BE_PART = frozenset(_COMPASS.split()), frozenset(_PARTS.split())
_DETERMINERS, _PREPOSITIONS = frozenset(_ARTICLES.split()), frozenset(_BEFORE_NAMES.split())
NOTHING_ELSE, _TIMES = frozenset(_ASKED_OF.split()), frozenset(_DAYS.split())
_JOIN = frozenset(("and", "or", "s", "with"))
_WORDS_BEFORE = re.compile(r"(?:(?<![^\W_])([^\W_]+)\s+)?(?<![^\W_])([^\W\d_]+)\s+$")
_HYPHENS = "-\u2010\u2011"
_HYPHEN_BEFORE = re.compile(rf"(?<![^\W_])([^\W_])[^\W_]*[{_HYPHENS}]$")
_OWNS = re.compile(r"(?:['’]s|(?<=[sS])['’])\s+")
# What somebody has, who has something again: "Ann's mother's phone number", "Acme's chief engineer's office".
_OWNS_AGAIN = re.compile(r"((?:[^\W\d_]+[ -]){0,2}[^\W\d_]+)(?:['’]s|(?<=[sS])['’])\s+([^\W_]+)")
_OF = re.compile(r"\b(?:of|for)\s+$", re.IGNORECASE)
_OF_WHAT = re.compile(r"\s+(?:of|for)\s+(?:the\s+)?([^?.!,;:]{1,60}?)\s+(?:of|for|at|in)\s+(?:the\s+)?$", re.IGNORECASE)
_LONGEST_PROPERTY = 4  # words of one that is looked for before another
_STEM = 4  # letters that words of one stem begin with


def is_in_compound(text: str, start: int, end: int, begins: Begins) -> bool:
    """Whether a name that a text says at [start, end) is a part of another there: by the word before it, or a hyphen.

    A compass point makes another name of every one. So does a word such as "New" that is written as the name is, with a
    capital or without, unless it may only describe it: not in "the New Acme", nor in "is new acme open".

    Args:
        begins: whether a text begins with what is asked for, as in "the Acme-CEO".
    """
    is_written = text[start].isupper() and not text.isupper()  # else capitals tell nothing
    if is_written:
        behind = text[end + 1 : end + 2] if text[end : end + 1] in _HYPHENS else ""
        if behind.isupper() and not begins(text[end + 1 : end + _FAR]):
            return True
        before = _HYPHEN_BEFORE.search(text, max(0, start - _FAR), start)
        if before is not None and before[1].isupper():
            return True
    found = _WORDS_BEFORE.search(text, max(0, start - _FAR), start)
    if found is None:
        return False
    earlier, word = (found[1] or "").lower(), found[2]
    if word.lower() in _DIRECTIONS:
        return True
    if word.lower() not in _MAY_BE_PART or earlier in _DETERMINERS:
        return False
    if is_written:
        return word[0].isupper()
    return word[0].isupper() == text[start].isupper() and (not earlier or earlier in _PREPOSITIONS)


def owns_what_is_meant(
    text: str, start: int, end: int, begins: Begins, is_asked: Begins, properties: Collection[str]
) -> bool:
    """Whether a text is about something that belongs to whom it names at [start, end).

    That is: "Ann's mother's phone number", whatever is asked for; "the phone number of Ann's mother", where it says a
    property of Ann before and none behind; "the phone number of the CEO of Acme", where both are properties and Acme
    has the second.

    Args:
        begins: whether a text begins with a property, or with what people say in any question.
        is_asked: whether words are a property.
        properties: those of the name.
    """
    owns = _OWNS.match(text, end)
    if owns is None:
        return _is_of_its_own(text, start, is_asked, properties)
    rest = text[owns.end() : owns.end() + _FAR]
    again = _OWNS_AGAIN.match(rest)
    if again is not None and again[2].lower() not in NOTHING_ELSE:
        between = set(words(again[1]))
        if not between & (_TIMES | _JOIN) and not between & FILLER:
            return True
    before = _OF.search(text, max(0, start - _FAR), start)
    behind = _next_words(rest)
    if before is None or not behind or behind[0] in FILLER or begins(rest):
        return False
    asking = text[max(0, before.start() - _FAR) : before.start()]
    if not any(says_property(asking, one) for one in properties):
        return False
    own = {word for one in properties for word in words(one)}
    return not any(is_akin(word, one) for word in behind for one in own)


def _is_of_its_own(text: str, start: int, is_asked: Begins, properties: Collection[str]) -> bool:
    """Whether a property is asked of a property of the name: the "phone number of the CEO of" it."""
    found = _OF_WHAT.search(text, max(0, start - _FAR), start)
    if found is None:
        return False
    inner = words(found[1])
    if not any(words(one) == inner for one in properties):
        return False
    before = text[max(0, found.start() - _FAR) : found.start()]
    for _, at, _ in words_at(before)[-_LONGEST_PROPERTY:]:
        if not is_asked(before[at:]):
            continue
        outer = words(before[at:])
        is_one = any(all(any(is_akin(word, own) for own in words(one)) for word in outer) for one in properties)
        return outer[-1] not in NOTHING_ELSE and (not is_one or any(words(one) == outer for one in properties))
    return False


def is_akin(one: str, other: str) -> bool:
    """Whether two words are one, or of one stem: "employees" and "employee"."""
    return one == other or (len(other) >= _STEM and one[:_STEM] == other[:_STEM])


def _next_words(text: str) -> list[str]:
    """The words that a text begins with, as far as nothing but spaces is between."""
    found, reached = list[str](), 0
    for word, start, end in words_at(text):
        if found and not text[reached:start].isspace():
            break
        found.append(word)
        reached = end
    return found
