"""One batch of training: questions with their answers, and where knowledge should be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """One training batch: B rows of L tokens over a knowledge base of M triples."""

    input_ids: torch.Tensor  # (B, L) int64, padded on the right
    labels: torch.Tensor  # (B, L) int64: the token after each position, IGNORE outside the answer
    attention_mask: torch.Tensor  # (B, L) bool
    bias: torch.Tensor  # (B, M) float32
    key_rows: torch.Tensor  # (M,) rows of the embedding cache
    value_rows: torch.Tensor  # (M,)
    first: torch.Tensor  # (B,) position of the last prompt token, which decides between answer and refusal
    refused: torch.Tensor  # (B,) bool
    evidence: torch.Tensor  # (E, 3) row, position, triple: where which triple should be attended to
    weight: torch.Tensor | None = None  # (B, L) float32: of each label in the loss; None weighs as the loss says
