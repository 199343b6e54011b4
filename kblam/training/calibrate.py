"""How sure an answer is: weights of the signs, learned from questions about facts that are there and that are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam.adapter import ProjectedKnowledge
from kblam.adapter.confidence import Confidence, Signs
from kblam.errors import TrainingError
from kblam.knowledge import Encoder
from kblam.models import Attachment
from kblam.models.judging import MOST_PROPERTIES, Judge, Judged
from kblam.training.questions import Asked, Facts
from kblam.training.start import right_padded
from kblam.training.vectors import Vectors

_ROWS = 32
_HIDDEN = -1e9


# Where the weights start, and what they stay near where there are few questions: those of three runs for SmolLM2.
PRIOR = Confidence(mass=0.6, name=6.0, property=1.3, other=-0.5, share=0.45, bias=-3.4)
# A confidence is a probability.
KNOWN_ABOVE = 0.5
# So many questions weigh as much as a change of one in a weight.
_PRIOR_WEIGHT = 2.0
_NEWTON_STEPS = 200
_FLAT = 1e-6  # the slope at the minimum


@dataclass(frozen=True)
class Calibration:
    """What the weights do on the questions they were learned from.

    Args:
        confidence: the weights.
        known_above: the confidence from which a question counts as known.
        precision, recall: of refusals; `f1` is their harmonic mean.
        top1: answerable questions whose strongest triple is the right one.
        questions: how many there were.
    """

    confidence: Confidence
    known_above: float
    precision: float
    recall: float
    f1: float
    top1: float
    questions: int


@torch.no_grad()
def calibrate(
    attachment: Attachment,
    facts: Facts,
    asked: Sequence[Asked],
    vectors: Vectors,
    prompts: Sequence[Sequence[int]],
    encoder: Encoder,
    *,
    scale: float = 1.0,
) -> Calibration:
    """Learns the weights from questions about facts, asked once with their facts and once without.

    Args:
        attachment: of the model, with the adapter.
        facts: the knowledge base.
        asked: questions about single facts, about whole entities, and about nothing that it has.
        vectors: of all key texts, values and questions.
        prompts: token ids of each question's prompt.
        encoder: of those vectors.
        scale: factor on the vectors that the adapter expects; 1 for an adapter as users get it.
    """
    model, adapter = attachment.model, attachment.adapter
    keys, values = (vectors.of(texts) * (scale / vectors.scale) for texts in (facts.key_texts, facts.values))
    knowledge = adapter.project(keys.to(model.device), values.to(model.device), dtype=model.dtype)
    questions = vectors.of(one.text for one in asked) * (scale / vectors.scale)
    # Twice as many answerable questions as others, as a knowledge base is asked in use: every second one is asked
    # again, in turn without its entity and without its fact.
    again = [index for index, one in enumerate(asked) if len(one.facts) == 1][::2]
    hidden = [
        asked[index].facts if number % 2 else tuple(facts.of_entity(int(facts.owner[asked[index].facts[0]])))
        for number, index in enumerate(again)
    ]
    whole = strongest_triples(attachment, knowledge, prompts, questions, [()] * len(asked))
    without = strongest_triples(attachment, knowledge, [prompts[index] for index in again], questions[again], hidden)

    def judged(index: int, mass: Tensor, place: Tensor) -> Judged:
        return Judged(asked[index].text, *facts.identities[int(place)], float(mass))

    judge = Judge(
        adapter,
        lambda texts: torch.from_numpy(encoder.encode(texts)).float() * scale,
        [prop for prop, _ in Counter(prop for _, prop in facts.identities).most_common(MOST_PROPERTIES)],
    )
    # Where everything was hidden there is no strongest triple: in use too, what got no mass is not found.
    missed = [judged(index, *found) for index, *found in zip(again, *without, strict=True) if float(found[0]) > 0]
    signs = judge.signs(
        [judged(index, *found) for index, *found in zip(range(len(asked)), *whole, strict=True)] + missed
    )
    # A single triple is no answer about a whole entity.
    right = [
        int(place) in one.facts and len(one.facts) == 1 for one, place in zip(asked, whole[1].tolist(), strict=True)
    ]
    single = torch.tensor([len(one.facts) == 1 for one in asked] + [False] * len(missed))
    # Of whole entities only the lesson above: refusing them is neither right nor wrong here.
    counted = torch.tensor([len(one.facts) < 2 for one in asked] + [True] * len(missed))
    return learn(signs, torch.tensor(right + [False] * len(missed)), single, counted)


@torch.no_grad()
def strongest_triples(
    attachment: Attachment,
    knowledge: ProjectedKnowledge,
    prompts: Sequence[Sequence[int]],
    questions: Tensor,
    hidden: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """(mass, place), each (prompts,): the triple with most attention of the evidence layer at each prompt's end.

    Args:
        questions: (prompts, P) float32.
        hidden: places of the triples that each prompt must not see.
    """
    masses, places = [], []
    asked = attachment.config.question_head is not None
    for start in range(0, len(prompts), _ROWS):
        rows = slice(start, start + _ROWS)
        ids, mask, last = right_padded(prompts[rows], attachment.model)
        bias = torch.zeros(len(ids), knowledge.num_triples, device=ids.device)
        for index, columns in enumerate(hidden[rows]):
            bias[index, list(columns)] = _HIDDEN
        seen: dict[str, Any] = {}
        question = questions[rows].to(ids.device) if asked else None
        with attachment.using(knowledge, bias=bias, question=question), attachment.observing(seen.update):
            attachment.model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
        line = torch.arange(len(ids), device=ids.device)
        query, lse = seen["query"][line, :, last].float(), seen["lse"][line, :, last]
        scores = torch.einsum("bhd,hmd->bhm", query, seen["knowledge"].key.float()) * seen["scale"]
        best = (scores + bias[:, None] - lse[..., None]).exp().mean(1).max(-1)
        masses.append(best.values.cpu())
        places.append(best.indices.cpu())
    return torch.cat(masses), torch.cat(places)


def learn(signs: Sequence[Signs], right: Tensor, known: Tensor, counted: Tensor) -> Calibration:
    """The weights that make right answers likely and others unlikely, near `PRIOR`; Newton's method in float64.

    Args:
        signs: of each question's strongest triple.
        right: bool, whether that triple answers.
        known: bool, whether the knowledge base has the answer.
        counted: bool, whether the figures count it.
    """
    prior = torch.tensor(PRIOR.weights, dtype=torch.float64)
    x = torch.tensor([one.numbers for one in signs], dtype=torch.float64).reshape(len(signs), len(prior))
    weights = _most_likely(x, right.double(), prior)
    confidence = Confidence(*(round(weight, 4) for weight in weights.tolist()))
    refused = torch.tensor([confidence.of(one) < KNOWN_ABOVE for one in signs], dtype=torch.bool)
    caught = int((refused & ~known & counted).sum())
    refusals, unknown = int((refused & counted).sum()), int((~known & counted).sum())
    return Calibration(
        confidence=confidence,
        known_above=KNOWN_ABOVE,
        precision=caught / max(1, refusals),
        recall=caught / max(1, unknown),
        f1=2 * caught / max(1, refusals + unknown),
        top1=float(right[known].double().mean()) if known.any() else 1.0,
        questions=int(counted.sum()),
    )


def _most_likely(x: Tensor, y: Tensor, prior: Tensor) -> Tensor:
    """The weights (6,) of least cost for signs (n, 6) and answers (n,); the cost is convex, so there is one minimum.

    Raises:
        TrainingError: it was not found.
    """

    def cost(weights: Tensor) -> Tensor:
        distance = (weights - prior).pow(2).sum() * (_PRIOR_WEIGHT / 2)
        return F.binary_cross_entropy_with_logits(x @ weights, y, reduction="sum") + distance

    weights = prior.clone()
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(x @ weights)
        slope = x.T @ (p - y) + _PRIOR_WEIGHT * (weights - prior)
        if float(slope.abs().max()) < _FLAT:
            return weights
        curve = (x * (p * (1 - p))[:, None]).T @ x + _PRIOR_WEIGHT * torch.eye(len(prior), dtype=x.dtype)
        step, length, before = torch.linalg.solve(curve, slope), 1.0, cost(weights)
        # A whole step may overshoot where nearly all answers are told apart.
        while cost(weights - length * step) > before - 1e-4 * length * (step @ slope) and length > 1e-9:
            length /= 2
        weights = weights - length * step
    raise TrainingError(
        "the weights of the confidence were not found; the signs of these questions may be out of all proportion"
    )
