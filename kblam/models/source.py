"""What an attachment can put in force."""

from __future__ import annotations

from typing import Protocol

import torch

from kblam_kernels import DenseKnowledge


class KnowledgeSource(Protocol):
    """What can be put in force: `ProjectedKnowledge`, or the `ResidentKnowledge` of a knowledge base."""

    @property
    def num_triples(self) -> int:
        """M, the triples in force."""

    @property
    def dtype(self) -> torch.dtype:
        """dtype of keys and values."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def layer(self, layer: int) -> DenseKnowledge:
        """Keys and values of one knowledge layer."""
