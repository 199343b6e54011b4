"""The properties of a knowledge base, to be found in texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from kblam.knowledge.identifiers import in_words
from kblam.knowledge.mention import place_of, words

# Whole words with underscores inside; an identifier of a program is one.
_WORD = re.compile(r"\w+")


class Vocabulary:
    """The properties of a knowledge base, to be found in questions.

    Args:
        properties: their texts.
    """

    def __init__(self, properties: Iterable[str] = ()) -> None:
        self._known, self._identifiers = set[tuple[str, ...]](), dict[str, str]()
        for one in properties:
            if named := tuple(words(in_words(one))):
                self._known.add(named)
            if in_words(one) != one:
                self._identifiers[one.casefold()] = in_words(one)
        self._sets = {frozenset(named) for named in self._known}
        self._longest = max(map(len, self._known), default=0)

    def __contains__(self, property: str) -> bool:
        """Whether it is one of them, in any case and as a column's name too."""
        return tuple(words(in_words(property))) in self._known

    def in_words(self, text: str, names: Callable[[str], Sequence[tuple[int, int]]]) -> str:
        """A text with those of them that it says as a program writes them in words: "A's dateOfBirth?".

        Args:
            text: a question.
            names: the characters [start, end) that are names in a text; these stay.
        """
        if not self._identifiers:
            return text
        found = [word for word in _WORD.finditer(text) if word[0].casefold() in self._identifiers]
        taken = names(text) if found else ()
        for word in reversed(found):
            if not any(start < word.end() and word.start() < end for start, end in taken):
                text = text[: word.start()] + self._identifiers[word[0].casefold()] + text[word.end() :]
        return text

    def covers(self, property: str) -> bool:
        """Whether one of these says the same in more or fewer words, and so may be what somebody means by it."""
        asked = set(words(in_words(property)))
        return any(asked <= known or asked >= known for known in self._sets)

    def said_in(self, text: str, name: str) -> Said:
        """The properties that a text says, a name aside."""
        said, named = words(text), words(name)
        if (at := place_of(said, named)) is not None:
            said[at : at + len(named)] = [""]
        runs = (
            tuple(said[start : start + length])
            for start in range(len(said))
            for length in range(1, min(self._longest, len(said) - start) + 1)
        )
        return Said(said, {run for run in runs if run in self._known})


class Said:
    """The properties of a knowledge base that one text says.

    Args:
        text: its words, without the name.
        properties: by their words.
    """

    def __init__(self, text: list[str], properties: set[tuple[str, ...]]) -> None:
        self._text, self._properties = text, properties

    def is_other(self, property: str) -> bool:
        """Whether another property is said and not this one.

        A property of which all words are also this one's is no other: "number" is not, beside "phone number".
        """
        mine = words(in_words(property))
        own = set(mine)
        return place_of(self._text, mine) is None and any(not own.issuperset(run) for run in self._properties)
