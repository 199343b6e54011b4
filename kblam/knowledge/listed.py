"""Names that differ in their number, said once for several: "Order 1005, 1006 and 1007", "orders 1005 and 1006".

Only where all that is left out is known: "1006" is Order 1006 if there is such a name, and none that is 1006 alone. A
number that another word follows ends no list without an "and": "Order 1005, 2 boxes" is one order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kblam.knowledge.mention import spans_of
from kblam.knowledge.spelling import Typed

Found = tuple[int, int, str]
Known = Mapping[str, Sequence[str]]

_AND = frozenset(("and", "or"))
_BETWEEN = re.compile(r",\s+|,?\s*(?P<last>&)\s*|,?\s+(?P<and>and|or)\s+", re.IGNORECASE)
_GOES_ON = re.compile(r"\s+(?!(?:and|or)\b)[^\W\d_]", re.IGNORECASE)
# Characters behind a number that tell whether it goes on: 1006.5
_BEYOND = 2


def listed(typed: Typed, known: Known, longest: int) -> Iterator[Found]:
    """The words [first, last) of a text that mean a name of such a list without saying it, and the name.

    Args:
        typed: the text.
        known: the names that have the same words, by these.
        longest: how many words a name has at most.
    """
    at = 0
    while at < len(typed.words):
        found = _list_at(typed, at, known, longest) if _is_number(typed, at) else []
        yield from found
        at = found[-1][1] if found else at + 1


def _list_at(typed: Typed, at: int, known: Known, longest: int) -> list[Found]:
    """What a list means whose first number is a word."""
    for first in range(max(0, at + 1 - longest), at):
        kind, number = typed.key(first, at), typed.words[at][0]
        if f"{kind} {number}" in known:
            return _further(typed, at, known, kind)
        one = _only(known, f"{kind[:-1]} {number}") if kind.endswith("s") else None
        if one is not None and (more := _further(typed, at, known, kind[:-1])):
            return [(first, at + 1, one), *more]
    return []


def _further(typed: Typed, at: int, known: Known, kind: str) -> list[Found]:
    """The numbers that follow a number in a list, as names of a kind."""
    found: list[Found] = []
    after = _after(typed, at)
    while after is not None and typed.words[after][0] not in known:
        name = _only(known, f"{kind} {typed.words[after][0]}")
        if name is None:
            break
        found.append((after, after + 1, name))
        after = _after(typed, after)
    return found


def _after(typed: Typed, at: int) -> int | None:
    """The word that is the next number of a list; None where it ends."""
    after = at + 1 + (at + 1 < len(typed.words) and typed.words[at + 1][0] in _AND)
    if after >= len(typed.words) or not _is_number(typed, after):
        return None
    _, start, end = typed.words[after]
    between = _BETWEEN.fullmatch(typed.text, typed.words[at][2], start)
    if between is None or (between.lastgroup is None and _GOES_ON.match(typed.text, end)):
        return None
    is_whole = next(spans_of(typed.text[start : end + _BEYOND], typed.text[start:end]), None) == (0, end - start)
    return after if is_whole else None


def _is_number(typed: Typed, at: int) -> bool:
    return any(one.isdigit() for one in typed.words[at][0])


def _only(known: Known, key: str) -> str | None:
    names = known.get(key, ())
    return names[0] if len(names) == 1 else None
