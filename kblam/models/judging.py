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
from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.mention import Vocabulary, says, without_name
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


class _Compared(NamedTuple):
    """What questions are compared with; never changed, so that threads may read it while the next is made."""

    columns: dict[str, int]  # of the shares: everything, the background, the knowledge base's own
    vectors: Tensor  # (V, P) of the columns' key texts
    said: Vocabulary
    revision: int  # of the knowledge base


class Judge:
    """Reads the signs of one knowledge base's answers, and weighs them by the adapter's `confidence`.

    Args:
        adapter: of the attachment; not kept alive.
        encode: texts to (n, P) float32 vectors, as the adapter takes them.
        properties: of the knowledge base.
    """

    def __init__(
        self, adapter: KnowledgeAdapter, encode: Callable[[list[str]], Tensor], properties: Iterable[str] = ()
    ) -> None:
        self._of, self._encode = weakref.ref(adapter), encode
        self._compared = _Compared({}, torch.empty(0, adapter.config.embedding_dim), Vocabulary(), 0)
        self.compare_with(properties)

    @property
    def adapter(self) -> KnowledgeAdapter:
        """Whose projections and weights it uses, as they are now."""
        adapter = self._of()
        if adapter is None:
            raise KnowledgeError("this judge's adapter is gone; ask judge_of for one of the adapter in use")
        return adapter

    def compare_with(self, properties: Iterable[str], revision: int = 0) -> None:
        """Takes the properties of the knowledge base as they are at a revision, in place of those it had."""
        own = dict.fromkeys(properties)
        mine = Vocabulary(own)
        # What the knowledge base has in more or fewer words is not asked for in place of that.
        background = [one for one in self.adapter.config.background if one in own or not mine.covers(one)]
        texts = list(dict.fromkeys((EVERYTHING, *background, *own)))
        before = self._compared
        new = [one for one in texts if one not in before.columns]
        fresh = self._vectors_of(new)
        vectors = torch.cat([before.vectors, fresh])
        rows = before.columns | {one: len(before.vectors) + row for row, one in enumerate(new)}
        self._compared = _Compared(
            columns={one: column for column, one in enumerate(texts)},
            vectors=vectors[[rows[one] for one in texts]],
            said=Vocabulary([*background, *own]),
            revision=revision,
        )

    def follow(self, knowledge_base: KnowledgeBase) -> None:
        """Takes what has changed in its knowledge base since it was last asked."""
        known, now = self._compared, knowledge_base.revision
        if known.revision == now:
            return
        news = knowledge_base.properties(since=known.revision, most=MOST_PROPERTIES)
        if known.revision and not knowledge_base.has_removed(known.revision) and known.columns.keys() >= set(news):
            self._compared = known._replace(revision=now)
            return
        self.compare_with(knowledge_base.properties(most=MOST_PROPERTIES), now)

    def signs(self, judged: Sequence[Judged]) -> list[Signs]:
        """What speaks for and against each triple as its question's answer."""
        compared = self._compared
        return self._signs(compared, judged, [share for share, _ in self._shares(compared, judged)])

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """How sure each triple's answer is.

        Raises:
            KnowledgeError: the adapter has no weights.
        """
        weights = self.adapter.config.confidence
        if weights is None:
            raise KnowledgeError("this adapter has no confidence; calibrate it (kblam calibrate)")
        compared = self._compared
        shares = self._shares(compared, judged)
        signs = self._signs(compared, judged, [share for share, _ in shares])
        return [
            Verdict(weights.of(one), asks_everything=everything >= _MAJORITY)
            for one, (_, everything) in zip(signs, shares, strict=True)
        ]

    @staticmethod
    def _signs(compared: _Compared, judged: Sequence[Judged], shares: Sequence[float]) -> list[Signs]:
        return [
            Signs(
                mass=one.mass,
                name=float(says(one.question, one.name)),
                property=float(says(one.question, one.property)),
                other=float(compared.said.in_place_of(one.property, one.question, one.name)),
                share=share,
            )
            for one, share in zip(judged, shares, strict=True)
        ]

    def _shares(self, compared: _Compared, judged: Sequence[Judged]) -> list[tuple[float, float]]:
        """(log of the share of the triple's property, share of everything), by each question without the name.

        (0, 0) where the question does not say the name.
        """
        shares = [(0.0, 0.0)] * len(judged)
        if self.adapter.config.question_head is None:
            return shares
        bare = [without_name(one.question, one.name, PRONOUN) for one in judged]
        asked = [row for row, text in enumerate(bare) if text is not None]
        if not asked:
            return shares
        # A property that is not among those compared takes part for its own question alone.
        more = list(dict.fromkeys(one.property for one in judged if one.property not in compared.columns))
        columns = compared.columns | {one: len(compared.columns) + place for place, one in enumerate(more)}
        keys = torch.cat([compared.vectors, self._vectors_of(more)])
        left_out = torch.zeros(len(asked), len(columns), dtype=torch.bool)
        left_out[:, len(compared.columns) :] = True
        for line, row in enumerate(asked):
            left_out[line, columns[judged[row].property]] = False
        found = property_shares(self.adapter, self._encode([str(bare[row]) for row in asked]), keys, left_out).cpu()
        for line, row in enumerate(asked):
            own, everything = found[line, columns[judged[row].property]], found[line, columns[EVERYTHING]].exp()
            shares[row] = (float(own), float(everything))
        return shares

    def _vectors_of(self, properties: list[str]) -> Tensor:
        config = self.adapter.config
        if not properties or config.question_head is None:
            return torch.zeros(len(properties), config.embedding_dim)
        return self._encode([key_text(PRONOUN, one) for one in properties]).cpu()


# By knowledge base and adapter: the vectors of its properties are computed once.
_JUDGES: weakref.WeakKeyDictionary[KnowledgeBase, weakref.WeakKeyDictionary[KnowledgeAdapter, Judge]] = (
    weakref.WeakKeyDictionary()
)
_LOCK = threading.Lock()


def judge_of(adapter: KnowledgeAdapter, knowledge_base: KnowledgeBase) -> Judge | None:
    """The judge of a knowledge base, with all the properties that it has now; None without weights in the adapter.

    Raises:
        EncoderError: the properties cannot be encoded; the next call tries again.
    """
    if adapter.config.confidence is None:
        return None
    with _LOCK:
        judge = _JUDGES.setdefault(knowledge_base, weakref.WeakKeyDictionary()).get(adapter)
    if judge is None:
        # Not the knowledge base itself, which the entry must not keep alive.
        base = weakref.ref(knowledge_base)

        def encode(texts: list[str]) -> Tensor:
            alive = base()
            if alive is None:
                raise KnowledgeError("the knowledge base of this judge is gone")
            return torch.from_numpy(alive.encode(texts)).float()

        judge = Judge(adapter, encode)
        with _LOCK:
            judge = _JUDGES[knowledge_base].setdefault(adapter, judge)
    judge.follow(knowledge_base)
    return judge
