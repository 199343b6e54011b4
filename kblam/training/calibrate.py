"""How sure an answer is: weights of the signs, learned from questions about facts that are there and that are not."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kblam.adapter import ProjectedKnowledge
from kblam.adapter.confidence import Confidence, Signs
from kblam.adapter.property_head import DESCRIBING, PropertyHead
from kblam.errors import TrainingError
from kblam.knowledge.encoders import layered
from kblam.knowledge.encoders.checked import encoded
from kblam.knowledge.names import Names
from kblam.models import Attachment
from kblam.models.judging import (
    CANDIDATES,
    CANDIDATES_NAMED,
    MOST_OF_NAME,
    MOST_PROPERTIES,
    Candidate,
    Judge,
    Judged,
)
from kblam.models.reach import read_to_evidence
from kblam.models.shares import is_one_of
from kblam.training.calibration_data import CalibrationData
from kblam.training.questions import Asked, Facts
from kblam.training.start import right_padded

_ROWS = 32
_HIDDEN = -1e9


# Where the weights start, and what they stay near where there are few questions: those of runs for SmolLM2.
PRIOR = Confidence(mass=0.7, name=10.0, property=2.1, other=-0.8, share=0.85, bias=-5.4, best=0.85, beaten=-1.2)
# Not one half: where two triples of an entity are as likely as each other, to say neither is wrong for certain.
KNOWN_ABOVE = 0.4
# So many questions weigh as much as a change of one in a weight.
_PRIOR_WEIGHT = 2.0
_NEWTON_STEPS = 200
# At the minimum: what one more step would gain, as a share of the cost. The cost itself is known to 1e-13 or so, so a
# slope of any fixed size may never be reached.
_ENOUGH = 1e-10
# Questions that are asked of one knowledge base, as far as its properties go; and of how many entities' properties.
# Tables have a dozen columns: where there are hundreds, much of what an entity lacks is near to what it has.
_ASKED_TOGETHER = 8
_ENTITIES = (1, 30)
# How often a fact that a question is asked without is one that others of the base have, as cells of a table are empty.
_OF_OTHERS = 0.8


@dataclass(frozen=True)
class Calibration:
    """What the weights do on the questions they were learned from.

    Args:
        confidence: the weights.
        known_above: the confidence from which a question counts as known.
        precision, recall: of refusals; `f1` is their harmonic mean.
        top1: answerable questions whose likeliest triple is the right one.
        questions: how many there were.
    """

    confidence: Confidence
    known_above: float
    precision: float
    recall: float
    f1: float
    top1: float
    questions: int


class Case(NamedTuple):
    """One question of a calibration.

    Args:
        signs: of each triple that it found.
        right: which of them answers; None if none does.
        is_known: whether the knowledge base has the answer, found or not.
        counts: whether the figures count it.
    """

    signs: Sequence[Signs]
    right: int | None
    is_known: bool
    counts: bool = True


class _Shown(NamedTuple):
    """A question, and what of the facts it may see."""

    asked: Asked
    row: int  # of the question
    hidden: tuple[int, ...] = ()


@torch.no_grad()
def calibrate(
    attachment: Attachment, data: CalibrationData, prompts: Sequence[Sequence[int]], head: PropertyHead
) -> Calibration:
    """Learns the weights from questions about facts, asked once with their facts and once without.

    Args:
        attachment: of the model, with the adapter.
        data: facts as a knowledge base, and questions about single ones, whole entities, and nothing that it has.
        prompts: token ids of each question's prompt.
        head: one that has not learned the phrasings of these questions: what those it has learned are worth says
            little about others.
    """
    model, adapter = attachment.model, attachment.adapter
    facts, asked, vectors = data.facts, data.asked, data.vectors
    # As the encoder gives them.
    keys, values = (vectors.of(texts) / vectors.scale for texts in (facts.key_texts, facts.values))
    knowledge = adapter.project(keys.to(attachment.device), values.to(attachment.device), dtype=model.dtype)
    questions = vectors.of(one.text for one in asked) / vectors.scale
    # Twice as many answerable questions as others, as a knowledge base is asked in use: every second one is asked
    # again, in turn without its entity and without its fact.
    again = [row for row, one in enumerate(asked) if len(one.facts) == 1][::2]
    shown = [_Shown(one, row) for row, one in enumerate(asked)]
    for number, row in enumerate(again):
        one = asked[row]
        fact = one.facts[0]
        hidden = facts.alike(fact) if number % 2 else facts.of_name(int(facts.owner[fact]))
        shown.append(_Shown(one, row, tuple(hidden)))
    rows = [one.row for one in shown]
    names, of_name = Names(), dict[str, list[int]]()
    for place, (name, _) in enumerate(facts.identities):
        of_name.setdefault(name, []).append(place)
    names.add(of_name)
    named = [
        [place for name in names.meant_in(one.text) for place in of_name[name]][:MOST_OF_NAME]  # as `ask` does
        for one in asked
    ]
    found = candidates(
        attachment,
        knowledge,
        [prompts[row] for row in rows],
        questions[rows],
        [named[row] for row in rows],
        [one.hidden for one in shown],
    )

    known, encoder = dict[str, Tensor](), layered(data.encoder, adapter.config.property_layers)

    def encode(texts: list[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, torch.from_numpy(encoded(encoder, new)), strict=True))
        return torch.stack([known[text] for text in texts])

    judge = Judge(adapter, encode, names=(name for name, _ in facts.identities), head=head)
    return learn(_cases(judge, facts, shown, found))


def _cases(
    judge: Judge, facts: Facts, shown: Sequence[_Shown], found: Sequence[Sequence[tuple[int, float]]]
) -> list[Case]:
    """The signs of what the questions found; a few questions at a time are asked of a base that has few properties.

    In use, most bases have properties of one kind, and what one of its entities lacks others have, or none.
    """
    draw, order = random.Random(0), list(range(len(shown)))
    draw.shuffle(order)
    cases: list[Case] = []
    for start in range(0, len(order), _ASKED_TOGETHER):
        together = order[start : start + _ASKED_TOGETHER]
        judge.compare_with(_properties(facts, [shown[row] for row in together], draw))
        judged = [
            Judged(
                shown[row].asked.text,
                [Candidate(*facts.identities[place], mass) for place, mass in found[row]],
            )
            for row in together
        ]
        for row, signs in zip(together, judge.signs(judged), strict=True):
            one = shown[row]
            answers = [] if one.hidden else _answers(facts, one.asked)
            right = next((at for at, (place, _) in enumerate(found[row]) if place in answers), None)
            # Of whole entities only the lesson: refusing them is neither right nor wrong here.
            cases.append(Case(signs, right, bool(answers), counts=len(one.asked.facts) < 2))
    return cases


def _answers(facts: Facts, asked: Asked) -> list[int]:
    """The fact that answers; a single one says nothing of a whole entity, unless it describes it."""
    if len(asked.facts) == 1:
        return list(asked.facts)
    return [fact for fact in asked.facts if is_one_of(facts.identities[fact][1], DESCRIBING)][:1]


def _properties(facts: Facts, shown: Sequence[_Shown], draw: random.Random) -> list[str]:
    """Of the entities asked about, mostly of what is hidden of them too, and of some others; the most used first."""
    few, many = _ENTITIES
    size = min(len(facts.entities), round(math.exp(draw.uniform(math.log(few), math.log(many)))))
    used = Counter(prop for entity in draw.sample(facts.entities, size) for prop in entity.facts)
    for one in shown:
        owners = {int(facts.owner[fact]) for fact in one.asked.facts}
        hidden = set[int]() if draw.random() < _OF_OTHERS else set(one.hidden)
        seen = {place for owner in owners for place in facts.of_entity(owner)} - hidden
        used.update(facts.identities[place][1] for place in seen)
    return [prop for prop, _ in used.most_common(MOST_PROPERTIES)]


@torch.no_grad()
def candidates(
    attachment: Attachment,
    knowledge: ProjectedKnowledge,
    prompts: Sequence[Sequence[int]],
    questions: Tensor,
    named: Sequence[Sequence[int]],
    hidden: Sequence[Sequence[int]],
) -> list[list[tuple[int, float]]]:
    """(place, mass) of the triples that each prompt finds at its end, as `ask` does: the strongest, and those named.

    Args:
        questions: (prompts, P) float32.
        named: places of the triples whose names each question says.
        hidden: places of the triples that each prompt must not see.
    """
    found: list[list[tuple[int, float]]] = []
    asked = attachment.config.question_head is not None
    for start in range(0, len(prompts), _ROWS):
        rows = slice(start, start + _ROWS)
        ids, mask, last = right_padded(prompts[rows], attachment.input_device)
        bias = torch.zeros(len(ids), knowledge.num_triples, dtype=torch.float32, device=attachment.device)
        for index, columns in enumerate(hidden[rows]):
            bias[index, list(columns)] = _HIDDEN
        seen: dict[str, Any] = {}
        question = questions[rows].to(attachment.device) if asked else None
        with attachment.using(knowledge, bias=bias, question=question):
            places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
            read_to_evidence(attachment, seen.update, ids, mask, places)
        line, last = torch.arange(len(ids), device=attachment.device), last.to(attachment.device)
        query, lse = seen["query"][line, :, last].float(), seen["lse"][line, :, last]
        scores = torch.einsum("bhd,hmd->bhm", query, seen["knowledge"].key.float()) * seen["scale"]
        masses = (scores + bias[:, None] - lse[..., None]).exp().mean(1)
        best = masses.topk(min(CANDIDATES, knowledge.num_triples), -1)
        for row, (places, values) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True), start):
            strongest = {place: mass for place, mass in zip(places, values, strict=True) if mass > 0}
            unseen = {*strongest, *hidden[row]}
            shown = [place for place in named[row] if place not in unseen]
            of_named = sorted(((place, float(masses[row - start, place])) for place in shown), key=lambda one: -one[1])
            found.append([*strongest.items(), *of_named[:CANDIDATES_NAMED]])
    return found


def learn(cases: Sequence[Case]) -> Calibration:
    """The weights that make right answers likely and others unlikely, near `PRIOR`; Newton's method in float64."""
    confidence = Confidence(*(round(weight, 4) for weight in _most_likely(cases).tolist()))
    refused = caught = unknown = right = 0
    for case in cases:
        odds = confidence.among(case.signs)
        best = max(range(len(odds)), key=odds.__getitem__, default=None)
        right += case.is_known and best is not None and best == case.right
        if case.counts:
            is_refused = best is None or odds[best] < KNOWN_ABOVE
            refused += is_refused
            unknown += not case.is_known
            caught += is_refused and not case.is_known
    known = sum(case.is_known for case in cases)
    return Calibration(
        confidence=confidence,
        known_above=KNOWN_ABOVE,
        precision=caught / max(1, refused),
        recall=caught / max(1, unknown),
        f1=2 * caught / max(1, refused + unknown),
        top1=right / known if known else 1.0,
        questions=sum(case.counts for case in cases),
    )


def _most_likely(cases: Sequence[Case]) -> Tensor:
    """The weights (8,) of least cost; the cost is convex, so there is one minimum.

    Raises:
        TrainingError: it was not found.
    """
    prior = torch.tensor(PRIOR.weights, dtype=torch.float64)
    most = max((len(case.signs) for case in cases), default=0) + 1
    x = torch.zeros(len(cases), most, len(prior), dtype=torch.float64)
    absent = torch.ones(len(cases), most, dtype=torch.bool)
    absent[:, 0] = False  # none of them, with log odds of zero
    for row, case in enumerate(cases):
        if case.signs:
            count = len(case.signs)
            x[row, 1 : count + 1] = torch.tensor([one.numbers for one in case.signs], dtype=torch.float64)
            absent[row, 1 : count + 1] = False
    right = torch.tensor([0 if case.right is None else case.right + 1 for case in cases], dtype=torch.int64)
    wanted = x[torch.arange(len(cases)), right].sum(0)

    def log_shares(weights: Tensor) -> Tensor:
        return (x @ weights).masked_fill(absent, -torch.inf).log_softmax(-1)

    def cost(weights: Tensor) -> Tensor:
        distance = (weights - prior).pow(2).sum() * (_PRIOR_WEIGHT / 2)
        return distance - log_shares(weights)[torch.arange(len(cases)), right].sum()

    weights = prior.clone()
    for _ in range(_NEWTON_STEPS):
        shares = log_shares(weights).exp()
        mean = torch.einsum("nk,nkw->nw", shares, x)
        slope = mean.sum(0) - wanted + _PRIOR_WEIGHT * (weights - prior)
        curve = torch.einsum("nk,nkv,nkw->vw", shares, x, x) - mean.T @ mean
        curve = curve + _PRIOR_WEIGHT * torch.eye(len(prior), dtype=x.dtype)
        step, length, before = torch.linalg.solve(curve, slope), 1.0, cost(weights)
        if step @ slope <= _ENOUGH * (1 + before):
            return weights
        # A whole step may overshoot where nearly all answers are told apart.
        while cost(weights - length * step) > before - 1e-4 * length * (step @ slope) and length > 1e-9:
            length /= 2
        weights = weights - length * step
    raise TrainingError(
        "the weights of the confidence were not found; the signs of these questions may be out of all proportion"
    )
