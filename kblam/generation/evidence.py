"""Which triples an answer used: per token the best few by attention mass, never an N x M matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kblam.errors import StoreError
from kblam.knowledge import Triple
from kblam.models.judging import Judge, Judged
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import evidence

# Triples kept per generated token; no single answer rests on more than this at one token.
KEPT_PER_TOKEN = 16


@dataclass(frozen=True)
class Evidence:
    """A triple and how much of the answer's attention it got.

    Args:
        triple: from the knowledge base.
        mass: the largest share, over the answer's tokens, of the evidence layer's attention (mean of its heads)
            that went to this triple; between 0 and 1.
    """

    triple: Triple
    mass: float


@dataclass(frozen=True)
class Found:
    """A triple that got attention.

    Args:
        place: its knowledge token, the m of [0, M).
        triple: what it says.
        mass: the attention it got, of 0 .. 1.
        confidence: the probability that it answers the question, where that was judged.
        asks_everything: whether the question is about its entity as a whole.
    """

    place: int
    triple: Triple
    mass: float
    confidence: float | None = None
    asks_everything: bool = False


@dataclass
class EvidenceRecorder:
    """Observer of the evidence layer: keeps the top masses of the newest token at every forward pass.

    Attributes:
        masses, places: one (B, k) tensor per forward pass, of attention mass and of the knowledge token's place, the
            m of [0, M), largest mass first.
    """

    masses: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)

    def __call__(self, *, index: Tensor | None, **attention: Any) -> None:
        """Called by the attachment with what one attention used; see `Attachment.observing`."""
        heads = attention["query"].shape[1]
        mass = evidence(
            attention["query"][:, :, -1:],
            attention["knowledge"],
            attention["lse"][:, :, -1:],
            scale=attention["scale"],
            knowledge_bias=attention["bias"],
            knowledge_range=attention["knowledge_range"],
            row_weight=torch.full((), 1 / heads, device=attention["lse"].device),
            backend=attention["backend"],
        )
        best = mass.topk(min(KEPT_PER_TOKEN, mass.shape[-1]), dim=-1)
        # exp(score - lse) of a score in the hundreds is a few 1e-5 off in float32; a share must not exceed 1.
        self.masses.append(best.values.clamp(max=1))
        self.places.append(best.indices if index is None else index.gather(1, best.indices))

    def newest(self) -> list[list[tuple[int, float]]]:
        """(place, mass) of every batch row at the last forward pass, largest first, in one transfer from the device."""
        masses, places = self.masses[-1], self.places[-1]
        bits = torch.cat([masses.float(), places.int().view(torch.float32)], -1).cpu()
        kept = masses.shape[1]
        rows = zip(bits[:, kept:].contiguous().view(torch.int32).tolist(), bits[:, :kept].tolist(), strict=True)
        return [list(zip(places, masses, strict=True)) for places, masses in rows]

    def best(self, row: int, num_tokens: int, top: int) -> list[tuple[int, float]]:
        """(place, peak mass) of one batch row over its first `num_tokens` tokens, largest first."""
        peak: dict[int, float] = {}
        for masses, places in zip(self.masses[:num_tokens], self.places[:num_tokens], strict=True):
            for place, mass in zip(places[row].tolist(), masses[row].tolist(), strict=True):
                peak[place] = max(mass, peak.get(place, 0.0))
        return sorted(peak.items(), key=lambda item: -item[1])[:top]


def find(resident: ResidentKnowledge, best: Sequence[tuple[int, float]]) -> list[Found]:
    """The triples at places of the device copy, as of its last sync: what the answer is made from.

    Triples that another process removed meanwhile are left out, and so are places that got no attention at all, such
    as the unused rows of an over-allocated copy.
    """
    found = []
    for place, mass in best:
        if not mass > 0:
            continue
        try:
            found.append(Found(place, resident.triples_at([place])[0], mass))
        except StoreError as error:
            if type(error) is not StoreError:  # damaged or locked, not removed
                raise
    return found


def judged(
    judge: Judge | None, questions: Sequence[str | None], found: Sequence[Sequence[Found]]
) -> list[tuple[Found, ...]]:
    """What each question found, with the confidence that the strongest triple answers it, where that can be told."""
    every = [tuple(each) for each in found]
    if judge is None:
        return every
    asked = [row for row, (text, each) in enumerate(zip(questions, every, strict=True)) if text is not None and each]
    candidates = [
        Judged(str(questions[row]), first.triple.name, first.triple.property, first.mass)
        for row in asked
        for first in every[row][:1]
    ]
    for row, verdict in zip(asked, judge.verdicts(candidates), strict=True):
        every[row] = (replace(every[row][0], **verdict._asdict()), *every[row][1:])
    return every
