"""A knowledge base examined: texts, neighbours of keys, and whether questions find their own facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kblam.counts import count_of
from kblam.data.phrasing import question
from kblam.data.quiz import question_stream
from kblam.errors import EvaluationError
from kblam.evaluation.health.findings import (
    LONG,
    NEAR_NAMES,
    NEAR_PROPERTIES,
    NOT_FOUND,
    Finding,
    cut,
    of_name,
    of_value,
    told,
)
from kblam.evaluation.health.vectors import nearest
from kblam.evaluation.shares import Share
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.cosine import normalised
from kblam.knowledge.encoders.base import LimitedEncoder, Progress

# Keys this near are one to a question in words of its own.
NEAR = 0.97
WORST = 20
QUESTIONS = 1000
_ALL_KEYS = 20_000  # up to so many triples each key's neighbour is looked for; beyond, those of a sample
_SAMPLED_KEYS = 5000
_MAY_BE_LONG = 200  # characters; no encoder's limit is below that
_KEPT = 200  # findings of one kind


@dataclass
class Health:
    """What an examination found.

    Attributes:
        triples: in the base.
        asked: questions, each about one triple.
        found: those whose own fact the encoder found first, at this size of the base.
        expected: those that can be expected to be answered: found, and the value says something.
        keys: whose nearest neighbour was looked for; all, or a sample.
        counts: findings by kind; of neighbours and questions, among those that were looked at.
        worst: the worst of them, at most twenty.
    """

    triples: int
    asked: int
    found: Share
    expected: Share
    keys: int
    counts: dict[str, int] = field(default_factory=dict)
    worst: list[Finding] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "triples": self.triples,
            "asked": self.asked,
            "found": float(self.found),
            "expected": float(self.expected),
            "interval": list(self.expected.interval),
            "keys": self.keys,
            "counts": self.counts,
            "worst": [
                {"kind": one.kind, "what": one.what, "fix": one.fix, "weight": round(one.weight, 3)}
                for one in self.worst
            ],
        }


class _Found:
    """Findings by kind: all counted, the worst kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._kept: dict[str, list[Finding]] = {}

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        kept = self._kept.setdefault(finding.kind, [])
        kept.append(finding)
        if len(kept) >= 2 * _KEPT:
            kept.sort(key=lambda one: -one.weight)
            del kept[_KEPT:]

    def worst(self) -> list[Finding]:
        """The worst of each kind in turn, so that none crowds out the others; then by weight."""
        for kept in self._kept.values():
            kept.sort(key=lambda one: -one.weight)
        chosen: list[Finding] = []
        for place in range(_KEPT):
            chosen += [kept[place] for kept in self._kept.values() if place < len(kept)]
        return sorted(chosen[:WORST], key=lambda one: -one.weight)


def examine(
    kb: KnowledgeBase, *, questions: int = QUESTIONS, seed: int = 0, progress: Progress | None = None
) -> Health:
    """Look for what will go wrong, with the base's own encoder and no language model.

    Questions are made by templates from a sample of the triples, and each must find its own triple's key first, among
    all keys. That is what retrieval alone reaches; what a model makes of it is measured by `kblam eval --kb`.

    Args:
        questions: how many at most.
        seed: of the sample and the words.
        progress: `progress(done, total)` in triples that were read, and questions.

    Raises:
        EvaluationError: the base has fewer than two triples.
        EncoderUnavailableError: its encoder cannot be loaded.
    """
    embeddings = kb.embeddings()
    count = len(embeddings)
    if count < 2:
        raise EvaluationError(f"a base of {count_of(count)} cannot be examined; two are the least")
    found = _Found()
    total = count + min(questions, count)
    useless = _texts(kb, kb.triples(), found, progress, total)
    keys = normalised(embeddings.key, np.float16)
    rng = question_stream(f"doctor {seed}")
    rows = range(count) if count <= _ALL_KEYS else sorted(rng.sample(range(count), _SAMPLED_KEYS))
    looked = np.fromiter(rows, np.int64)
    _neighbours(kb, embeddings.ids, keys, looked, found)
    sample = np.array(sorted(rng.sample(range(count), min(questions, count))))
    hits, answered = _questions(kb, embeddings.ids, keys, sample, rng, useless, found)
    if progress is not None:
        progress(total, total)
    asked = len(sample)
    return Health(
        triples=count,
        asked=asked,
        found=Share(hits, asked),
        expected=Share(answered, asked),
        keys=len(looked),
        counts=dict(found.counts.most_common()),
        worst=found.worst(),
    )


def _texts(
    kb: KnowledgeBase, triples: Iterable[Triple], found: _Found, progress: Progress | None, total: int
) -> set[tuple[str, str]]:
    """Looks at the texts of all triples; the identities of those whose value says nothing."""
    useless: set[tuple[str, str]] = set()
    may_be_long: list[Triple] = []
    for number, triple in enumerate(triples, start=1):
        finding = of_value(triple)
        if finding is not None:
            useless.add(triple.identity)
            found.add(finding)
        if (unseen := of_name(triple)) is not None:
            found.add(unseen)
        if len(triple.value) > _MAY_BE_LONG or len(triple.key_text) > _MAY_BE_LONG:
            may_be_long.append(triple)
            if len(may_be_long) >= 1000:
                _long(kb, may_be_long, found)
        if progress is not None and number % 1000 == 0:
            progress(number, total)
    _long(kb, may_be_long, found)
    return useless


def _long(kb: KnowledgeBase, triples: list[Triple], found: _Found) -> None:
    encoder = kb.encoder
    if triples and isinstance(encoder, LimitedEncoder):
        texts = [text for triple in triples for text in (triple.key_text, triple.value_text)]
        for at in {row // 2 for row in encoder.beyond_limit(texts)}:
            length = max(len(triples[at].value), len(triples[at].key_text))
            found.add(Finding(LONG, f"{told(triples[at])}: {length:,} characters", min(0.7, 0.4 + length / 20_000)))
    triples.clear()


def _neighbours(kb: KnowledgeBase, ids: np.ndarray, keys: np.ndarray, looked: np.ndarray, found: _Found) -> None:
    """Pairs of keys that lie so near that a question cannot tell them apart, and whose values differ."""
    seen: set[tuple[int, int]] = set()
    pairs: list[tuple[tuple[int, int], float]] = []
    of_one_thing: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for at, _, other, cosine in nearest(keys[looked], keys, looked):
        pair = (min(int(looked[at]), other), max(int(looked[at]), other))
        if cosine >= NEAR and pair not in seen:
            seen.add(pair)
            pairs.append((pair, cosine))
    for start in range(0, len(pairs), 500):
        part = pairs[start : start + 500]
        triples = kb.triples_at([ids[one] for pair, _ in part for one in pair])
        for at, (_, cosine) in enumerate(part):
            one, two = triples[2 * at], triples[2 * at + 1]
            if one.value.casefold() == two.value.casefold():
                continue
            if one.name == two.name:
                properties = of_one_thing.setdefault((one.property, two.property), [])
                properties.append((cosine, one.name))
            else:
                found.add(Finding(NEAR_NAMES, f"{told(one)} / {told(two)} (cosine {cosine:.3f})", 0.3 + 0.4 * cosine))
    for (first, second), things in of_one_thing.items():
        cosine, name = max(things)
        many = "" if len(things) == 1 else f" and {len(things) - 1:,} more"
        what = f"the {cut(first)} / the {cut(second)} of {cut(name)}{many} (cosine {cosine:.3f})"
        found.add(Finding(NEAR_PROPERTIES, what, 0.3 + 0.4 * cosine))


def _questions(
    kb: KnowledgeBase,
    ids: np.ndarray,
    keys: np.ndarray,
    sample: np.ndarray,
    rng: Any,
    useless: set[tuple[str, str]],
    found: _Found,
) -> tuple[int, int]:
    """How many questions find their own key first, and of how many of these the value says something."""
    triples = kb.triples_at(ids[sample])
    others: dict[str, set[str]] = {}
    for triple in triples:
        if triple.name not in others:
            others[triple.name] = {each.property for each in kb.find(triple.name)}
    texts = [question(one.property, one.name, rng, others=others[one.name] - {one.property}) for one in triples]
    vectors = normalised(kb.encode(texts), np.float16)
    hits = answered = 0
    for at, own, other, cosine in nearest(vectors, keys, sample):
        triple = triples[at]
        if own >= cosine:
            hits += 1
            answered += triple.identity not in useless
            continue
        (instead,) = kb.triples_at([int(ids[other])])
        what = f"{cut(texts[at], 90)} finds {told(instead)}, not {told(triple)}"
        found.add(Finding(NOT_FOUND, what, min(1.0, 0.6 + 2 * (cosine - own))))
    return hits, answered
