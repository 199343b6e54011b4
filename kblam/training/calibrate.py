"""From which attention mass on a single triple a question counts as known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kblam.adapter import ProjectedKnowledge
from kblam.models import Attachment
from kblam.training.start import right_padded

_ROWS = 32
_HIDDEN = -1e9


@dataclass(frozen=True)
class Calibration:
    """What a threshold does on the questions it was chosen by.

    Args:
        known_above: the threshold.
        precision, recall: of refusals; `f1` is their harmonic mean.
        top1: answerable questions whose strongest triple is the right one.
        questions: how many there were.
    """

    known_above: float
    precision: float
    recall: float
    f1: float
    top1: float
    questions: int


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


def choose_threshold(known: Tensor, unknown: Tensor, right: Tensor) -> Calibration:
    """The threshold with the best F1 of refusals; the middle of the best ones where several are equally good.

    Args:
        known, unknown: masses of questions that have an answer and of ones that have none.
        right: bool, of each known one: whether its strongest triple is the right one.
    """
    candidates = torch.linspace(0.02, 0.98, 97)
    caught = (unknown[None] < candidates[:, None]).sum(1).float()
    lost = (known[None] < candidates[:, None]).sum(1).float()
    missed = len(unknown) - caught
    f1 = 2 * caught / (2 * caught + lost + missed).clamp(min=1)
    best = (f1 >= f1.max() - 1e-6).nonzero().squeeze(1)
    index = int(best[len(best) // 2])
    return Calibration(
        known_above=round(float(candidates[index]), 4),
        precision=float(caught[index] / (caught[index] + lost[index]).clamp(min=1)),
        recall=float(caught[index] / max(1, len(unknown))),
        f1=float(f1[index]),
        top1=float(right.float().mean()) if len(right) else 1.0,
        questions=len(known) + len(unknown),
    )
