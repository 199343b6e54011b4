"""Whether an adapter was ever trained: its weights show it, whatever its files say."""

from __future__ import annotations

import math

import torch
from torch import nn

from kblam.adapter.adapter import KnowledgeAdapter


@torch.no_grad()
def looks_untrained(adapter: KnowledgeAdapter) -> bool:
    """Whether keys and values are projected by the weights that PyTorch draws for a new `Linear`.

    Those lie evenly between -1/sqrt(in) and 1/sqrt(in); a few hundred steps of training leave nothing of that. False
    for an adapter that projects nothing (identity).
    """
    layers = [one for one in _projectors(adapter).modules() if type(one) is nn.Linear]
    return bool(layers) and all(_is_as_drawn(layer.weight) for layer in layers)


def untrained_text(called: str) -> str:
    """What a reader is told of such an adapter, by the name that he gave it."""
    return f"the adapter ({called}) is untrained: what it finds is chance; train one with `kblam train`"


def _projectors(adapter: KnowledgeAdapter) -> nn.Module:
    return nn.ModuleList([adapter.key_projector, adapter.value_projector])


def _is_as_drawn(weight: torch.Tensor) -> bool:
    drawn = weight.float() * math.sqrt(weight.shape[1])
    largest, spread = drawn.abs().max().item(), drawn.std().item() * math.sqrt(3)
    return 0.9 < largest < 1.01 and 0.9 < spread < 1.1  # half precision rounds, few numbers scatter
