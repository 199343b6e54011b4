"""The names of a knowledge base, to be found in texts."""

from __future__ import annotations

from collections.abc import Iterable

from kblam.knowledge.mention import words

# Names of more words are not looked for; a few hundred look-ups a sentence.
_LONGEST = 24


class Names:
    """Names by their words, in any case. About 100 bytes a name.

    Args:
        names: their texts.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._longest = 0
        self.add(names)

    def add(self, names: Iterable[str]) -> None:
        """More of them. Threads may look meanwhile."""
        for name in names:
            said = words(name)
            if 0 < len(said) <= _LONGEST:
                self._longest = max(self._longest, len(said))
                self._known.add(" ".join(said))

    def said_in(self, text: str) -> set[str]:
        """The words, each with a space between, of the names that a text says; none that is part of a longer one there.

        In scripts without spaces a name is only found if it stands alone.
        """
        said = words(text)
        found: set[str] = set()
        reached = 0
        for start in range(len(said)):
            # Whatever begins here and ends no later than an earlier one is part of that.
            for end in range(min(len(said), start + self._longest), max(start, reached), -1):
                if (name := " ".join(said[start:end])) in self._known:
                    found.add(name)
                    reached = end
                    break
        return found
