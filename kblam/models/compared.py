"""What a question without its name is compared with: everything, the properties of a knowledge base, and a background.

The background is what people ask for (`AdapterConfig.background`): a base that has no phone numbers is not to answer
with another number. Of it, what the base has too, in other words or under another name, is no rival of that. What it
has under another name is compared for it: of the column "word class" people ask as of the part of speech.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kblam.adapter.property_head import DESCRIBING_ALL, EVERYTHING
from kblam.knowledge.identifiers import forms, key
from kblam.knowledge.mention import says_property, words
from kblam.knowledge.names import Names
from kblam.knowledge.other_names import meant_by
from kblam.knowledge.vocabulary import Vocabulary

# What no entity of a knowledge base has is asked for less often than what some have, and part of it is only what the
# base has under a name that nobody knows to mean the same. Everything is no property either.
_OF_NONE = 0.1


class Compared(NamedTuple):
    """Never changed, so that threads may read it while the next is made."""

    columns: Mapping[str, int]  # of the shares: everything, the background, the knowledge base's own
    shown: tuple[tuple[str, ...], ...]  # the spellings of each column, first the one that its vector is of
    own: Tensor  # bool (V,), everything and the knowledge base's own
    rivalry: Tensor  # float32 (V,), what of each column's share counts against an entity that lacks the property
    means: Mapping[str, tuple[str, ...]]  # by a property of the knowledge base, the background's that mean the same
    joined: Mapping[int, int]  # a column of the background to the only one of the base's own that means the same
    properties: Vocabulary  # the knowledge base's own
    vectors: Tensor  # (V, P) of the columns' key texts
    said: Vocabulary  # these and the background
    texts: Names  # of all columns, to be found in questions
    by_words: Mapping[str, list[int]]  # the columns that a text found so means
    describing: Mapping[int, str]  # the columns that describe the whole, and their words
    revision: int  # of the knowledge base

    @staticmethod
    def of(
        properties: Iterable[str],
        background: tuple[str, ...],
        vectors_of: Callable[[list[str]], Tensor],
        *,
        before: Compared | None = None,
        revision: int = 0,
    ) -> Compared:
        """What questions to a knowledge base are compared with.

        Args:
            properties: of the knowledge base.
            background: of the adapter.
            vectors_of: properties to the (n, P) vectors of their key texts.
            before: whose vectors are taken over.
            revision: of the knowledge base.
        """
        own = dict.fromkeys(properties)
        mine, means, only = Vocabulary(own), *_meant(own, background)
        # What the knowledge base has in more or fewer words is not asked for in place of that.
        rivals = [one for one in background if one in own or not (one in only or mine.covers(one))]
        compared = list(dict.fromkeys((EVERYTHING, *rivals, *(one for one in only if only[one] is not None), *own)))
        spellings, by_words = dict[str, list[str]](), dict[str, list[int]]()
        for one in compared:
            spellings.setdefault(key(one), []).append(one)
        shown = tuple(map(tuple, spellings.values()))
        columns = {one: column for column, of_column in enumerate(shown) for one in of_column}
        # Who says what several columns mean says each of them.
        several = [(other, columns[one]) for one in means for other in means[one] if only[other] is None]
        for one, column in (*columns.items(), *several):
            for form in dict.fromkeys(" ".join(words(form)) for form in forms(one)):
                if column not in (known := by_words.setdefault(form, [])):
                    known.append(column)
        joined = {columns[one]: columns[column] for one, column in only.items() if column is not None}
        is_own = torch.zeros(len(shown), dtype=torch.bool, device="cpu")
        is_own[[columns[one] for one in (EVERYTHING, *own)]] = True
        rivalry = torch.full_like(is_own, _OF_NONE, dtype=torch.float32)
        rivalry[[columns[one] for one in own]] = 1.0
        rivalry[list(joined)] = 0.0  # theirs is in the share of what they are joined to
        return Compared(
            columns=columns,
            shown=shown,
            own=is_own,
            rivalry=rivalry,
            means=means,
            joined=joined,
            properties=mine,
            vectors=_vectors(shown, vectors_of, before),
            said=Vocabulary([*compared, *only]),
            texts=Names((form for one in (*compared, *only) for form in forms(one)), of_entities=False),
            by_words=by_words,
            describing={
                column: one
                for one in sorted(DESCRIBING_ALL)
                for column in by_words.get(one, ())
                if column not in joined
            },
            revision=revision,
        )

    def called(self, property: str) -> tuple[str, ...]:
        """A property, and what the background calls it."""
        return (property, *self.means.get(property, ()))

    def words_said(self, texts: Collection[str], more: Sequence[str]) -> Tensor:
        """(texts, columns and `more`) float32: of how many words each property is that a text says word for word."""
        said = torch.zeros(len(texts), len(self.vectors) + len(more), dtype=torch.float32, device="cpu")
        for line, text in enumerate(texts):
            for found in self.texts.said_in(text):
                for column in self.by_words[found]:
                    said[line, column] = _length(self.shown[column][0])
            for column, one in enumerate(more, len(self.vectors)):
                said[line, column] = _length(one) * says_property(text, one)
        return said

    def join(self, logs: Tensor) -> Tensor:
        """Shares (texts, columns and more), as logs, where the properties that have joined columns have theirs too.

        The columns keep theirs: a triple's property may be that itself, though it is not among those compared.
        """
        for column, into in self.joined.items():
            logs[:, into] = torch.logaddexp(logs[:, into], logs[:, column])
        return logs


def _meant(
    own: Collection[str], background: tuple[str, ...]
) -> tuple[dict[str, tuple[str, ...]], dict[str, str | None]]:
    """By a property of the knowledge base, what it is called in the background; and of that, the only one, or None."""
    spelled = set(map(key, own))
    means: dict[str, tuple[str, ...]] = {}
    only: dict[str, str | None] = {}
    for one in own:
        if others := tuple(other for other in meant_by(one, background) if key(other) not in spelled):
            means[one] = others
        for other in others:
            only[other] = one if key(only.get(other, one) or "") == key(one) else None
    return means, only


def _vectors(
    shown: Sequence[Sequence[str]], vectors_of: Callable[[list[str]], Tensor], before: Compared | None
) -> Tensor:
    rows = {} if before is None else {of_column[0]: row for row, of_column in enumerate(before.shown)}
    new = [of_column[0] for of_column in shown if of_column[0] not in rows]
    vectors = vectors_of(new) if before is None else torch.cat([before.vectors, vectors_of(new)])
    rows |= {one: len(vectors) - len(new) + row for row, one in enumerate(new)}
    return vectors[[rows[of_column[0]] for of_column in shown]]


def _length(prop: str) -> int:
    """Of how many words a property is, where it is said in words."""
    return len(words(forms(prop)[-1]))
