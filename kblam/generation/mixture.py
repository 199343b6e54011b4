"""How a plan is mixed into the next-token distribution, and how much the plan counts at each of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

# What a plan counts at most where a token is not certain.
MOST = 0.9999
# Tokens of the refusal sentence after which a row that said them by itself is held to it: a small model may else wander
# off into a sentence about what it has not found.
REFUSING = 4
# More attention than on everything else together: a name that has begun is finished.
_MAJORITY = 0.5


def weight_of(mass: Tensor, *, settled: Tensor, begun: Tensor, known: Tensor, sure: Tensor) -> Tensor:
    """w of each row's next planned token, float32 (B,); see `Pointer`.

    Args:
        mass: float32 (B,), of the planned triples, at the prompt's end or now, whichever is more.
        settled, begun: bool (B,), of the token (`Plan`).
        known: bool (B,), whether the decision counts as known.
        sure: bool (B,), whether the decision is sure and the model is not asked.
    """
    weight = torch.where(sure, MOST, mass.clamp(max=MOST))
    certain = settled | (begun & (known | (weight >= _MAJORITY)))
    return torch.where(certain, 1.0, weight)


def steer(scores: Tensor, target: Tensor, weight: Tensor, follows: Tensor, other: Tensor, refuses: Tensor) -> Tensor:
    """Scores (B, V), mixed with the plan of the rows that follow it, and with the refusal of those that have begun it.

    Args:
        target: int64 (B,), the plan's next token; any where it is not followed.
        weight: float32 (B,), what it counts.
        follows: bool (B,), whether what a row has said is a beginning of its plan.
        other: int64 (B,), the refusal sentence's next token.
        refuses: bool (B,), whether a row has said at least `REFUSING` tokens of that sentence, and nothing else.
    """
    # Not by itself, where the plan is certain and begins with the same words.
    refuses = refuses & ~(follows & (weight >= MOST))
    target, weight = torch.where(refuses, other, target), torch.where(refuses, 1.0, weight)
    return torch.where((follows | refuses)[:, None], _mixed(scores, target, weight), scores)


def _mixed(scores: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """log((1 - w) p + w [target]) of scores (B, V), target (B,) and w (B,), in the dtype of scores."""
    log_p = scores.float().log_softmax(-1)
    mixed = log_p + torch.log1p(-weight)[:, None]
    said = torch.logaddexp(mixed.gather(1, target[:, None]), weight.log()[:, None])
    return mixed.scatter(1, target[:, None], said).to(scores.dtype)
