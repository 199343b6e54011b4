"""The names of a knowledge base, to be found in texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kblam.knowledge.mention import words, words_at
from kblam.knowledge.spelling import Word, otherwise, plain_words

# Names of more words are not looked for; a few hundred look-ups a sentence.
_LONGEST = 24
# "His" is none of somebody called Hi.
_SHORTEST_OWNER = 3
# Of a property that follows a name, so many words are looked at.
_LONGEST_PROPERTY = 8


class Names:
    """Names by their words, in any case. About 200 bytes a name.

    Args:
        names: their texts.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known: dict[str, tuple[str, ...]] = {}  # the names of the same words
        self._otherwise: dict[str, tuple[str, ...]] = {}  # of the few that are often typed otherwise
        self._longest = 0
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """More of them. Threads may look meanwhile."""
        for name in names:
            said = words(name)
            if 0 < len(said) <= _LONGEST:
                self._longest = max(self._longest, len(said))
                _put(self._known, " ".join(said), name)
                for text in otherwise(name):
                    self._longest = max(self._longest, text.count(" ") + 1)
                    _put(self._otherwise, text, name)

    def said_in(self, text: str) -> set[str]:
        """The words, each with a space between, of the names that a text says; none that is part of a longer one there.

        In scripts without spaces a name is only found if it stands alone.
        """
        said = words(text)
        return {" ".join(said[start:end]) for start, end in self._runs(said)}

    def meant_in(self, text: str) -> list[str]:
        """The names that a text says, as they are written; none that is part of a longer one there."""
        return [name for one in self.said_in(text) for name in self._known[one]]

    def spans_in(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each name, where it is first said; of two that overlap the first."""
        said, found = words_at(text), dict[str, tuple[int, int]]()
        reached = 0
        for start, end in self._runs([word for word, _, _ in said]):
            if start >= reached:
                found.setdefault(" ".join(word for word, _, _ in said[start:end]), (said[start][1], said[end - 1][2]))
                reached = end
        return list(found.values())

    def as_meant(self, text: str, is_property: Callable[[str], bool]) -> str:
        """The text with the names that it types otherwise as they are written: "jose alvarez" as "José Álvarez".

        `spelling` says how they may be typed. An "s" between a name and a property is a possessive: "ann lees height" is
        "Ann Lee's height". What is said word for word stays, and so does what may mean several names.

        Args:
            text: a question.
            is_property: whether words are a property, in any case.
        """
        said = words_at(text)
        to_the_word = [(said[start][1], said[end - 1][2]) for start, end in self._runs([word for word, _, _ in said])]
        meant, at = "", 0
        for start, end, name in self._typed_otherwise(text, is_property):
            if all(stop <= start or end <= first or _is_part(first, stop, start, end) for first, stop in to_the_word):
                meant += text[at:start] + name
                at = end
        return meant + text[at:]

    def _typed_otherwise(self, text: str, is_property: Callable[[str], bool]) -> Iterator[tuple[int, int, str]]:
        """(start, end, what is meant) of the characters that mean one name, of the longest; none overlaps another."""
        said, reached = plain_words(text), 0
        for first in range(len(said)):
            for last in range(min(len(said), first + self._longest) - 1, max(first, reached) - 1, -1):
                key = " ".join(word.text for word in said[first : last + 1])
                meant = self._one_name(key)
                if meant is None and key.endswith("s") and len(key) > _SHORTEST_OWNER:
                    owner = self._one_name(key[:-1])
                    if owner is not None and _begins_with_property(text, said[last + 1 :], is_property):
                        meant = f"{owner}'s"
                if meant is not None:
                    yield said[first].start, said[last].end, meant
                    reached = last + 1
                    break

    def _one_name(self, key: str) -> str | None:
        """The one name that plain words mean; None if they mean none, or several."""
        found = {*self._known.get(key, ()), *self._otherwise.get(key, ())}
        return next(iter(found)) if len(found) == 1 else None

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


def _put(into: dict[str, tuple[str, ...]], key: str, name: str) -> None:
    alike = into.get(key, ())
    if name not in alike:
        into[key] = (*alike, name)


def _is_part(start: int, end: int, whole_start: int, whole_end: int) -> bool:
    """Whether [start, end) is a part of a longer stretch."""
    return whole_start <= start and end <= whole_end and end - start < whole_end - whole_start


def _begins_with_property(text: str, said: Sequence[Word], is_property: Callable[[str], bool]) -> bool:
    """Whether words of a text begin with a property, or with several of a kind: "height", "phone numbers"."""
    ends = [word.end for word in said[:_LONGEST_PROPERTY]]
    after = [text[said[0].start : end] for end in ends]
    return any(is_property(one) or (one.endswith("s") and is_property(one[:-1])) for one in after)
