"""How sure it is that a triple answers a question, in one knowledge base: what `known_above` is compared with.

Attention names the triple. Its mass alone does not tell "the founder of A" from "the owner of A" where only one of
them is known. The question's own words do, and so does the question read without its name, compared with all
properties of the knowledge base.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.confidence import Signs
from kblam.adapter.property_shares import EVERYTHING, PRONOUN, property_shares
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.mention import Vocabulary, place_of, without_name, words
from kblam.knowledge.triples import key_text

# Of more different properties those with most triples are compared; beyond, a share says little.
MOST_PROPERTIES = 2000
_MAJORITY = 0.5


class Judged(NamedTuple):
    """A triple that may answer a question.

    Args:
        question: as it was asked.
        name, property: of the triple.
        mass: its attention mass.
    """

    question: str
    name: str
    property: str
    mass: float


class Verdict(NamedTuple):
    """What a judge says of a triple.

    Args:
        confidence: the probability that it answers the question.
        asks_everything: whether the question is about the triple's entity as a whole.
    """

    confidence: float
    asks_everything: bool


class Judge:
    """Reads the signs of one knowledge base's answers, and weighs them by the adapter's `confidence`.

    Args:
        adapter: of the attachment.
        encode: texts to (n, P) float32 vectors, as the adapter takes them.
        properties: of the knowledge base.
    """

    def __init__(
        self, adapter: KnowledgeAdapter, encode: Callable[[list[str]], Tensor], properties: Iterable[str] = ()
    ) -> None:
        self._adapter, self._encode = adapter, encode
        self._own, self._said = Vocabulary(), Vocabulary(adapter.config.background)
        self._columns: dict[str, int] = {}  # of the shares: everything, the background, the knowledge base's own
        self._vectors = torch.empty(0, adapter.config.embedding_dim)
        self._left_out = torch.empty(0, dtype=torch.bool)
        self._lock = threading.Lock()
        self.revision = 0  # of the knowledge base, up to which its properties are here
        self.add(properties)

    def add(self, properties: Iterable[str]) -> None:
        """Further properties of the knowledge base."""
        with self._lock:
            fresh = [one for one in dict.fromkeys(properties) if one not in self._own]
            if not fresh:
                return
            self._own.add(fresh)
            self._said.add(fresh)
            background = self._adapter.config.background
            new = [one for one in dict.fromkeys((EVERYTHING, *background, *fresh)) if one not in self._columns]
            if self._adapter.config.question_head is not None:
                self._vectors = torch.cat([self._vectors, self._encode([key_text(PRONOUN, one) for one in new]).cpu()])
            self._columns |= {one: len(self._columns) + place for place, one in enumerate(new)}
            # What the knowledge base has in more or fewer words is not asked for in place of that.
            self._left_out = torch.zeros(len(self._columns), dtype=torch.bool)
            for one in background:
                self._left_out[self._columns[one]] = one not in self._own and self._own.covers(one)

    def signs(self, judged: Sequence[Judged]) -> list[Signs]:
        """What speaks for and against each triple as its question's answer."""
        return self._signs(judged, [share for share, _ in self._shares(judged)])

    def _signs(self, judged: Sequence[Judged], shares: Sequence[float]) -> list[Signs]:
        return [
            Signs(
                mass=one.mass,
                name=float(place_of(words(one.question), words(one.name)) is not None),
                property=float(place_of(words(one.question), words(one.property)) is not None),
                other=float(self._said.in_place_of(one.property, one.question, one.name)),
                share=share,
            )
            for one, share in zip(judged, shares, strict=True)
        ]

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """The probability that each triple answers; without weights in the adapter its attention mass."""
        weights = self._adapter.config.confidence
        if weights is None:
            return [Verdict(one.mass, asks_everything=False) for one in judged]
        shares = self._shares(judged)
        signs = self._signs(judged, [share for share, _ in shares])
        return [
            Verdict(weights.of(one), asks_everything=everything >= _MAJORITY)
            for one, (_, everything) in zip(signs, shares, strict=True)
        ]

    def _shares(self, judged: Sequence[Judged]) -> list[tuple[float, float]]:
        """(log of the share of the triple's property, share of everything), by each question without the name.

        (0, 0) where the question does not say the name.
        """
        if self._adapter.config.question_head is None:
            return [(0.0, 0.0)] * len(judged)
        bare = [without_name(one.question, one.name, PRONOUN) for one in judged]
        if not (asked := list(dict.fromkeys(text for text in bare if text is not None))):
            return [(0.0, 0.0)] * len(judged)
        self.add(one.property for one in judged)
        found = property_shares(self._adapter, self._encode(asked), self._vectors, self._left_out).cpu()
        rows = {text: row for row, text in enumerate(asked)}
        everything = found[:, self._columns[EVERYTHING]].exp()
        return [
            (0.0, 0.0)
            if text is None
            else (float(found[rows[text], self._columns[one.property]]), float(everything[rows[text]]))
            for text, one in zip(bare, judged, strict=True)
        ]


# By knowledge base and adapter: the vectors of its properties are computed once.
_JUDGES: weakref.WeakKeyDictionary[KnowledgeBase, weakref.WeakKeyDictionary[KnowledgeAdapter, Judge]] = (
    weakref.WeakKeyDictionary()
)
_LOCK = threading.Lock()


def judge_of(adapter: KnowledgeAdapter, knowledge_base: KnowledgeBase) -> Judge:
    """The judge of a knowledge base, with all the properties that it has now.

    Raises:
        EncoderError: the properties cannot be encoded.
    """
    with _LOCK:
        judges = _JUDGES.setdefault(knowledge_base, weakref.WeakKeyDictionary())
        if adapter not in judges:
            # Not the knowledge base itself, which the entry must not keep alive.
            base = weakref.ref(knowledge_base)
            judges[adapter] = Judge(adapter, lambda texts: torch.from_numpy(base().encode(texts)).float())  # type: ignore[union-attr]
        judge = judges[adapter]
    if adapter.config.confidence is not None and judge.revision != (now := knowledge_base.revision):
        judge.add(knowledge_base.properties(since=judge.revision, most=MOST_PROPERTIES))
        judge.revision = now
    return judge
