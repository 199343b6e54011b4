"""How the property head learns: questions about "it", each to be told from all other properties."""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kblam.adapter import KnowledgeAdapter
from kblam.adapter.property_head import EVERYTHING, PRONOUN, PropertyHead
from kblam.data.phrases import further, phrases, specific
from kblam.data.phrasing import open_question, question
from kblam.data.properties import TYPED
from kblam.knowledge.identifiers import key, spoken
from kblam.knowledge.triples import key_text
from kblam.training.unlearned import unlearned
from kblam.training.vectors import Vectors

WIDTH = 256
# With a third as many of the training world, four times as many new ones go wrong (docs/log/adapter.md).
QUESTIONS = 102_000
FURTHER_SHARE = 0.271  # of them: each of `kblam.data.phrases.further` once
_EVERYTHING_SHARE = 0.1  # of the others, those for the training world and a user's own triples
STEPS = 3000
_ROWS = 512
# Of the rows of a step. With as many as of the questions, near properties such as latitude and longitude, which
# only the training world and a base of yours have, are told apart less well (docs/log/adapter.md).
_FURTHER_ROWS = 0.3
_OTHERS = 256  # properties drawn for each step to be compared, beside those that it asks for and all that are known
_RATE = 1e-3
_WEIGHT_DECAY = 0.1
_DROPOUT = 0.1
# Which way a natural question falls differs with the head's first weights and batches; the mean of a few differs less.
# Every second one reads the sentence vector alone: what those with layers take for certain is less so beside them.
_HEADS = 4
# One phrasing in so many is kept for the calibration: what a head does with phrasings it has learned says little.
_KEPT = 5


def is_kept(template: str) -> bool:
    """Whether a phrasing is one of those that the calibration asks in."""
    return zlib.crc32(template.encode()) % _KEPT == 0


def is_not_kept(template: str) -> bool:
    """The others."""
    return not is_kept(template)


def bare(text: str) -> str:
    """What two questions have in common that differ by case and marks at their ends alone."""
    return text.casefold().strip(" ?.!")


def _kept_texts(prop: str) -> set[str]:
    """The phrasings kept for the calibration in which a property is asked for, as `bare` has them."""
    kept = [one.replace("{p}", prop) for one in phrases("one").seen if is_kept(one)]
    kept += [one for one in specific()[prop].seen if is_kept(one)] if prop in specific() else []
    return set(map(bare, kept))


@dataclass(frozen=True)
class PropertyQuestions:
    """Questions about "it".

    Args:
        properties: what they may ask for; `EVERYTHING` first.
        texts: the questions.
        meant: of each, the place of its property.
        kept: of each, whether its phrasing, or all of its property, is kept for the calibration.
        further: of each, whether it is one of `kblam.data.phrases.further`.
    """

    properties: tuple[str, ...]
    texts: tuple[str, ...]
    meant: tuple[int, ...]
    kept: tuple[bool, ...]
    further: tuple[bool, ...]

    @property
    def key_texts(self) -> list[str]:
        """What the properties' keys are made from."""
        return [key_text(PRONOUN, one) for one in self.properties]

    @classmethod
    def draw(
        cls, own: Iterable[str] = (), *, count: int = QUESTIONS, further_share: float = FURTHER_SHARE, seed: int = 0
    ) -> PropertyQuestions:
        """Questions for the properties of the training world, for a user's own, and for further ones.

        Args:
            own: the user's.
            count: of questions.
            further_share: how many of them are of `kblam.data.phrases.further`.
            seed: of the drawing.
        """
        known = (EVERYTHING, *dict.fromkeys([*sorted(TYPED), *map(spoken, own)]))
        by_key = {key(one): at for at, one in reversed(list(enumerate(known)))}
        rng = random.Random(f"{seed} properties")
        rest = [(one, ask) for one, templates in further().items() for ask in templates] if further_share else []
        rng.shuffle(rest)
        rest = list(islice(cycle(rest), round(count * further_share)))
        new = dict.fromkeys(one for one, _ in rest if key(one) not in by_key)
        properties = (*known, *new)
        by_key |= {key(one): len(known) + place for place, one in enumerate(new)}
        kept_of = cache(_kept_texts)
        kept_whole = unlearned() & set(new)
        rows = [
            (ask.format(n=PRONOUN), by_key[key(one)], one in kept_whole or bare(ask) in kept_of(one), True)
            for one, ask in rest
        ]
        for _ in range(count - len(rows)):
            at = 0 if rng.random() < _EVERYTHING_SHARE else rng.randrange(1, len(known))
            kept = rng.random() < 1 / _KEPT
            only = is_kept if kept else is_not_kept
            ask = question(properties[at], PRONOUN, rng, only=only) if at else open_question(PRONOUN, rng, only=only)
            rows.append((ask, at, kept, False))
        texts, meant, are_kept, are_further = zip(*rows, strict=True)
        return cls(properties, texts, meant, are_kept, are_further)


def with_head(
    adapter: KnowledgeAdapter, head: PropertyHead, *, layers: Sequence[int] = (), **changes: Any
) -> KnowledgeAdapter:
    """The same adapter with another property head.

    Args:
        layers: of the encoder, that the head reads.
        changes: of its config.
    """
    fresh = KnowledgeAdapter(
        dataclasses.replace(
            adapter.config,
            property_width=head.question.out_features,
            property_cosine=head.log_cosine is not None,
            property_layers=tuple(layers),
            **changes,
        )
    ).float()
    kept = {name: weight for name, weight in adapter.state_dict().items() if not name.startswith("property_head.")}
    fresh.load_state_dict(kept | {f"property_head.{name}": weight for name, weight in head.state_dict().items()})
    return fresh


def learn_head(
    asked: PropertyQuestions,
    vectors: Vectors,
    *,
    layers: int = 0,
    steps: int = STEPS,
    all_phrasings: bool = True,
    seed: int = 0,
) -> PropertyHead:
    """A head that tells the properties apart, the mean of `_HEADS` learned ones.

    It takes six minutes on a core.

    Args:
        asked: what it learns from.
        vectors: of their texts and key texts, (L + 1) P wide.
        layers: L, how many of the encoder's layers stand before the sentence vectors.
        steps: of gradient descent.
        all_phrasings: False leaves out what is kept for the calibration, if there is more; and properties that nothing
            else asks for.
        seed: of everything random.
    """
    # As the encoder gives them: a bias is learned with them.
    keys, questions = (vectors.of(texts) / vectors.scale for texts in (asked.key_texts, asked.texts))
    keys = keys[:, -(keys.shape[-1] // (layers + 1)) :]
    meant, further = torch.tensor(asked.meant), torch.tensor(asked.further)
    rest = ~torch.tensor(asked.kept)
    if not all_phrasings and rest.any():
        questions, meant, further = questions[rest], meant[rest], further[rest]
        left = torch.zeros(len(keys), dtype=torch.bool).index_fill(0, meant, True)
        keys, meant = keys[left], (left.cumsum(0) - 1)[meant]
    weights = _weights(further)
    always = torch.zeros(len(keys), dtype=torch.bool).index_fill(0, meant[~further], True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # those of GPUs draw nothing here
        heads = [
            _learned(keys, questions, meant, weights, always, steps, layers=layers if number % 2 == 0 else 0)
            for number in range(_HEADS)
        ]
    return _mean(heads, keys, questions).eval().requires_grad_(False)


def _weights(further: Tensor) -> Tensor:
    """How often each question is drawn; all alike if there is one kind alone."""
    share = torch.full_like(further, 1 - _FURTHER_ROWS, dtype=torch.float32).masked_fill(further, _FURTHER_ROWS)
    return share / torch.where(further, further.sum(), (~further).sum())


@dataclass(frozen=True)
class _Spread:
    """What brings encodings to a mean of 0, for hidden states, and to a length of about 1, each part by itself.

    The hidden states of all texts are nearly alike; what tells them apart is the rest. Sentence vectors have no mean
    taken away.

    Args:
        mean: ((L + 1) P,), 0 for the sentence vector.
        length: ((L + 1) P,), the mean one of each part.
    """

    mean: Tensor
    length: Tensor

    @classmethod
    def of(cls, encodings: Tensor, width: int) -> _Spread:
        """Of (N, (L + 1) P) encodings whose last `width` = P numbers are sentence vectors."""
        mean = encodings.mean(0)
        mean[-width:] = 0
        lengths = [(part - of_it).norm(dim=-1).mean() for part, of_it in _parts(encodings, mean, width)]
        return cls(mean, torch.stack(lengths).clamp(min=1e-12).repeat_interleave(width))

    def apply(self, encodings: Tensor) -> Tensor:
        """The encodings so brought."""
        return (encodings - self.mean) / self.length

    @torch.no_grad()
    def fold_into(self, maps: nn.Linear) -> None:
        """Changes a map of such encodings into one of encodings as they come."""
        maps.weight.div_(self.length)
        if maps.bias is not None:
            maps.bias.sub_(maps.weight @ self.mean)


def _parts(encodings: Tensor, mean: Tensor, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(encodings.split(width, -1), mean.split(width), strict=True)


@torch.enable_grad()
def _learned(
    keys: Tensor, questions: Tensor, meant: Tensor, weights: Tensor, always: Tensor, steps: int, *, layers: int
) -> PropertyHead:
    """One head.

    Args:
        keys: (V, P) of the properties.
        questions: (N, at least (layers + 1) P), of which it reads the last.
        weights: (N,) of the questions.
        always: bool (V,), properties that each step compares; of the others it does those asked for and a few more.
    """
    width = keys.shape[-1]
    head = PropertyHead(width, WIDTH, layers=layers).float()
    questions = questions[:, -head.question.in_features :]
    with torch.no_grad():  # from the encoder's own cosine, as far as a random map keeps it
        for started in head.question.parameters():
            started.zero_()
        head.question.weight[:, -width:] = head.property.weight
    optimizer = torch.optim.AdamW(
        [
            {"params": [head.question.weight, head.property.weight], "weight_decay": _WEIGHT_DECAY},
            {"params": [head.log_scale, head.log_cosine], "weight_decay": 0.0},
        ],
        lr=_RATE,
    )
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    spread = _Spread.of(questions, width)
    for _ in range(steps):
        rows = torch.multinomial(weights, _ROWS, replacement=True)
        compared = always.index_fill(0, meant[rows], True)
        compared[torch.randint(len(keys), (_OTHERS,))] = True
        places = compared.cumsum(0) - 1
        scores = head(spread.apply(questions[rows]), head.keys(keys[compared]), dropout=_DROPOUT)
        loss = F.cross_entropy(scores, places[meant[rows]])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    spread.fold_into(head.question)
    return head


@torch.no_grad()
def _mean(heads: Sequence[PropertyHead], keys: Tensor, questions: Tensor) -> PropertyHead:
    """One head with the maps of all, each scaled to give vectors of about length 1: its cosine is about their mean.

    Args:
        questions: as the one that reads most of them does.
    """
    width = keys.shape[-1]
    mean = PropertyHead(width, len(heads) * WIDTH, layers=questions.shape[-1] // width - 1).float()
    for name, inputs in (("question", questions), ("property", keys)):
        whole = getattr(mean, name)
        for parameter in whole.parameters():
            parameter.zero_()  # for what a head does not read
        for number, head in enumerate(heads):
            one, rows = getattr(head, name), slice(number * WIDTH, (number + 1) * WIDTH)
            length = one(inputs[:, -one.in_features :]).norm(dim=-1).mean()
            whole.weight[rows, -one.in_features :] = one.weight / length
            if one.bias is not None:
                whole.bias[rows] = one.bias / length
    for name in ("log_scale", "log_cosine"):
        getattr(mean, name).copy_(torch.stack([getattr(head, name) for head in heads]).mean())
    return mean
