"""The names of a knowledge base, to be found in texts."""

from __future__ import annotations

import copy
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from operator import itemgetter

from kblam.knowledge.anywhere import Anywhere, Said
from kblam.knowledge.edges import QUOTES
from kblam.knowledge.filler import FILLER
from kblam.knowledge.listed import listed
from kblam.knowledge.longer_names import LongerNames
from kblam.knowledge.mention import is_by_words, says, spans_of, words, words_at
from kblam.knowledge.other_things import is_in_compound, owns_what_is_meant
from kblam.knowledge.spelling import (
    PLAIN,
    Typed,
    can_own,
    fits,
    identifier_in_words,
    in_place,
    is_joint,
    keeps_marks,
    otherwise,
)
from kblam.knowledge.stock_phrases import STOCK_PHRASES
from kblam.stops import STOPS

IsProperty = Callable[[str], bool]

# Names of more words are not looked for; a few hundred look-ups a sentence.
_LONGEST = 24
# Of a property that follows a name, so many words are looked at.
_LONGEST_PROPERTY = 8
_OF = frozenset(("of", "for"))
_IS = frozenset(("what", "who", "where", "when", "how", "that", "there", "here", "it", "he", "she", "let"))  # what's
_STOPS = STOPS | {":"}
_PHRASE_WORDS = frozenset(word for phrase in STOCK_PHRASES for word in words(phrase))
_SIDES = re.compile(r"[&,]|\band\b", re.IGNORECASE)


class Names:
    """Names by their words, in any case. 150 to 300 bytes a name.

    Args:
        names: their texts.
        of_entities: whether a name of words that any question has, such as "one" or "US", counts beside others only
            where it is in quotes, or written with its capitals where no sentence begins; and so does one that is part
            of a stock phrase, beside others or not. Properties have no capitals.
    """

    def __init__(self, names: Iterable[str] = (), *, of_entities: bool = True) -> None:
        self._of_entities = of_entities
        self._known: dict[str, tuple[str, ...]] = {}  # the names of the same words
        self._otherwise: dict[str, tuple[str, ...]] = {}  # of those that are often typed otherwise
        self._anywhere = Anywhere()
        self._longer = LongerNames(self._known)
        self._longest = 0
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """More of them. Threads may look meanwhile."""
        for name in names:
            said, key = _words_and_key(name)
            is_none = not said and not (key and self._of_entities)
            if is_none or len(said) > _LONGEST or name in self._known.get(key, ()):
                continue
            self._anywhere.add(key, name, said)
            if key not in self._known:
                self._longer.add(key)
            _put(self._known, key, name)
            if said:
                self._longest = max(self._longest, len(said))
                for text in otherwise(name):
                    if (length := text.count(" ") + 1) <= _LONGEST:
                        self._longest = max(self._longest, length)
                        _put(self._otherwise, text, name)

    def as_now(self, now: Iterable[str]) -> Names:
        """These, if they are all among the names that there are now; else others, without what is gone.

        Those that are new are none of them until they are added. Threads may look meanwhile, into these as they are.
        """
        there = frozenset(now)
        gone = [name for alike in self._known.values() for name in alike if name not in there]
        if not gone:
            return self
        rest = copy.copy(self)
        rest._known, rest._otherwise = dict(self._known), dict(self._otherwise)
        for name in gone:
            _take(rest._known, _words_and_key(name)[1], name)
            for text in otherwise(name):
                _take(rest._otherwise, text, name)
        rest._longer, rest._anywhere = self._longer.among(rest._known), self._anywhere.among(there)
        return rest

    def looks_for(self, name: str) -> bool:
        """Whether it is one of them; those of too many words are not."""
        return name in self._known.get(_words_and_key(name)[1], ())

    def said_in(self, text: str) -> set[str]:
        """The words, each with a space between, of the names that a text says; none that is part of a longer one there.

        Of a name without words itself.
        """
        return {name for name, _, _ in self._said(text)}

    def meant_in(self, text: str) -> list[str]:
        """The names that a text says, as they are written, in the order of the text; none within a longer one there."""
        said = dict.fromkeys(name for name, _, _ in self._said(text))
        return [name for one in said for name in self._known[one] if _is_said(text, name)]

    def only_in_other(self, text: str, name: str, is_asked: IsProperty, properties: Collection[str] = ()) -> bool:
        """Whether a text says this name only as a part of what means something else.

        With more behind it that makes a longer name of its family (`LongerNames`), or with words beside it that make
        something else of any name (`other_things`).

        Args:
            is_asked: whether words are a property, in any case: "Acme Annual Revenue" is no longer name.
            properties: those of this name, as they may be said.
        """

        def begins(behind: str) -> bool:  # with a property, or "Kind regards"
            said = words_at(behind)[:_LONGEST_PROPERTY]
            first = next(_stock_phrases()._runs([word for word, _, _ in said]), None)
            return (first is not None and first[0] == 0) or _begins_with_property(behind, said, is_asked)

        places = list(spans_of(text, name))
        alone = [
            place
            for place in places
            if not is_in_compound(text, *place, begins)
            and not owns_what_is_meant(text, *place, begins, is_asked, properties)
        ]
        return bool(places) and (not alone or self._longer.are_said(text, alone, begins))

    def spans_in(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each name, where it is first said; of two that overlap the first."""
        found = dict[str, tuple[int, int]]()
        reached = 0
        for name, start, end in self._said(text):
            if start >= reached:
                found.setdefault(name, (start, end))
                reached = end
        return list(found.values())

    def as_meant(self, text: str, is_property: IsProperty, may_be_property: IsProperty | None = None) -> str:
        """The text with the names that it types otherwise as they are written: "jose alvarez" as "José Álvarez".

        `spelling` says how they may be typed. An "s" between a name and a property may be a possessive: "ann lees
        height" is "Ann Lee's height". What is said word for word stays, and so does what may mean several names.

        Args:
            text: a question.
            is_property: whether words are a property, in any case.
            may_be_property: whether they are one that people ask for, whether or not the knowledge base has it; then
                they are no `PhoneNumber`.
        """
        typed, is_asked = Typed(text), may_be_property or is_property
        exact = list(self._runs([word for word, _, _ in typed.words]))
        meant, at, place = "", 0, 0
        meanings = [*self._typed_otherwise(typed, is_property, is_asked), *listed(typed, self._known, self._longest)]
        for first, last, name in _apart(sorted(meanings)):
            # Both come in the order of the text.
            while place < len(exact) and exact[place][1] <= first:
                place += 1
            beyond = place
            while beyond < len(exact) and exact[beyond][0] < last:
                beyond += 1
            # A name that is said word for word is left alone, if it is no part of what is meant.
            if all(first <= one and other <= last and other - one < last - first for one, other in exact[place:beyond]):
                start, end = typed.words[first][1], typed.words[last - 1][2]
                meant += text[at:start] + in_place(name, text, start, end)
                at = end
        return meant + text[at:]

    def _typed_otherwise(
        self, typed: Typed, is_property: IsProperty, is_asked: IsProperty
    ) -> Iterator[tuple[int, int, str]]:
        """The words [first, last) that mean one name, and what they mean; the longest of each first word."""
        reached = 0
        for first in range(len(typed.words)):
            for last in range(min(len(typed.words), first + self._longest), max(first, reached), -1):
                meant = self._meant_by(typed, first, last, is_property, is_asked)
                if meant is not None:
                    yield first, last, meant
                    reached = last
                    break

    def _meant_by(
        self, typed: Typed, first: int, last: int, is_property: IsProperty, is_asked: IsProperty
    ) -> str | None:
        """What words [first, last) mean if they are one name typed otherwise."""
        key = typed.key(first, last)
        name = _one(self._otherwise.get(key, ()))
        if name is None and not key.isascii() and (plain := key.translate(PLAIN)) != key:
            name = _one(self._otherwise.get(plain, ()))
            name = name if name is not None and keeps_marks(name, key.split(" ")) else None
        if (
            name is not None
            and fits(name, typed, first, last)
            and not (is_joint(name) and self._are_two(typed, first, last, is_property))
            and not (identifier_in_words(name) and self._are_asked_for(typed, first, last, is_asked))
        ):
            return name
        if not key.endswith("s") or key.endswith("ss") or key in self._otherwise:
            return None
        owner = _one({*self._known.get(key[:-1], ()), *self._otherwise.get(key[:-1], ())})
        if owner is None or not can_own(owner, typed, first, last):
            return None
        if is_joint(owner) and key[:-1] not in self._known:  # "tom and jerrys height"
            return None
        following = typed.words[last : last + _LONGEST_PROPERTY]
        return f"{owner}'s" if _begins_with_property(typed.text, following, is_property) else None

    def _are_asked_for(self, typed: Typed, first: int, last: int, is_asked: IsProperty) -> bool:
        """Whether words [first, last) may be what is asked for, or a part of it, or a name and what is asked of it."""
        said = typed.words
        before = [word for word, _, _ in said[max(0, first - 2) : first]]
        if (last < len(said) and said[last][0] in _OF) or (before[-1:] == ["s"] and before[0] not in _IS):
            return True  # "the phone number of ...", "Ann's last name"
        for begin in range(max(0, last - _LONGEST_PROPERTY), last):
            for end in range(max(first, begin) + 1, min(len(said), first + _LONGEST_PROPERTY) + 1):
                is_inside = first <= begin and end <= last and end - begin < last - first
                if is_inside and not self._is_name_beside(typed, first, last, begin, end):
                    continue
                text = typed.text[said[begin][1] : said[end - 1][2]]
                if is_asked(text) or (text.endswith("s") and is_asked(text[:-1])):
                    return True
        return False

    def _is_name_beside(self, typed: Typed, first: int, last: int, begin: int, end: int) -> bool:
        """Whether words [first, last) without [begin, end), which are at one of their ends, are a name."""
        rest = (end, last) if begin == first else (first, begin) if end == last else None
        return rest is not None and typed.key(*rest) in self._known

    def _are_two(self, typed: Typed, first: int, last: int, is_property: IsProperty) -> bool:
        """Whether words that may be a name with "and" mean something else: two names or properties."""
        text, start, end = typed.text, typed.words[first][1], typed.words[last - 1][2]
        sides = [" ".join(words(side)) for side in _SIDES.split(text[start:end])]
        if any(side in self._known or side in self._otherwise or is_property(side) for side in sides):
            return True
        return any(is_property(text[start:stop]) for _, _, stop in typed.words[last - 1 : last + _LONGEST_PROPERTY])

    def _said(self, text: str) -> list[tuple[str, int, int]]:
        """The names that a text says, by their words, and the characters [start, end) of each, in their order there."""
        said = words_at(text)
        alone = [
            (" ".join(word for word, _, _ in said[first:last]), said[first][1], said[last - 1][2])
            for first, last in self._runs([word for word, _, _ in said])
        ]
        runs = self._outside_phrases(text, said, _outermost([*alone, *self._anywhere.said_in(text)]))
        whole = {name for name in {name for name, _, _ in runs} if self._is_whole(text, name)}
        everyday = {name for name in whole if self._of_entities and FILLER.issuperset(name.split(" "))}
        return [
            (name, start, end)
            for name, start, end in runs
            if name in whole and (everyday == whole or name not in everyday or self._is_marked(text, name, start, end))
        ]

    def _outside_phrases(self, text: str, said: Sequence[tuple[str, int, int]], runs: list[Said]) -> list[Said]:
        """Those that are no part of a stock phrase there, as "mind" is of "Would you mind ...?", but where marked."""
        if not self._of_entities or all(_PHRASE_WORDS.isdisjoint(name.split(" ")) for name, _, _ in runs):
            return runs
        found = _stock_phrases()._runs([word for word, _, _ in said])
        phrases = [(said[first][1], said[last - 1][2]) for first, last in found]

        def is_part(start: int, end: int) -> bool:
            # Of those that begin no later the last one ends last.
            at = bisect_right(phrases, start, key=itemgetter(0))
            first, last = phrases[at - 1] if at else (start, start)
            return end <= last and end - start < last - first

        return [one for one in runs if not is_part(one[1], one[2]) or self._is_marked(text, *one)]

    def _is_marked(self, text: str, name: str, start: int, end: int) -> bool:
        """Whether characters of a text are marked as a name: by quotes, or by capitals that begin no sentence."""
        if start > 0 and end < len(text) and text[start - 1] in QUOTES and text[end] in QUOTES:
            return True
        is_written = any(text[start:end] == one != one.lower() for one in self._known[name])
        return is_written and not _begins_sentence(text, start)

    def _is_whole(self, text: str, key: str) -> bool:
        """Whether a text that has the words of a name says it: it does not if "get" is a part of "get_user"."""
        return any(_is_said(text, one) for one in self._known[key])

    def _runs(self, said: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Which words [start, end) are a name."""
        reached = 0
        for start in range(len(said)):
            # Whatever begins here and ends no later than an earlier one is part of that.
            for end in range(min(len(said), start + self._longest), max(start, reached), -1):
                if " ".join(said[start:end]) in self._known:
                    yield start, end
                    reached = end
                    break


@cache
def _stock_phrases() -> Names:
    return Names(STOCK_PHRASES, of_entities=False)


def _is_said(text: str, name: str) -> bool:
    """Of a text that has the words of a name."""
    return is_by_words(text, name) or says(text, name)


def _begins_sentence(text: str, at: int) -> bool:
    """Whether nothing but marks stands between a place in a text and its beginning or a stop."""
    while at > 0 and not text[at - 1].isalnum():
        if text[at - 1] in _STOPS:
            return True
        at -= 1
    return at == 0


def _outermost(said: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Those that are no part of another, in the order of the text."""
    kept, reached = list[tuple[str, int, int]](), 0
    for one in sorted(dict.fromkeys(said), key=lambda one: (one[1], -one[2])):
        if one[2] > reached:
            kept.append(one)
            reached = one[2]
    return kept


def _one(names: Collection[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _apart(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Those that overlap no other: of "enrique pena nieto" nobody knows which two of the words are a name."""
    return [
        one
        for at, one in enumerate(found)
        if (at == 0 or found[at - 1][1] <= one[0]) and (at + 1 == len(found) or one[1] <= found[at + 1][0])
    ]


def _words_and_key(name: str) -> tuple[list[str], str]:
    """The words of a name, and what it is known by: these with a space between, or itself where it has none."""
    said = words(name)
    return said, " ".join(said) or name.strip()


def _put(into: dict[str, tuple[str, ...]], key: str, name: str) -> None:
    alike = into.get(key, ())
    if name not in alike:
        into[key] = (*alike, name)


def _take(out_of: dict[str, tuple[str, ...]], key: str, name: str) -> None:
    """What `_put` put there, if it did."""
    rest = tuple(one for one in out_of.get(key, ()) if one != name)
    if rest:
        out_of[key] = rest
    else:
        out_of.pop(key, None)


def _begins_with_property(text: str, said: Sequence[tuple[str, int, int]], is_property: IsProperty) -> bool:
    """Whether words of a text begin with a property, or with several of a kind: "height", "phone numbers"."""
    after = [text[said[0][1] : end] for _, _, end in said]
    return any(is_property(one) or (one.endswith("s") and is_property(one[:-1])) for one in after)
