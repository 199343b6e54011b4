"""Training batches: one small knowledge base for the whole batch, and questions whose rows see parts of it.

A row's own view of the shared knowledge base is a bias added to its knowledge scores:

- `-inf` hides a triple. Half of the rows see a random part; a hidden fact makes a question unanswerable.
- `log u` makes a distractor weigh as much as `u` triples of its kind: the *virtual size*. A base of 256 triples
  then competes with the answer as one of thousands would, at no cost. Near-misses (a shared word in the name)
  get at most log 3, in the finishing steps log 4, since a large base holds more strangers but hardly more namesakes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise

import torch
from transformers import PreTrainedTokenizerFast

from kblam.adapter.config import REFUSAL
from kblam.data.batch import IGNORE, Batch
from kblam.data.entities import Entity
from kblam.data.questions import (
    PAIR_QUESTIONS,
    PLAIN_QUESTIONS,
    QUESTIONS,
    TERSE_QUESTIONS,
    clauses,
    dress,
    pair_question,
    single_question,
)
from kblam.demo.tiny.cache import EmbeddingCache
from kblam.demo.tiny.words import PROPERTIES
from kblam.demo.tiny.world import World
from kblam.knowledge.triples import key_text


@dataclass(frozen=True)
class Mixture:
    """What a batch is made of; shares are probabilities of a row.

    Args:
        rows: B.
        refusals, pairs: questions without an answer, and about two facts.
        partial_view: rows that see a random part of the knowledge base.
        virtual: rows with a virtual size, up to `virtual_triples`; near-misses weigh at most `near_miss_cap`.
        grid_batches: batches dense in namesakes.
        whole_refusals: refusals that are spelt out; the others stop after the token that decides.
        brief: answers about one fact leave its name out.
        varied: all phrasings, with openings and closings; else the plain ones alone.
        terse: share of questions that are little more than a name and a property; counts where `varied`.
    """

    rows: int = 64
    refusals: float = 0.4
    pairs: float = 0.15
    partial_view: float = 0.5
    virtual: float = 0.6
    virtual_triples: int = 16000
    near_miss_cap: float = 3.0
    grid_batches: float = 0.5
    whole_refusals: float = 0.2
    brief: bool = True
    varied: bool = True
    terse: float = 0.15


@dataclass(frozen=True)
class _Row:
    question: str
    facts: list[tuple[str, str, str]]  # empty: a refusal
    asked: list[Entity]
    hidden: frozenset[tuple[str, str]]  # (name, property) that this row must not see


@dataclass(frozen=True)
class _Texts:
    prompt: list[int]
    answer: list[int]
    evidence: list[tuple[int, int]]  # position, triple; empty for a refusal


class BatchBuilder:
    """Draws batches; everything follows from the seed.

    Args:
        world: the entities to draw from (only the training ones are used).
        cache: holds the embedding of every key and value of the world's training side.
        tokenizer: the demo tokenizer.
        seed: of the stream of batches.
        mixture: shares of the kinds of row.
    """

    def __init__(
        self,
        world: World,
        cache: EmbeddingCache,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        mixture: Mixture | None = None,
    ) -> None:
        self.world = world
        self.cache = cache
        self.tokenizer = tokenizer
        self.mixture = mixture or Mixture()
        self.rng = random.Random(seed)
        self._by_first: dict[str, list[Entity]] = {}
        self._by_second: dict[str, list[Entity]] = {}
        for entity in world.train_grid:
            first, second = entity.name.split()
            self._by_first.setdefault(first, []).append(entity)
            self._by_second.setdefault(second, []).append(entity)

    def entities(self, triples: int) -> list[Entity]:
        """Entities that together hold at least `triples` facts: dense in namesakes, or mixed with open names."""
        pool: list[Entity] = []
        if self.rng.random() < self.mixture.grid_batches:
            index = self.rng.choice((self._by_first, self._by_second))
            for word in self.rng.sample(sorted(index), min(len(index), 6)):
                pool += self.rng.sample(index[word], min(len(index[word]), 12))
            self.rng.shuffle(pool)
        chosen: dict[str, Entity] = {}
        held = 0
        while held < triples:
            if pool:
                entity = pool.pop()
            else:
                source = self.world.train_open if self.rng.random() < 0.75 else self.world.train_grid
                entity = self.rng.choice(source)
            if entity.name not in chosen:
                chosen[entity.name] = entity
                held += len(entity.facts)
        return list(chosen.values())

    def build(self, triples: int, parts: int = 1, virtual_triples: int | None = None) -> list[Batch]:
        """One batch over a knowledge base of exactly `triples` triples.

        Args:
            triples: M.
            parts: cuts the batch by the rows' length: short and long rows apart need far less padding.
            virtual_triples: in place of the mixture's.
        """
        self._virtual_triples = self.mixture.virtual_triples if virtual_triples is None else virtual_triples
        entities = self.entities(triples)
        keys = [(entity.name, prop) for entity in entities for prop in entity.facts][:triples]
        position = {key: index for index, key in enumerate(keys)}
        facts = {entity.name: entity.facts for entity in entities}
        rows = [self._row(entities, position) for _ in range(self.mixture.rows)]
        owners = [entity for entity in entities for _ in entity.facts][:triples]
        bias = torch.stack([self._bias(row, keys, owners, position) for row in rows])
        texts = [self._texts(row, position) for row in rows]
        by_length = sorted(range(len(rows)), key=lambda row: len(texts[row].prompt) + len(texts[row].answer))
        key_rows = self.cache.rows(key_text(*key) for key in keys)
        value_rows = self.cache.rows(facts[name][prop] for name, prop in keys)
        cuts = [len(rows) * part // parts for part in range(parts + 1)]
        return [
            self._tensors([texts[row] for row in chosen], bias[chosen], key_rows, value_rows)
            for chosen in (by_length[start:end] for start, end in pairwise(cuts))
        ]

    def _row(self, entities: list[Entity], position: dict[tuple[str, str], int]) -> _Row:
        rng = self.rng
        kind = rng.random()
        if kind < self.mixture.refusals:
            return self._refusal(entities, position)
        wanted = 2 if kind < self.mixture.refusals + self.mixture.pairs else 1
        asked = rng.sample(entities, wanted)
        facts = []
        for entity in asked:
            known = [prop for prop in entity.facts if (entity.name, prop) in position]
            if not known:
                return self._refusal(entities, position)
            prop = rng.choice(known)
            facts.append((entity.name, prop, entity.facts[prop]))
        if wanted == 1:
            question = single_question(self._phrasing(), *facts[0][:2])
        else:
            question = pair_question(rng.choice(PAIR_QUESTIONS), facts[0][:2], facts[1][:2])
        return _Row(question, facts, asked, frozenset())

    def _refusal(self, entities: list[Entity], position: dict[tuple[str, str], int]) -> _Row:
        """An unanswerable question: a hidden entity, a property it has not, or a single hidden fact."""
        rng = self.rng
        entity = rng.choice(entities)
        kind = rng.random()
        if kind < 0.5:
            prop = rng.choice(PROPERTIES)
            hidden = frozenset((entity.name, other) for other in entity.facts)
        elif kind < 0.85:
            prop = rng.choice([other for other in PROPERTIES if other not in entity.facts])
            hidden = frozenset()
        else:
            prop = rng.choice(list(entity.facts))
            hidden = frozenset({(entity.name, prop)})
        return _Row(single_question(self._phrasing(), entity.name, prop), [], [entity], hidden)

    def _bias(
        self,
        row: _Row,
        keys: list[tuple[str, str]],
        owners: list[Entity],
        position: dict[tuple[str, str], int],
    ) -> torch.Tensor:
        rng = self.rng
        asked_names = {entity.name for entity in row.asked}
        asked_words = frozenset().union(*(entity.words for entity in row.asked))
        needed = {position[(name, prop)] for name, prop, _ in row.facts}
        count = len(keys)
        visible = [key not in row.hidden for key in keys]
        if rng.random() < self.mixture.partial_view:
            share = math.exp(rng.uniform(math.log(4 / count), 0.0))
            for index, key in enumerate(keys):
                # What else is known of the entity in question stays: those are the telling distractors.
                if index not in needed and key[0] not in asked_names and rng.random() > share:
                    visible[index] = False
        weight = 0.0
        if rng.random() < self.mixture.virtual:
            weight = rng.uniform(0.0, max(0.0, math.log(self._virtual_triples / max(4, sum(visible)))))
        near = min(weight, math.log(self.mixture.near_miss_cap))
        bias = []
        for index, seen in enumerate(visible):
            if not seen:
                bias.append(-math.inf)
            elif index in needed:
                bias.append(0.0)
            else:
                bias.append(near if owners[index].words & asked_words else weight)
        return torch.tensor(bias, dtype=torch.float32)

    def _texts(self, row: _Row, position: dict[tuple[str, str], int]) -> _Texts:
        """Token ids of prompt and answer, and at which positions which triple should be attended to."""
        encode = self._encode
        tokenizer = self.tokenizer
        prompt = [tokenizer.bos_token_id, *encode(row.question), tokenizer.sep_token_id]
        if not row.facts:
            refusal = [*encode(REFUSAL), tokenizer.eos_token_id]
            # Every refusal goes on alike: most rows stop after the token that decides.
            whole = self.rng.random() < self.mixture.whole_refusals
            return _Texts(prompt, refusal if whole else refusal[:2], [])
        answer: list[int] = []
        evidence = [(len(prompt) - 1, position[row.facts[0][:2]])]
        for fact, (text, value) in zip(row.facts, clauses(row.facts, brief=self.mixture.brief), strict=True):
            answer += encode(text)
            pieces = encode(value)
            at = len(prompt) + len(answer) - 1  # the position of "is", which predicts the first piece
            evidence += [(at + step, position[fact[:2]]) for step in range(len(pieces))]
            answer += pieces
        return _Texts(prompt, [*answer, *encode("."), tokenizer.eos_token_id], evidence)

    def _tensors(self, rows: list[_Texts], bias: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> Batch:
        length = max(len(row.prompt) + len(row.answer) for row in rows) - 1
        input_ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        labels = torch.full((len(rows), length), IGNORE)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for number, row in enumerate(rows):
            tokens = torch.tensor(row.prompt + row.answer)
            input_ids[number, : len(tokens) - 1] = tokens[:-1]
            labels[number, len(row.prompt) - 1 : len(tokens) - 1] = tokens[len(row.prompt) :]
            mask[number, : len(tokens) - 1] = True
        evidence = [(number, *place) for number, row in enumerate(rows) for place in row.evidence]
        return Batch(
            input_ids=input_ids,
            labels=labels,
            attention_mask=mask,
            bias=bias,
            key_rows=keys,
            value_rows=values,
            first=torch.tensor([len(row.prompt) - 1 for row in rows]),
            refused=torch.tensor([not row.evidence for row in rows]),
            evidence=torch.tensor(evidence, dtype=torch.int64).reshape(-1, 3),
        )

    def _phrasing(self) -> str:
        if not self.mixture.varied:
            return self.rng.choice(PLAIN_QUESTIONS)
        terse = self.rng.random() < self.mixture.terse
        return dress(self.rng.choice(TERSE_QUESTIONS if terse else QUESTIONS), self.rng)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
