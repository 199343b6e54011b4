"""What a model with knowledge is trained on: the answer's tokens, and where its evidence layer should look.

From scratch, cross entropy alone finds no retrieval within thousands of steps. Two further terms at the evidence
layer, for every head: `-log p(true triple)` at the last prompt token and where a value is being written, and
`-log(1 - knowledge mass)` at the last prompt token of a question that has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam.data.batch import IGNORE, Batch

FIRST_TOKEN_WEIGHT = 0.5  # the token that decides between answer and refusal, against all others together
REFUSAL_WEIGHT = 2.0
# The last prompt token decides between answer and refusal; each answer has it once, and several tokens of value.
FIRST_EVIDENCE_WEIGHT = 3.0


@dataclass
class Candidates:
    """The part of the vocabulary that takes part in one training step.

    All tokens of the batch, the nearest neighbours of the answer's tokens (the mistakes that copying a name
    invites) and a random sample.
    """

    tokens: Tensor  # (C,) sorted token ids
    position: Tensor  # (V,) index in `tokens`, or -1

    @classmethod
    def draw(cls, parts: list[Batch], neighbours: Tensor, sample: int, generator: torch.Generator) -> Candidates:
        """`neighbours` (V, k) are token ids; `sample` is how many random tokens to add."""
        vocabulary = neighbours.shape[0]
        inputs = torch.cat([batch.input_ids.flatten() for batch in parts])
        answer = torch.cat([batch.labels[batch.labels != IGNORE] for batch in parts]).unique()
        random = torch.randint(vocabulary, (sample,), generator=generator)
        tokens = torch.cat([inputs, answer, neighbours[answer].flatten(), random]).unique()
        position = torch.full((vocabulary,), -1)
        position[tokens] = torch.arange(len(tokens))
        return cls(tokens, position)


def nearest_tokens(table: Tensor, count: int) -> Tensor:
    """(V, count) ids of the tokens with the largest cosine in the encoder's table (rows of unit norm)."""
    rows = [(chunk @ table.T).topk(count + 1).indices[:, 1:] for chunk in table.split(2048)]
    return torch.cat(rows)


def answer_loss(hidden: Tensor, embeddings: Tensor, batch: Batch, candidates: Candidates) -> Tensor:
    """Cross entropy over the candidates, summed over rows: the first token's, weighted, plus the mean of the others.

    Args:
        hidden: (B, L, width), the base model's last hidden states.
        embeddings: (C, width) of the candidates.
    """
    answer = batch.labels != IGNORE
    logits = (hidden[answer] @ embeddings.T).float()
    loss = F.cross_entropy(logits, candidates.position[batch.labels[answer]], reduction="none")
    weight = (1 / (answer.sum(1, keepdim=True) - 1)).expand(answer.shape)
    weight = weight.scatter(1, batch.first[:, None], FIRST_TOKEN_WEIGHT)
    return (loss * weight[answer]).sum()


def sentence_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the answers' tokens, weighted by `batch.weight`, summed over rows.

    Args:
        logits: (A, V), at the A places where `batch.labels` has a label, row by row.
    """
    assert batch.weight is not None
    said = batch.labels != IGNORE
    loss = F.cross_entropy(logits.float(), batch.labels[said], reduction="none")
    return (loss * batch.weight[said]).sum()


def evidence_weight(batch: Batch) -> Tensor:
    """(E,) weight of each row of `batch.evidence` in the retrieval term."""
    row, position, _ = batch.evidence.unbind(1)
    weight = torch.ones_like(position, dtype=torch.float32)
    return weight.masked_fill(position == batch.first[row], FIRST_EVIDENCE_WEIGHT)


def evidence_loss(query: Tensor, lse: Tensor, keys: Tensor, batch: Batch, scale: float) -> tuple[Tensor, Tensor]:
    """(retrieval, refusal) terms of the evidence layer, each a mean over heads, summed over its positions.

    The retrieval term is weighted by `evidence_weight`.

    Args:
        query: (B, H, N, D) knowledge queries of the layer.
        lse: (B, H, N) log sum of exponentials over knowledge and prompt.
        keys: (H, M, D) of the layer.
        scale: of the layer's scores, as its attention has it.
    """
    row, position, triple = batch.evidence.unbind(1)
    true_score = (query[row, :, position].float() * keys[:, triple].transpose(0, 1).float()).sum(-1) * scale
    log_share = (true_score + batch.bias[row, triple][:, None] - lse[row, :, position]).mean(1)
    retrieval = -(log_share * evidence_weight(batch)).sum()
    refused = batch.refused.nonzero().squeeze(1)
    if len(refused) == 0:
        return retrieval, retrieval.new_zeros(())
    at = batch.first[refused]
    scores = torch.einsum("rhd,hmd->rhm", query[refused, :, at].float(), keys.float()) * scale
    # A row may see no triple at all: a floor instead of -inf keeps its gradient 0 and not NaN.
    scores = scores + batch.bias[refused][:, None].clamp(min=-1e4)
    log_mass = scores.logsumexp(-1) - lse[refused, :, at]
    refusal = -torch.log1p(-log_mass.exp().clamp(max=1 - 1e-6)).mean(1).sum()
    return retrieval, refusal
