"""A small judge and what it is asked, for tests."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from kblam import AdapterConfig, KnowledgeAdapter, KnowledgeBase, Triple
from kblam.adapter.confidence import Confidence
from kblam.models.judging import Candidate, Judged
from tests.fakes import HashingEncoder

WEIGHTS = Confidence(mass=1, name=5, property=2, other=-1, share=0.5, bias=-3, best=1)
SHAPE = {"embedding_dim": 16, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "head_dim": 4, "layers": (0, 1)}


class Counting(HashingEncoder):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(16)
        self.seen: list[str] = []

    def encode(self, texts, **options):  # type: ignore[no-untyped-def]
        self.seen += texts
        return super().encode(texts, **options)


def adapter(**options: object) -> KnowledgeAdapter:
    torch.manual_seed(0)
    given = {"property_width": 8, "confidence": WEIGHTS, "known_above": 0.5} | options
    return KnowledgeAdapter(AdapterConfig(**SHAPE, **given))  # type: ignore[arg-type]


def base(encoder: HashingEncoder, *properties: str) -> KnowledgeBase:
    return KnowledgeBase.from_triples([Triple(f"Anvil {n}", p, "x") for n, p in enumerate(properties)], encoder)


def vectors(encoder: HashingEncoder, texts: list[str]) -> torch.Tensor:
    return torch.from_numpy(encoder.encode(texts)).float()


def judged(question: str, *found: tuple[str, str, float]) -> Judged:
    return Judged(question, [Candidate(*one) for one in found])


def shares_of(
    asking: KnowledgeAdapter, asked: torch.Tensor, keys: torch.Tensor, said: dict[tuple[int, int], int] | None = None
) -> torch.Tensor:
    """Of how many words the properties are that the questions say is in `said`."""
    assert asking.property_head is not None
    more = torch.zeros(len(asked), len(keys))
    for place, count in (said or {}).items():
        more[place] = 2.0 * count
    return asking.property_head.log_shares(asked, asking.property_head.keys(keys), more=more)


def against(share: float, lacked: Iterable[float] = (), of_none: Iterable[float] = ()) -> float:
    """The sign of a property's share, beside what its entity lacks: of others' properties, and of nobody's."""
    return math.log(share / (share + math.fsum(lacked) + 0.1 * math.fsum(of_none) + 0.02))
