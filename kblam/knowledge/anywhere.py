"""Names that stand in texts without a space beside them: of scripts without spaces, and those without any letter."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from kblam.knowledge.edges import RUNS_ON
from kblam.knowledge.mention import folded_text, spans_of

# Ideographs and syllables say in two what letters say in three; shorter ones are parts of too many words.
_DENSE = re.compile(r"[\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")

Said = tuple[str, int, int]  # a name's key, the characters [start, end) of a text


class Anywhere:
    """Names to be looked for at each character of a text; those of other scripts are not kept."""

    def __init__(self) -> None:
        # By its longest word, or first mark: what it is called by, and the name.
        self._names: dict[str, list[tuple[str, str]]] = {}
        self._lengths: dict[str, tuple[int, ...]] = {}  # of these words, by their first character

    def add(self, key: str, name: str, said: Sequence[str]) -> None:
        """One of them; threads may look meanwhile.

        Args:
            key: what it is to be called by.
            name: its text.
            said: its words.
        """
        if said and (name.isascii() or not _may_stand_anywhere(said)):
            return
        known_by = max(said, key=len) if said else folded_text(name.strip())[0]
        self._names.setdefault(known_by, []).append((key, name))
        self._lengths[known_by[0]] = tuple({*self._lengths.get(known_by[0], ()), len(known_by)})

    def among(self, there: Collection[str]) -> Anywhere:
        """Those whose text is among these."""
        rest = Anywhere()
        rest._names = {one: [(key, name) for key, name in names if name in there] for one, names in self._names.items()}
        rest._lengths = dict(self._lengths)
        return rest

    def said_in(self, text: str) -> list[Said]:
        """Those that a text says, each as often as it does, in any order."""
        found = self._looked_up(folded_text(text)) if self._names else ()
        return [(key, start, end) for key, name in found for start, end in spans_of(text, name)]

    def _looked_up(self, text: str) -> Iterator[tuple[str, str]]:
        starts = (text[at : at + length] for at, one in enumerate(text) for length in self._lengths.get(one, ()))
        for known_by in dict.fromkeys(starts):
            for key, name in self._names.get(known_by, ()):
                # Thousands may share their longest word; `spans_of` of each would take seconds.
                if not known_by[0].isalnum() or all(word in text for word in key.split(" ")):
                    yield key, name


def _may_stand_anywhere(said: Sequence[str]) -> bool:
    name = "".join(said)
    return RUNS_ON.search(name) is not None and len(name) >= (3 if _DENSE.search(name) is None else 2)
