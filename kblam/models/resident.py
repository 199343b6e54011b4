"""A knowledge base on the model's device: projected once, updated row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.errors import EncoderMismatchError
from kblam.knowledge import DeviceEmbeddings, KnowledgeBase, Triple
from kblam.models.attach import Attachment
from kblam_kernels import DenseKnowledge

# Rows projected at a time: bounds the scratch memory of a large knowledge base.
PROJECTION_ROWS = 4096


class ResidentKnowledge:
    """Dense keys and values of a knowledge base for every knowledge layer, over-allocated.

    Changing one triple rewrites one row of each layer in place: no tensor moves, so a captured CUDA graph or a
    compiled model keeps reading the right memory. The number of filled rows and its logarithm are tensors on the
    device for the same reason.

    Args:
        knowledge_base: the triples; `sync` follows its later changes.
        adapter: what projects them.
        dtype, device: of the model.

    Attributes:
        filled: int32 (1, 2), [0, M): the rows in use.
        log_count: float32 (), log M.

    Raises:
        EncoderMismatchError: if the knowledge base was built with another encoder than the adapter's.
    """

    def __init__(
        self,
        knowledge_base: KnowledgeBase,
        adapter: KnowledgeAdapter,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        config = adapter.config
        if config.encoder is not None and config.encoder != knowledge_base.fingerprint:
            raise EncoderMismatchError(
                f"the adapter was trained with encoder {config.encoder!r}, the knowledge base was built with "
                f"{knowledge_base.fingerprint!r}; rebuild the knowledge base with the adapter's encoder"
            )
        self.knowledge_base = knowledge_base
        self.adapter = adapter
        self.dtype = dtype
        self.device = device
        self.embeddings = DeviceEmbeddings(config.embedding_dim, dtype=torch.float32, device=device)
        self.filled = torch.zeros(1, 2, dtype=torch.int32, device=device)
        self.log_count = torch.zeros((), dtype=torch.float32, device=device)
        self._layers: dict[int, DenseKnowledge] = {}
        self.sync()

    @property
    def num_triples(self) -> int:
        """M, the triples in force."""
        return self.embeddings.count

    def layer(self, layer: int) -> DenseKnowledge:
        """(Hq, capacity, D) keys and values of one layer; rows from M on are unused, see `filled`."""
        return self._layers[layer]

    def sync(self) -> int:
        """Takes in what changed in the knowledge base since the last call; returns how many rows were rewritten."""
        rows = self.embeddings.sync(self.knowledge_base)
        capacity = self.embeddings.key.shape[0]
        if not self._layers or next(iter(self._layers.values())).num_tokens != capacity:
            self._allocate(capacity)
            rows = list(range(self.embeddings.count))
        for start in range(0, len(rows), PROJECTION_ROWS):
            self._project(torch.tensor(rows[start : start + PROJECTION_ROWS], device=self.device))
        self.filled[0, 1] = self.embeddings.count
        self.log_count.fill_(max(self.embeddings.count, 1)).log_()
        return len(rows)

    def triples_at(self, rows: list[int]) -> list[Triple]:
        """The triples that sit in these rows."""
        return self.knowledge_base.triples_at([self.embeddings.ids[row] for row in rows])

    def _allocate(self, capacity: int) -> None:
        config = self.adapter.config
        shape = (config.num_heads, capacity, config.head_dim)

        def zeros() -> Tensor:
            # Zeros, not garbage: an unused row's score is finite and its weight exactly 0.
            return torch.zeros(shape, dtype=self.dtype, device=self.device)

        self._layers = {layer: DenseKnowledge(zeros(), zeros()) for layer in config.knowledge_layers}

    @torch.no_grad()
    def _project(self, rows: Tensor) -> None:
        projected = self.adapter.project(self.embeddings.key[rows], self.embeddings.value[rows], dtype=self.dtype)
        for layer, dense in self._layers.items():
            fresh = projected.layer(layer)
            dense.key[:, rows] = fresh.key
            dense.value[:, rows] = fresh.value


def resident_for(attachment: Attachment, knowledge_base: KnowledgeBase) -> ResidentKnowledge:
    """The device copy of a knowledge base for an attached model, brought up to date.

    One is kept per attachment: asking the same knowledge base again only takes in its changes.
    """
    resident, model = attachment.resident, attachment.model
    if not (
        isinstance(resident, ResidentKnowledge)
        and resident.knowledge_base is knowledge_base
        and (resident.dtype, resident.device) == (model.dtype, model.device)
    ):
        attachment.resident = resident = None  # frees the old copy before the new one is made
        resident = ResidentKnowledge(knowledge_base, attachment.adapter, dtype=model.dtype, device=model.device)
        attachment.resident = resident
    else:
        resident.sync()
    return resident
