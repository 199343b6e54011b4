"""Which property a question asks for, its name aside: the adapter's own comparison of questions and keys."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam.adapter.adapter import KnowledgeAdapter

# Stands for every name. Questions and keys are read with it where only their properties are compared.
PRONOUN = "it"
# Beside the properties: what "Tell me about it" asks for.
EVERYTHING = "everything"
# What such a question is best answered by, where an entity has one of them.
DESCRIBING = frozenset({"description", "definition", "meaning", "summary"})


@torch.no_grad()
def project_properties(adapter: KnowledgeAdapter, keys: Tensor) -> Tensor:
    """What questions are compared with: (V, P) vectors of key texts about `PRONOUN` -> (V, S, Hq, D) float32."""
    config = adapter.config
    device = next(adapter.parameters()).device
    projected = adapter.project_keys(keys.to(device))
    return projected.unflatten(-1, (config.num_slots, config.num_heads, config.head_dim)).float()


@torch.no_grad()
def property_shares(
    adapter: KnowledgeAdapter, questions: Tensor, projected: Tensor, left_out: Tensor | None = None
) -> Tensor:
    """Log of each property's share: (B, P) vectors of questions and (V, S, Hq, D) projected keys -> (B, V).

    The score is the question's part of the knowledge query times the key, a mean over heads and knowledge layers.

    Args:
        adapter: with a question head.
        projected: of `project_properties`.
        left_out: bool (B, V), keys that take no share in a row.
    """
    config, device = adapter.config, projected.device
    scores = torch.zeros(len(questions), len(projected), device=device)
    for layer in config.knowledge_layers:
        asking = adapter.question_part(layer, questions.to(device)).unflatten(-1, (config.num_heads, config.head_dim))
        scores += torch.einsum("bhd,vhd->bv", asking.float(), projected[:, config.slot_of(layer)])
    scale = config.head_dim**-0.5 / (config.num_heads * len(config.knowledge_layers))
    if left_out is not None:
        scores = scores.masked_fill(left_out.to(device), -torch.inf)
    return (scores * scale).log_softmax(-1)
