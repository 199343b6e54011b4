"""The maps from sentence embeddings to the flat vector of all slots, and to a question's hidden layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kblam.adapter.config import AdapterConfig


def build_projector(config: AdapterConfig) -> nn.Module:
    """Linear(P, out_dim); an MLP with upstream's layout; or the identity.

    The MLP is Linear(P, h) with no activation, then `mlp_depth` times (Linear(h, h), exact GELU), then
    Linear(h, out_dim): upstream's order, so that its checkpoints load name by name.
    """
    if config.projector == "identity":
        return nn.Identity()
    if config.projector == "linear":
        return nn.Linear(config.embedding_dim, config.out_dim)
    hidden = config.mlp_hidden_dim
    layers: list[nn.Module] = [nn.Linear(config.embedding_dim, hidden)]
    for _ in range(config.mlp_depth):
        layers += [nn.Linear(hidden, hidden), nn.GELU()]
    return nn.Sequential(*layers, nn.Linear(hidden, config.out_dim))


def build_question_trunk(config: AdapterConfig) -> nn.Module:
    """What an mlp question head puts before its linear heads; the identity otherwise."""
    if config.question_head != "mlp":
        return nn.Identity()
    return ResidualMLP(config.embedding_dim, config.question_hidden_dim)


class ResidualMLP(nn.Module):
    """x + W_2 GELU(W_1 x), (..., P) -> (..., P). It starts as the identity: W_2 is zero.

    A question is projected once for an answer; only compiled, or with gradients, once in every layer at every step.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.gelu(self.up(x)))
        return out
