"""Upstream's choice of triples where there is no separate query head.

There upstream still ranks triples by `q_proj_new`, which such a run never trains; this project ranks them by the query
that attends. What comes after the choice is the same, so the golden cases are run with upstream's choice made from
outside: knowledge that prunes itself, layer by layer, from the hidden states of the pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kblam.adapter import KnowledgeAdapter
from kblam.models.families import attention_modules
from kblam.models.source import KnowledgeSource
from kblam_kernels import DenseKnowledge, LatentKnowledge, prune
from kblam_kernels.pruning import select


class SelectionByUntrainedHead:
    """A knowledge source, dense or latent, with the k triples that `heads` rank highest in each layer, row and pass.

    `passes` gets their indices, layer -> (B, k), for every forward pass.
    """

    def __init__(self, source: KnowledgeSource, heads: KnowledgeAdapter, k: int) -> None:
        self._source, self._k = source, k
        self._heads = heads.to(source.dtype)
        self._hidden: dict[int, Tensor] = {}
        self._mask: Tensor | None = None
        self.passes: list[dict[int, Tensor]] = []

    @property
    def num_triples(self) -> int:
        return min(self._k, self._source.num_triples)

    @property
    def filled(self) -> None:
        """Every row holds a triple."""

    @property
    def log_count(self) -> float:
        return math.log(max(self.num_triples, 1))

    @property
    def dtype(self) -> torch.dtype:
        return self._source.dtype

    @property
    def device(self) -> torch.device:
        return self._source.device

    def layer(self, layer: int, new_tokens: int = 1) -> DenseKnowledge | LatentKnowledge:
        whole, hidden = self._source.layer(layer), self._hidden.get(layer)
        if hidden is None:  # asked for its shape, before any pass
            return select(whole, torch.arange(self.num_triples)[None])
        query = self._heads.knowledge_query(layer, hidden)
        assert query is not None
        weight = None if self._mask is None else self._mask[:, None, -hidden.shape[1] :].to(hidden.dtype)
        kept, _, index = prune(query, whole, self._k, row_weight=weight)
        if layer == 0:  # always a knowledge layer
            self.passes.append({})
        self.passes[-1][layer] = index
        return kept

    @contextmanager
    def following(self, model: PreTrainedModel) -> Iterator[None]:
        """Watches the model's hidden states; enter it after `attach`, so that its hooks come first."""

        def keep_mask(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            self._mask = kwargs["attention_mask"]

        def keep_hidden(layer: int) -> Any:
            def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
                self._hidden[layer] = kwargs["hidden_states"]

            return keep

        handles = [model.register_forward_pre_hook(keep_mask, with_kwargs=True)]
        for layer, module in enumerate(attention_modules(model)):
            handles.append(module.register_forward_pre_hook(keep_hidden(layer), prepend=True, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
