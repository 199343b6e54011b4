"""From which attention mass on a single triple a question counts as known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam.adapter import ProjectedKnowledge
from kblam.data.mention import mentions
from kblam.models import Attachment
from kblam.training.questions import Asked, Facts
from kblam.training.start import right_padded
from kblam.training.vectors import Vectors

_ROWS = 32
_HIDDEN = -1e9


@dataclass(frozen=True)
class Calibration:
    """What thresholds do on the questions they were chosen by.

    Args:
        known_above: the mass of the strongest triple from which a question counts as known.
        named_above: the same where the question says that triple's name and property in so many words.
        precision, recall: of refusals; `f1` is their harmonic mean.
        top1: answerable questions whose strongest triple is the right one.
        questions: how many there were.
    """

    known_above: float
    named_above: float
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
    *,
    scale: float = 1.0,
) -> Calibration:
    """Chooses the thresholds on questions about facts, asked once with their facts and once without.

    Args:
        attachment: of the model, with the adapter.
        facts: the knowledge base.
        asked: questions about single facts, and about nothing that it has.
        vectors: of all key texts, values and questions.
        prompts: token ids of each question's prompt.
        scale: factor on the vectors that the adapter expects; 1 for an adapter as users get it.
    """
    model, adapter = attachment.model, attachment.adapter
    keys, values = (vectors.of(texts) * (scale / vectors.scale) for texts in (facts.key_texts, facts.values))
    knowledge = adapter.project(keys.to(model.device), values.to(model.device), dtype=model.dtype)
    questions = vectors.of(one.text for one in asked) * (scale / vectors.scale)
    # Twice as many answerable questions as others, as a knowledge base is asked in use: every second one is asked
    # again, in turn without its entity and without its fact.
    again = [index for index, one in enumerate(asked) if one.facts][::2]
    hidden = [
        asked[index].facts if number % 2 else tuple(facts.of_entity(int(facts.owner[asked[index].facts[0]])))
        for number, index in enumerate(again)
    ]
    whole = strongest_triples(attachment, knowledge, prompts, questions, [()] * len(asked))
    without = strongest_triples(attachment, knowledge, [prompts[index] for index in again], questions[again], hidden)

    def named(indices: Sequence[int], places: Tensor) -> Tensor:
        pairs = zip(indices, places.tolist(), strict=True)
        return torch.tensor([mentions(asked[index].text, *facts.identities[place]) for index, place in pairs])

    everything = list(range(len(asked)))
    is_known = torch.tensor([bool(one.facts) for one in asked])
    right = torch.tensor([int(place) in one.facts for one, place in zip(asked, whole[1].tolist(), strict=True)])
    says = named(everything, whole[1])
    unknown = torch.cat([without[0], whole[0][~is_known]])
    unknown_says = torch.cat([named(again, without[1]), says[~is_known]])
    return choose_thresholds(whole[0][is_known], says[is_known], unknown, unknown_says, right[is_known])


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


def _middle(chosen: Tensor) -> int:
    """The middle one of the places where a (n,) bool holds."""
    places = chosen.nonzero().squeeze(1)
    return int(places[len(places) // 2])


def choose_thresholds(
    known: Tensor, known_named: Tensor, unknown: Tensor, unknown_named: Tensor, right: Tensor
) -> Calibration:
    """The pair of thresholds with the best F1 of refusals; the middle of the best ones where several are equally good.

    Args:
        known, unknown: masses of questions that have an answer and of ones that have none.
        known_named, unknown_named: bool, whether each says its strongest triple's name and property.
        right: bool, of each known one: whether its strongest triple is the right one.
    """
    grid = torch.linspace(0.02, 0.98, 97)

    def below(masses: Tensor) -> Tensor:
        return (masses[None] < grid[:, None]).sum(1).float()

    # (97, 97): rows are named_above, columns known_above.
    caught = below(unknown[unknown_named])[:, None] + below(unknown[~unknown_named])[None]
    lost = below(known[known_named])[:, None] + below(known[~known_named])[None]
    f1 = 2 * caught / (caught + lost + len(unknown)).clamp(min=1)
    # Saying the name and the property never asks for more mass.
    f1 = f1.masked_fill(torch.ones_like(f1).tril(-1).bool(), -1.0)
    is_best = f1 >= f1.max() - 1e-6
    column = _middle(is_best.any(0))
    row = _middle(is_best[:, column])
    at = caught[row, column], lost[row, column]
    return Calibration(
        known_above=round(float(grid[column]), 4),
        named_above=round(float(grid[row]), 4),
        precision=float(at[0] / (at[0] + at[1]).clamp(min=1)),
        recall=float(at[0] / max(1, len(unknown))),
        f1=float(f1[row, column]),
        top1=float(right.float().mean()) if len(right) else 1.0,
        questions=len(known) + len(unknown),
    )
