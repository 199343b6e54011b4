"""Which triples an answer used: per token the best few by attention mass, never an N x M matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kblam.knowledge import Triple
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


@dataclass
class EvidenceRecorder:
    """Observer of the evidence layer: keeps the top masses of the newest token at every forward pass.

    Attributes:
        masses, places: one (B, k) tensor per forward pass, of attention mass and of the knowledge token's place, the
            m of [0, M).
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

    def best(self, row: int, num_tokens: int, top: int) -> list[tuple[int, float]]:
        """(place, peak mass) of one batch row over its first `num_tokens` tokens, largest first."""
        peak: dict[int, float] = {}
        for masses, places in zip(self.masses[:num_tokens], self.places[:num_tokens], strict=True):
            for place, mass in zip(places[row].tolist(), masses[row].tolist(), strict=True):
                peak[place] = max(mass, peak.get(place, 0.0))
        return sorted(peak.items(), key=lambda item: -item[1])[:top]
