"""The V1 runner: which knowledge the requests at the places of its batch attend to.

vLLM moves requests about in its batch and tells only logits processors of it. This one changes no logits.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from kblam.vllm.admission import admit
from kblam.vllm.pool import pool_of
from kblam.vllm.step import request_of


class KnowledgeTracker(LogitsProcessor):
    """Follows the batch of the worker that made it."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Called in the front end for every request."""
        admit(sampling_params)

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._vllm_config = vllm_config

    def is_argmax_invariant(self) -> bool:
        """Greedy decoding need not call it."""
        return True

    def apply(self, logits: Tensor) -> Tensor:
        """Nothing."""
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows the batch: called before each forward pass, None where nothing has changed."""
        pool = pool_of(self._vllm_config)
        if batch_update is None or pool is None:
            return
        places = pool.places
        for place in batch_update.removed:
            places.pop(place, None)
        for place, params, prompt, _ in batch_update.added:
            places.pop(place, None)
            if (request := request_of(pool, params, len(prompt or ()))) is not None:
                places[place] = request
        for one, other, how in batch_update.moved:
            moved, replaced = places.pop(one, None), places.pop(other, None)
            if moved is not None:
                places[other] = moved
            if how == MoveDirectionality.SWAP and replaced is not None:
                places[one] = replaced
