"""Which of the triples that attention found answers a question, and how sure that is.

Attention finds the triples. Its mass alone does not tell "the founder of A" from "the owner of A", nor A from a longer
name that contains it. The question's own words do, and so does the question read without the name, compared with all
properties of the knowledge base.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.confidence import Signs
from kblam.adapter.property_head import PRONOUN, PropertyHead
from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.encoders import layered
from kblam.knowledge.encoders.checked import encoded
from kblam.knowledge.identifiers import spoken
from kblam.knowledge.mention import says, says_property, to_the_letter, without_name
from kblam.knowledge.names import Names
from kblam.knowledge.triples import key_text
from kblam.knowledge.vocabulary import either
from kblam.models.compared import Compared
from kblam.models.shares import Share, Shares
from kblam.models.weights import probe

# Of more different properties those with most triples are compared; beyond, a share says little.
MOST_PROPERTIES = 2000
# A question's candidates: so many triples with most mass, and so many of names that it says.
CANDIDATES, CANDIDATES_NAMED = 16, 64
# Triples of a name that a question says which are looked at, beside the strongest; a prefill is far dearer.
MOST_OF_NAME = 1024
_MAJORITY = 0.5
# Added to the score of a property for each of its words, where a question says it word for word.
_SAID = 2.0


class Candidate(NamedTuple):
    """A triple that may answer a question.

    Args:
        name, property: of the triple.
        mass: its attention mass.
    """

    name: str
    property: str
    mass: float


class Judged(NamedTuple):
    """A question, as it was asked, and the triples that may answer it."""

    question: str
    candidates: Sequence[Candidate]


class Verdict(NamedTuple):
    """What a judge says of one question, of each candidate in turn.

    Args:
        confidences: the probability that it is the one that answers; together at most 1.
        asks_everything: whether the question is about its entity as a whole.
        named: whether the question says its name, and means it.
    """

    confidences: tuple[float, ...]
    asks_everything: tuple[bool, ...]
    named: tuple[bool, ...]


class _Keys(NamedTuple):
    """Properties as the head's weights made them at one moment."""

    vectors: Tensor  # (V, P), those of a `Compared`
    image: Tensor  # (1, width), what they make of one fixed vector
    keys: Tensor  # (V, width)


class Judge:
    """Reads the signs of one knowledge base's triples, and weighs them by the adapter's `confidence`.

    Args:
        adapter: of the attachment; not kept alive.
        encode: texts to (n, (L + 1) P) float32, as an encoder with the L `property_layers` of the adapter gives them:
            the last P are the sentence vectors.
        properties, names: of the knowledge base.
        head: what compares properties; None takes the adapter's. Without any there are no shares.
    """

    def __init__(
        self,
        adapter: KnowledgeAdapter,
        encode: Callable[[list[str]], Tensor],
        properties: Iterable[str] = (),
        names: Iterable[str] = (),
        head: PropertyHead | None = None,
    ) -> None:
        self._of, self._encode, self._given = weakref.ref(adapter), encode, head
        self._kept: _Keys | None = None
        self._following = threading.Lock()
        self._names = Names(names)
        self._compared = self._compare(properties)

    @property
    def adapter(self) -> KnowledgeAdapter:
        """Whose heads and weights it uses, as they are now."""
        adapter = self._of()
        if adapter is None:
            raise KnowledgeError("this judge's adapter is gone; ask judge_of for one of the adapter in use")
        return adapter

    @property
    def _head(self) -> PropertyHead | None:
        return self.adapter.property_head if self._given is None else self._given

    def compare_with(self, properties: Iterable[str], revision: int = 0) -> None:
        """Takes the properties of the knowledge base as they are at a revision, in place of those it had."""
        self._compared = self._compare(properties, self._compared, revision)

    def _compare(self, properties: Iterable[str], before: Compared | None = None, revision: int = 0) -> Compared:
        background = self.adapter.config.background
        return Compared.of(properties, background, self._vectors_of, before=before, revision=revision)

    def follow(self, knowledge_base: KnowledgeBase) -> None:
        """Takes what has changed in its knowledge base since it was last asked."""
        if self._compared.revision != knowledge_base.revision:
            # One thread at a time: else one that was slow could put the names of before beside the newest revision.
            with self._following:
                self._follow(knowledge_base)

    def _follow(self, knowledge_base: KnowledgeBase) -> None:
        known, now = self._compared, knowledge_base.revision
        if known.revision == now:
            return
        is_less = knowledge_base.has_removed(known.revision)
        names = self._names.as_now(knowledge_base.names()) if is_less else self._names
        names.add(knowledge_base.names(since=known.revision))
        self._names = names
        if known.revision and not is_less:
            new = knowledge_base.properties(since=known.revision, most=MOST_PROPERTIES)
            if all(one in known.columns and known.own[known.columns[one]] for one in new):
                self._compared = known._replace(revision=now)
                return
        self.compare_with(knowledge_base.properties(most=MOST_PROPERTIES), now)

    def says_a_name(self, text: str) -> bool:
        """Whether a text says a name of the knowledge base, word for word: nearly nothing else counts as known."""
        return bool(self._names.said_in(text))

    def as_meant(self, text: str, background: tuple[str, ...] = ()) -> str:
        """A question with the names of the knowledge base that it types otherwise as they are written there.

        Args:
            background: properties that people ask for, whether or not the knowledge base has them.
        """
        return self._names.as_meant(text, self.is_property, either(self.is_property, background))

    def names_meant(self, text: str) -> list[str]:
        """The names of the knowledge base that a text says, as they are written there."""
        return self._names.meant_in(text)

    def names_in(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) of each name of the knowledge base that a text says, in their order there."""
        return self._names.spans_in(text)

    def is_property(self, text: str) -> bool:
        """Whether these words are a property of the knowledge base, in any case."""
        return text in self._compared.properties

    def signs(self, judged: Sequence[Judged]) -> list[list[Signs]]:
        """What speaks for and against each candidate as its question's answer."""
        compared = self._compared
        return [self._signs(compared, *each) for each in self._with_shares(compared, judged)]

    def verdicts(self, judged: Sequence[Judged]) -> list[Verdict]:
        """How sure each candidate's answer is.

        Raises:
            KnowledgeError: the adapter has no weights.
        """
        weights = self.adapter.config.confidence
        if weights is None:
            raise KnowledgeError("this adapter has no confidence; calibrate it (kblam calibrate)")
        compared = self._compared
        return [
            Verdict(
                tuple(weights.among(signs)),
                tuple(share.everything >= _MAJORITY for share in shares),
                tuple(bool(sign.name) for sign in signs),
            )
            for one, shares in self._with_shares(compared, judged)
            for signs in [self._signs(compared, one, shares)]
        ]

    def _signs(self, compared: Compared, one: Judged, shares: Sequence[Share]) -> list[Signs]:
        question, candidates = one
        names = {name for name in {name for name, _, _ in candidates} if says(question, name)}
        said = {name: compared.said.said_in(question, name) for name in names}
        of_others = compared.said.said_in(question, "")  # what is said beside a name that is not said
        there = set(self._names.meant_in(question))
        is_asked = either(self.is_property, self.adapter.config.background)

        def is_meant(name: str) -> bool:
            if name in there or self._names.looks_for(name):
                of_name = [called for one in candidates if one.name == name for called in compared.called(one.property)]
                return name in there and not self._names.only_in_other(question, name, is_asked, of_name)
            # A name inside a longer one is not: "Path Traversal" in "Relative Path Traversal".
            return not any(len(other) > len(name) and says(other, name) for other in names | there)

        meant = to_the_letter(question, filter(is_meant, names))
        return [
            Signs(
                mass=mass,
                name=float(name in meant),
                property=float(any(says_property(question, one, name) for one in compared.called(prop))),
                other=float(said.get(name, of_others).is_other(*compared.called(prop))),
                share=share.log,
                best=float(share.is_best),
                beaten=float(share.is_beaten),
            )
            for (name, prop, mass), share in zip(candidates, shares, strict=True)
        ]

    def _with_shares(self, compared: Compared, judged: Sequence[Judged]) -> list[tuple[Judged, list[Share]]]:
        """Each question with the shares of its candidates' properties, by the question without the candidate's name."""
        if self._head is None:
            return [(one, [Share()] * len(one.candidates)) for one in judged]
        bare: dict[tuple[int, str], str] = {}
        for row, one in enumerate(judged):
            for name in dict.fromkeys(candidate.name for candidate in one.candidates):
                if (text := without_name(one.question, name, PRONOUN)) is not None:
                    bare[row, name] = text
        asked = {
            (row, name): [candidate.property for candidate in judged[row].candidates if candidate.name == name]
            for row, name in bare
        }
        found = self._shares(self._head, compared, bare, asked) if bare else {}
        return [
            (one, [found.get((row, name, prop), Share()) for name, prop, _ in one.candidates])
            for row, one in enumerate(judged)
        ]

    def _shares(
        self,
        head: PropertyHead,
        compared: Compared,
        bare: Mapping[tuple[int, str], str],
        asked: Mapping[tuple[int, str], Sequence[str]],
    ) -> dict[tuple[int, str, str], Share]:
        """By question, name and property, for the properties asked of each question without a name."""
        # A property that is not among those compared takes part for its own question alone.
        more = list(dict.fromkeys(prop for props in asked.values() for prop in props if prop not in compared.columns))
        count = len(compared.vectors)
        columns = {**compared.columns, **{one: count + place for place, one in enumerate(more)}}
        vectors, asking = self._vectors_of(more), self._encode(list(bare.values()))
        left_out = torch.zeros(len(bare), count + len(more), dtype=torch.bool, device="cpu")
        left_out[:, count:] = True
        for line, props in enumerate(asked.values()):
            left_out[line, [columns[prop] for prop in props]] = False
        # Keys are kept, so they are not of the precision that autocast has just now.
        with torch.autocast(head.question.weight.device.type, enabled=False):
            keys = self._keys(head, compared)
            if more:
                keys = torch.cat([keys, head.keys(vectors)])
            said = compared.words_said(bare.values(), more)
            logs = compared.join(head.log_shares(asking, keys, left_out, _SAID * said).cpu())
        return Shares(compared, more, logs, said).of(asked, list(bare.values()))

    @torch.no_grad()
    def _keys(self, head: PropertyHead, compared: Compared) -> Tensor:
        """Kept from one batch to the next, until properties or weights change."""
        kept, vectors = self._kept, compared.vectors
        # Of what a count of writes would not tell too: `.data`, a hook, a LoRA that is switched on or off.
        image = head.keys(probe(self.adapter.config.embedding_dim))
        if kept is None or kept.vectors is not vectors or not _is_same(kept.image, image):
            kept = self._kept = _Keys(vectors, image, head.keys(vectors))
        return kept.keys

    def _vectors_of(self, properties: list[str]) -> Tensor:
        if not properties or self._head is None:
            return torch.zeros(len(properties), self.adapter.config.embedding_dim, dtype=torch.float32, device="cpu")
        found = self._encode([key_text(PRONOUN, spoken(one)) for one in properties])
        return found[:, -self.adapter.config.embedding_dim :].cpu()


def _is_same(one: Tensor, other: Tensor) -> bool:
    return (one.device, one.dtype, one.shape) == (other.device, other.dtype, other.shape) and torch.equal(one, other)


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
        base, layers = weakref.ref(knowledge_base), adapter.config.property_layers

        def encode(texts: list[str]) -> Tensor:
            alive = base()
            if alive is None:
                raise KnowledgeError("the knowledge base of this judge is gone")
            return torch.from_numpy(encoded(layered(alive.encoder, layers), texts)).float()

        judge = Judge(adapter, encode)
        with _LOCK:
            judge = _JUDGES[knowledge_base].setdefault(adapter, judge)
    judge.follow(knowledge_base)
    return judge
