"""The properties of a knowledge base, to be found in texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from kblam.knowledge.identifiers import forms
from kblam.knowledge.mention import apart_from, place_of, words


class Vocabulary:
    """The properties of a knowledge base, to be found in questions.

    Args:
        properties: their texts.
    """

    def __init__(self, properties: Iterable[str] = ()) -> None:
        self._known = {named for one in properties for form in forms(one) if (named := tuple(words(form)))}
        self._sets = {frozenset(named) for named in self._known}
        self._longest = max(map(len, self._known), default=0)

    def __contains__(self, property: str) -> bool:
        """Whether it is one of them, in any case and as a column's name too."""
        return any(tuple(words(form)) in self._known for form in forms(property))

    def covers(self, property: str) -> bool:
        """Whether one of these says the same in more or fewer words, and so may be what somebody means by it."""
        asked = [set(words(form)) for form in forms(property)]
        return any(one <= known or one >= known for known in self._sets for one in asked)

    def said_in(self, text: str, name: str) -> Said:
        """The properties that a text says, a name aside."""
        named = words(name)
        # Where a name is a property too, the further places may be that.
        said = apart_from(words(text), named, once=tuple(named) in self._known)
        runs = (
            tuple(said[start : start + length])
            for start in range(len(said))
            for length in range(1, min(self._longest, len(said) - start) + 1)
        )
        return Said(said, {run for run in runs if run in self._known})


def either(is_property: Callable[[str], bool], background: tuple[str, ...]) -> Callable[[str], bool]:
    """Whether words are a property of a knowledge base or of a background, in any case."""
    known = _of_background(background)
    return lambda text: is_property(text) or text in known


@lru_cache(maxsize=8)
def _of_background(properties: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(properties)


class Said:
    """The properties of a knowledge base that one text says.

    Args:
        text: its words, without the name.
        properties: by their words.
    """

    def __init__(self, text: list[str], properties: set[tuple[str, ...]]) -> None:
        self._text, self._properties = text, properties

    def is_other(self, *called: str) -> bool:
        """Whether another property is said and not this one.

        A property of which all words are also this one's is no other: "number" is not, beside "phone number".

        Args:
            called: the property, by each of its names.
        """
        mine = [words(form) for one in called for form in forms(one)]
        own = {word for form in mine for word in form}
        if any(place_of(self._text, form) is not None for form in mine):
            return False
        return any(not own.issuperset(run) for run in self._properties)
