"""Knowledge that an attachment can use."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from kblam_kernels import DenseKnowledge, LatentKnowledge


class KnowledgeSource(Protocol):
    """Knowledge that a model can attend to: `ProjectedKnowledge` or `ResidentKnowledge`."""

    @property
    def num_triples(self) -> int:
        """M, the triples in force."""

    @property
    def filled(self) -> Tensor | None:
        """int32 (1, 2), [0, M), if there are more rows than triples; None if every row holds one."""

    @property
    def log_count(self) -> Tensor | float:
        """log M, 0 without triples; float32 () on the device where M may change."""

    @property
    def dtype(self) -> torch.dtype:
        """The model's dtype, for which the knowledge was made."""

    @property
    def device(self) -> torch.device:
        """The device that holds it."""

    def layer(self, layer: int, new_tokens: int = 1) -> DenseKnowledge | LatentKnowledge:
        """What one knowledge layer attends to in a forward pass of `new_tokens` a row, whatever the batch."""
