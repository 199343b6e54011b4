"""Longer names than a knowledge base has: "iPhone 15 Pro Max" where it knows the iPhone 15 and the iPhone 15 Pro.

What is a part of a name nobody can tell by its letters alone: "When was Obama President?" But where names of the
knowledge base go on behind others, as "iPhone 15 Pro" does behind "iPhone 15", a text that goes on in the same way
behind one of them most likely says another of the family.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from kblam.knowledge.filler import FILLER
from kblam.knowledge.mention import words, words_at

# Relatives of a name that are looked at; words behind it in a text, and the characters that they are looked for in.
_MOST, _FAR, _FAR_CHARACTERS = 64, 5, 200
# What links a name to more of it: "Battle of Hastings", "Storage of Information in the Registry".
_LINKS = frozenset(
    (
        *("of", "in", "for", "to", "with", "by", "from", "on", "at", "via", "as", "the", "a", "an", "into", "within"),
        *("without", "between", "under", "over", "against", "through", "during", "due", "using", "used", "based"),
    )
)


class LongerNames:
    """Names of several words by their first one, so that those that begin as another does are found.

    Args:
        known: names as they are written, by their words with a space between each; shared with who adds them.
    """

    def __init__(self, known: Mapping[str, tuple[str, ...]]) -> None:
        self._known = known
        self._by_first: dict[str, list[str]] = {}
        self._in_order: dict[str, list[str]] = {}  # the same in order of the alphabet, as far as they were looked for

    def add(self, key: str) -> None:
        """One of them, by its words; threads may look meanwhile."""
        first, space, _ = key.partition(" ")
        if space:
            self._by_first.setdefault(first, []).append(key)

    def among(self, known: Mapping[str, tuple[str, ...]]) -> LongerNames:
        """Those that are among these, which are as `LongerNames` has them."""
        rest = LongerNames(known)
        rest._by_first = {first: [key for key in keys if key in known] for first, keys in self._by_first.items()}
        return rest

    def are_said(self, text: str, spans: Iterable[tuple[int, int]], begins: Callable[[str], bool]) -> bool:
        """Whether a text goes on behind each place where it says a name as the name's family does.

        The name has to be written there as it is in the knowledge base. A word with a capital, or with a digit, goes on
        if one of the family goes on with such a word; so do little words that link and then one with a capital or a
        digit, if one of the family goes on with a little word: "Battle of Verdun" beside "Battle of Hastings".

        Args:
            spans: the characters [start, end) of these places.
            begins: whether a text begins with what is asked for, or with what people say in any question.
        """
        families = dict[str, set[str]]()
        is_said = False
        for start, end in spans:
            behind, name = _words_behind(text, end), text[start:end]
            way = _way(behind)
            if way == "" or (way != "link" and behind[0].lower() in FILLER):
                return False
            if way == "capital" and text.isupper():  # where every letter is one, they tell nothing
                return False
            if name not in families:
                key = " ".join(words(name))
                families[name] = set(self._ways(key)) if name in self._known.get(key, ()) else set()
            if way not in families[name] or begins(text[end : end + _FAR_CHARACTERS].lstrip()):
                return False
            is_said = True
        return is_said

    def _ways(self, key: str) -> Iterator[str]:
        """How names of the family go on: behind this name, and it behind shorter ones."""
        alike = self._alike(key.partition(" ")[0])
        first = bisect_left(alike, key + " ")
        for longer in alike[first : first + _MOST]:
            if not longer.startswith(key + " "):
                break
            yield from self._ways_at(longer, key.count(" ") + 1)
        at = key.find(" ")
        while at >= 0:
            if key[:at] in self._known:
                yield from self._ways_at(key, key.count(" ", 0, at) + 1)
            at = key.find(" ", at + 1)

    def _ways_at(self, key: str, place: int) -> Iterator[str]:
        """The way that the word at a place goes on, of each name with these words."""
        for name in self._known.get(key, ()):
            _, start, end = words_at(name)[place]
            yield _link(name[start:end]) or _kind(name[start:end])

    def _alike(self, first: str) -> list[str]:
        """Those with this first word, in order."""
        added, known = self._by_first.get(first, []), self._in_order.get(first, [])
        if len(known) < len(added):
            known = self._in_order[first] = sorted(known + added[len(known) :])
        return known


def _words_behind(text: str, end: int) -> list[str]:
    """The next words behind a place of a text with nothing but spaces between, as they are written.

    A number may stand behind a hyphen too: "737-900".
    """
    rest, found, reached = text[end : end + _FAR_CHARACTERS], list[str](), 0
    for _, start, stop in words_at(rest)[:_FAR]:
        between, word = rest[reached:start], rest[start:stop]
        if not between.isspace() and not (between == "-" and _kind(word) == "number"):
            break
        found.append(word)
        reached = stop
    return found


def _way(behind: Sequence[str]) -> str:
    """How words go on in a name: with a "capital", a "number", or a "link" to one of these; "" if they do not."""
    if behind and _link(behind[0]):
        linked = next((word for word in behind if not _link(word)), "")
        return "link" if _kind(linked) else ""
    return _kind(behind[0]) if behind else ""


def _kind(word: str) -> str:
    return "number" if any(map(str.isdecimal, word)) else "capital" if word[:1].isupper() else ""


def _link(word: str) -> str:
    return "link" if word in _LINKS else ""
