"""Which property a question asks for, its name aside: two linear maps of sentence vectors, compared by their cosine.

The projections of attention have another task, in which names count most. This one is learned for properties alone
(`kblam.training.properties`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Stands for every name. Questions and keys are read with it where only their properties are compared.
PRONOUN = "it"
# Beside the properties: what "Tell me about it" asks for.
EVERYTHING = "everything"
# What such a question is best answered by, where an entity has one of them.
DESCRIBING = frozenset({"description", "definition", "meaning", "summary"})
_SCALE = 8.0  # of a cosine, before training


class PropertyHead(nn.Module):
    """Scores of properties for questions; the length of a vector does not count.

    Args:
        embedding_dim: P, of sentence vectors.
        width: of the space in which they are compared.

    Attributes:
        question, property: bias-free Linear(P, width).
        log_scale: () float32, of what cosines are multiplied by.
    """

    def __init__(self, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.question = nn.Linear(embedding_dim, width, bias=False)
        self.property = nn.Linear(embedding_dim, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))

    def keys(self, vectors: Tensor) -> Tensor:
        """What questions are compared with: (V, P) vectors of key texts about `PRONOUN` -> (V, width) of length 1."""
        return F.normalize(self.property(self._as_own(vectors)), dim=-1)

    def forward(self, questions: Tensor, keys: Tensor) -> Tensor:
        """(B, P) vectors of questions about `PRONOUN` and (V, width) `keys` -> scores (B, V)."""
        asked = F.normalize(self.question(self._as_own(questions)), dim=-1)
        scores: Tensor = asked @ keys.T * self.log_scale.exp()
        return scores

    @torch.no_grad()
    def log_shares(
        self, questions: Tensor, keys: Tensor, left_out: Tensor | None = None, more: Tensor | None = None
    ) -> Tensor:
        """Log of each property's share: as `forward`, float32.

        Args:
            left_out: bool (B, V), keys that take no share in a row.
            more: (B, V), added to the scores.
        """
        scores = self(questions, keys).float()
        if more is not None:
            scores = scores + more.to(scores.device)
        if left_out is not None:
            scores = scores.masked_fill(left_out.to(scores.device), -torch.inf)
        return scores.log_softmax(-1)

    def _as_own(self, vectors: Tensor) -> Tensor:
        weight = self.question.weight
        return vectors.to(weight.device, weight.dtype)
