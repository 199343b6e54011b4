"""Words of WordNet: the half of them whose glosses never appear in training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kblam.data.lexicon import lexicon
from kblam.data.real.texts import cut
from kblam.data.wordnet import Synset, first_senses, is_for_training, synsets
from kblam.knowledge.triples import Triple

_CLASSES = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}


def read(folder: Path) -> Iterator[Triple]:
    """Yields meaning, word class, synonym, broader term and example of each word, in its first meaning."""
    taken: set[str] = set()
    trained = {gloss for _, gloss in lexicon().glosses}  # some meanings of different words are told alike
    for pos, word_class in _CLASSES.items():
        every = {synset.offset: synset for synset in synsets(folder, pos)}
        first = first_senses(folder, pos)
        for synset in every.values():
            word = synset.lemmas[0]
            if is_for_training(word) or word.lower() in taken:
                continue
            if (
                first.get(word.lower().replace(" ", "_")) == synset.offset
                and (meaning := cut(synset.definition))
                and meaning not in trained
            ):
                taken.add(word.lower())
                yield Triple(word, "meaning", meaning)
                yield Triple(word, "word class", word_class)
                yield from _further(synset, every)


def _further(synset: Synset, every: dict[str, Synset]) -> Iterator[Triple]:
    word, *synonyms = synset.lemmas
    if synonyms:
        yield Triple(word, "synonym", ", ".join(synonyms[:3]))
    if synset.broader and synset.broader in every:
        yield Triple(word, "broader term", every[synset.broader].lemmas[0])
    if example := re.search(r'"([^"]+)"', synset.gloss):
        yield Triple(word, "example", example[1].strip())
