"""Which property a question asks for, its name aside: two linear maps of encodings, compared by their cosine.

The projections of attention have another task, in which names count most. This one is learned for properties alone
(`kblam.training.properties`). Of properties that it has not learned the encoder's own cosine knows more than the maps
do, so that is added, and the maps learn what it lacks. A question may be read with hidden states of the encoder before
its sentence vector (`kblam.knowledge.encoders.layered`); properties' keys are always sentence vectors.
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
# Of these, what "Describe it" means: where an entity lacks it, that asks for everything.
DESCRIBING_ALL = frozenset({"description", "summary"})
_SCALE, _OWN_SCALE = 8.0, 12.0  # of the maps' cosine and the encoder's own, before training


class PropertyHead(nn.Module):
    """Scores of properties for questions; the length of a vector does not count.

    Args:
        embedding_dim: P, of sentence vectors.
        width: of the space in which they are compared.
        cosine: whether the encoder's own cosine is added; adapters of before have maps alone.
        layers: L, how many of the encoder's layers a question comes with, each P wide, before its sentence vector.

    Attributes:
        question: Linear((L + 1) P, width), without a bias if L is 0.
        property: bias-free Linear(P, width).
        log_scale: () float32, of what the maps' cosines are multiplied by.
        log_cosine: () float32, of what the encoder's own are; only with `cosine`.
    """

    log_cosine: nn.Parameter | None

    def __init__(self, embedding_dim: int, width: int, *, cosine: bool = True, layers: int = 0) -> None:
        super().__init__()
        # Hidden states of all texts have much in common, which the bias takes away.
        self.question = nn.Linear((layers + 1) * embedding_dim, width, bias=layers > 0)
        self.property = nn.Linear(embedding_dim, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))
        own = nn.Parameter(torch.tensor(math.log(_OWN_SCALE))) if cosine else None
        self.register_parameter("log_cosine", own)

    def keys(self, vectors: Tensor) -> Tensor:
        """What questions are compared with: (V, P) vectors of key texts about `PRONOUN` -> (V, K).

        K is width, and P more with `cosine`; each of the two parts has length 1.
        """
        vectors = self._as_own(vectors)
        mapped = F.normalize(self.property(vectors), dim=-1)
        return mapped if self.log_cosine is None else torch.cat([mapped, F.normalize(vectors, dim=-1)], -1)

    def forward(self, questions: Tensor, keys: Tensor, *, dropout: float = 0.0) -> Tensor:
        """(B, (L + 1) P) encodings of questions about `PRONOUN` and (V, K) `keys` -> scores (B, V).

        Args:
            dropout: of the vectors that the maps see, in training.
        """
        questions = self._as_own(questions)
        asked = F.normalize(self.question(F.dropout(questions, dropout)), dim=-1) * self.log_scale.exp()
        if self.log_cosine is not None:
            sentence = questions[..., -self.property.in_features :]
            asked = torch.cat([asked, F.normalize(sentence, dim=-1) * self.log_cosine.exp()], -1)
        scores: Tensor = asked @ keys.T
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
