"""Batches of stage 2: questions with their answers over one small knowledge base, of which each row sees a part.

Everything at a step follows from (seed, step), whatever the number of processes: each draws the whole batch and takes
its rows. The views of a row are a bias on its knowledge scores: `-inf` hides a triple, and `log u` makes a distractor
weigh as much as `u` of its kind (the virtual size).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kblam.adapter.sentences import Fact, answer_sentence
from kblam.data.batch import IGNORE, Batch
from kblam.data.phrasing import general_questions, pair_question, question
from kblam.models.prompt import answer_ids, prompt_ids
from kblam.training.questions import Facts
from kblam.training.vectors import Vectors

# Weights of labels: the token that decides between answer and refusal, and those of a value that a pointer copies.
FIRST, COPIED = 3.0, 0.1
# An answer ends within a value with more tokens than this: what follows is copied or said in the same way, and one row
# would make all rows of the batch as long.
MOST_OF_VALUE = 64
# Of the unanswerable rows: the property is missing, the entity is, or the question is about nothing that can be known.
_NO_PROPERTY, _NO_ENTITY = 0.7, 0.2
_PAIRS = 0.1
_VIRTUAL = 0.6  # share of rows with a virtual size
_NAMESAKES = 0.4  # share of asked entities that bring a namesake along
_NEAR = 3.0  # a large base holds more strangers, but hardly more namesakes: what they weigh at most


@dataclass(frozen=True)
class Texts:
    """How questions and answers are written.

    Args:
        tokenizer: of the model.
        prompt: template around {question}.
        answer: the sentence that says a fact.
        refusal: what is said where there is no answer.
        end_id: the token that ends an answer.
        pad_id: for padding.
        copies: a pointer says the values, so the model need hardly learn to.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: str
    answer: str
    refusal: str
    end_id: int
    pad_id: int
    copies: bool


@dataclass(frozen=True)
class AskedBatch:
    """A batch and the texts of its questions, whose vectors its rows need."""

    batch: Batch
    questions: list[str]


@dataclass(frozen=True)
class _Row:
    question: str
    facts: tuple[int, ...]  # places in the knowledge base; empty: a refusal
    near: frozenset[int]  # entities whose facts are near-misses
    hidden: frozenset[int]  # places that the row must not see


class BatchBuilder:
    """Draws the batches of a run.

    Args:
        facts: what knowledge bases are made of.
        vectors: of all key texts and values.
        texts: how they are asked and answered.
        rows: B, over all processes and accumulation steps.
        triples: about how many a batch holds.
        unanswerable: share of rows.
        virtual_triples: largest virtual size.
        seed: of all drawing.
    """

    def __init__(
        self,
        facts: Facts,
        vectors: Vectors,
        texts: Texts,
        *,
        rows: int,
        triples: int,
        unanswerable: float,
        virtual_triples: int,
        seed: int,
    ) -> None:
        self.facts, self.texts = facts, texts
        self.rows, self.triples, self.unanswerable, self.virtual = rows, triples, unanswerable, virtual_triples
        self.seed = seed
        self._key_rows, self._value_rows = vectors.rows(facts.key_texts), vectors.rows(facts.values)
        self._general = general_questions()
        self._namesakes: dict[str, list[int]] = {}
        for index, entity in enumerate(facts.entities):
            for word in entity.words:
                self._namesakes.setdefault(word, []).append(index)

    def build(self, step: int) -> AskedBatch:
        """The batch of one step."""
        rng = random.Random(f"{self.seed} batch {step}")
        entities = self._entities(rng)
        of_entity = {entity: self.facts.part_of(entity, rng) for entity in entities}
        base = [fact for own in of_entity.values() for fact in own]
        # The true triple is at every place, as a model that learned "the first one" would be worthless.
        rng.shuffle(base)
        place = {fact: column for column, fact in enumerate(base)}
        owners = [int(self.facts.owner[fact]) for fact in base]
        rows = [self._row(entity, of_entity, place, rng) for entity in entities[: self.rows]]
        bias = torch.stack([self._bias(row, owners, rng) for row in rows])
        batch = Batch(
            **self._tensors(rows, base, bias), key_rows=self._key_rows[base], value_rows=self._value_rows[base]
        )
        return AskedBatch(batch, [row.question for row in rows])

    def _entities(self, rng: random.Random) -> list[int]:
        """The asked ones first, then namesakes and strangers, until there are enough triples."""
        count = len(self.facts.entities)
        asked = rng.sample(range(count), min(self.rows, count))
        chosen = dict.fromkeys(asked)
        for entity in asked:
            if rng.random() < _NAMESAKES:
                word = rng.choice(sorted(self.facts.entities[entity].words))
                chosen.setdefault(rng.choice(self._namesakes[word]))
        held = sum(self.facts.size_of(entity) for entity in chosen)
        while held < self.triples and len(chosen) < count:
            stranger = rng.randrange(count)
            if stranger not in chosen:
                chosen[stranger] = None
                held += self.facts.size_of(stranger)
        return list(chosen)

    def _row(
        self, entity: int, of_entity: Mapping[int, Sequence[int]], place: dict[int, int], rng: random.Random
    ) -> _Row:
        fact = rng.choice(of_entity[entity])
        name, prop = self.facts.identities[fact]
        others = [self.facts.identities[one][1] for one in self.facts.of_entity(entity) if one != fact]
        near = {entity}
        kind = rng.random()
        if kind < self.unanswerable:
            missing = rng.random()
            if missing >= _NO_PROPERTY + _NO_ENTITY:
                return _Row(rng.choice(self._general), (), frozenset(), frozenset())
            hide = self.facts.alike(fact) if missing < _NO_PROPERTY else self.facts.of_name(entity)
            return _Row(
                question(prop, name, rng, others=others),
                (),
                self._near(near),
                frozenset(place[other] for other in hide if other in place),
            )
        if kind < self.unanswerable + _PAIRS:
            other = rng.choice([other for other in of_entity if other != entity] or [entity])
            choices = [one for one in of_entity[other] if one != fact]
            if not choices:  # one entity with one fact
                return _Row(question(prop, name, rng, others=others), (place[fact],), self._near(near), frozenset())
            second = rng.choice(choices)
            text = pair_question((name, prop), self.facts.identities[second], rng)
            return _Row(text, (place[fact], place[second]), self._near({entity, other}), frozenset())
        return _Row(question(prop, name, rng, others=others), (place[fact],), self._near(near), frozenset())

    def _near(self, entities: set[int]) -> frozenset[int]:
        words = set().union(*(self.facts.entities[entity].words for entity in entities))
        return frozenset(index for word in words for index in self._namesakes[word])

    def _bias(self, row: _Row, owners: Sequence[int], rng: random.Random) -> Tensor:
        weight = 0.0
        if rng.random() < _VIRTUAL:
            weight = rng.random() * math.log(max(1.0, self.virtual / len(owners)))
        bias = torch.full((len(owners),), weight, dtype=torch.float32)
        for column, owner in enumerate(owners):
            if owner in row.near:
                bias[column] = min(weight, math.log(_NEAR))
        bias[list(row.facts)] = 0.0
        bias[list(row.hidden)] = -math.inf
        return bias

    def _tensors(self, rows: Sequence[_Row], base: Sequence[int], bias: Tensor) -> dict[str, Tensor]:
        written = [self._written(row, base) for row in rows]
        length = max(len(prompt) + len(answer) for prompt, answer, _, _ in written) - 1
        ids = torch.full((len(rows), length), self.texts.pad_id)
        labels, weight = torch.full((len(rows), length), IGNORE), torch.zeros(len(rows), length, dtype=torch.float32)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        evidence: list[tuple[int, int, int]] = []
        for line, (prompt, answer, weights, spots) in enumerate(written):
            tokens, start = torch.tensor(prompt + answer), len(prompt) - 1
            ids[line, : len(tokens) - 1], mask[line, : len(tokens) - 1] = tokens[:-1], True
            labels[line, start : len(tokens) - 1] = torch.tensor(answer)
            weight[line, start : len(tokens) - 1] = torch.tensor(weights, dtype=torch.float32)
            evidence += [(line, start + offset, column) for offset, column in spots]
        return {
            "input_ids": ids,
            "labels": labels,
            "attention_mask": mask,
            "bias": bias,
            "first": torch.tensor([len(prompt) - 1 for prompt, _, _, _ in written]),
            "refused": torch.tensor([not row.facts for row in rows]),
            "evidence": torch.tensor(evidence, dtype=torch.int64).reshape(-1, 3),
            "weight": weight,
        }

    def _written(
        self, row: _Row, base: Sequence[int]
    ) -> tuple[list[int], list[int], list[float], list[tuple[int, int]]]:
        """Prompt, answer, weights of the answer's tokens, and (place in the answer, triple) where evidence is due."""
        texts = self.texts
        prompt = prompt_ids(texts.prompt, row.question, texts.tokenizer)
        if not row.facts:
            answer = [*answer_ids(texts.refusal, texts.tokenizer)[0], texts.end_id]
            return prompt, answer, [FIRST, *(1 / len(answer) for _ in answer[1:])], []
        facts = [(*self.facts.identities[base[column]], self.facts.values[base[column]]) for column in row.facts]
        ids, said = _answer(texts, facts)
        values = list(zip(row.facts, said, strict=True))
        stops = [places[0] + MOST_OF_VALUE for _, places in values if len(places) > MOST_OF_VALUE]
        # Nor has a cut answer an end token: it would teach to end in the middle of a value.
        answer = ids[: min(stops)] if stops else [*ids, texts.end_id]
        weights, spots = [1 / len(answer)] * len(answer), [(0, row.facts[0])]
        for column, places in values:
            inside = [place for place in places if place < len(answer)]
            for where in inside:
                weights[where] *= COPIED if texts.copies else 1.0
            if inside:  # a tokenizer may have no token for a value
                spots += [(inside[0], column), (inside[len(inside) // 2], column)]
        weights[0] = FIRST
        return prompt, answer, weights, spots


def cut_values(facts: Facts, texts: Texts) -> list[int]:
    """Of each value that an answer ends within, how many tokens it has."""
    found = []
    for (name, prop), value in zip(facts.identities, facts.values, strict=True):
        if len(value.encode("utf-8", "surrogatepass")) >= MOST_OF_VALUE:  # no token stands for less than a byte
            _, (places,) = _answer(texts, [(name, prop, value)])
            found += [len(places)] if len(places) > MOST_OF_VALUE else []
    return found


def _answer(texts: Texts, facts: Sequence[Fact]) -> tuple[list[int], list[list[int]]]:
    """An answer's tokens without the end, and of each fact those that its value is in."""
    sentence = answer_sentence(texts.answer, facts)
    ids, offsets = answer_ids(sentence.text, texts.tokenizer)
    return ids, [
        [at for at, (left, right) in enumerate(offsets) if left < span.end and right > span.start]
        for span in sorted(sentence.spans, key=lambda span: span.fact)
        if span.field == "value"
    ]
