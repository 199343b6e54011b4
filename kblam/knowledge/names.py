"""The names of a knowledge base, to be found in texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kblam.knowledge.mention import words, words_at

# Names of more words are not looked for; a few hundred look-ups a sentence.
_LONGEST = 24


class Names:
    """Names by their words, in any case. About 200 bytes a name.

    Args:
        names: their texts.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known: dict[str, tuple[str, ...]] = {}  # the names of the same words
        self._longest = 0
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """More of them. Threads may look meanwhile."""
        for name in names:
            said = words(name)
            if 0 < len(said) <= _LONGEST:
                self._longest = max(self._longest, len(said))
                alike = self._known.get(text := " ".join(said), ())
                if name not in alike:
                    self._known[text] = (*alike, name)

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
