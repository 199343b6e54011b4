"""The maps from sentence embeddings to the flat vector of all slots, and to a question's hidden layer."""

from __future__ import annotations

from torch import nn

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
    """Linear(P, question_hidden_dim) and GELU for an mlp question head; the identity otherwise."""
    if config.question_head != "mlp":
        return nn.Identity()
    return nn.Sequential(nn.Linear(config.embedding_dim, config.question_hidden_dim), nn.GELU())
