"""Evidence on its way from the workers to a request's output: a KV connector of vLLM that moves no KV.

vLLM has no other way from an attention layer to a response. What the workers found in a step comes to the scheduler
with the step's output, and what a request's connector says at its end is `RequestOutput.kv_transfer_params`, which the
API server puts into its responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from kblam.vllm.pool import pool_of


class Nothing(KVConnectorMetadata):
    """What the scheduler tells the workers."""


@dataclass
class StepEvidence(KVConnectorWorkerMetadata):
    """What a worker found in a step.

    Args:
        found: by request, ids of triples and their masses.
    """

    found: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """All workers have summed their heads' shares, so they found the same."""
        return self


class KnowledgeConnector(KVConnectorBase_V1, SupportsHMA):
    """In a worker it gives away the step's evidence; in the scheduler it says at a request's end what was collected.

    Attributes:
        ended: of the scheduler, called for each request that ends.
    """

    ended: Callable[[Any], dict[str, Any] | None] | None = None

    @property
    def requires_kv_delivery(self) -> bool:
        """There is none."""
        return False

    # --- in a worker -------------------------------------------------------------------------------------

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Nothing."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing."""

    def wait_for_save(self) -> None:
        """Nothing."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[None, None]:
        """Called with the requests that have ended, those that were put off not among them; nothing is on its way."""
        if (pool := pool_of(self._vllm_config)) is not None:
            pool.sayings.end(finished_req_ids)
        return None, None

    def build_connector_worker_meta(self) -> StepEvidence | None:
        """The evidence of the step that ran."""
        pool = pool_of(self._vllm_config)
        if pool is None or not pool.found:
            return None
        found, pool.found = pool.found, {}
        return StepEvidence(found)

    # --- in the scheduler --------------------------------------------------------------------------------

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """No token is to be had elsewhere."""
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Nothing."""

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """Nothing to tell."""
        return Nothing()

    def request_finished(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        """False, since no block is kept; and what the response says."""
        return False, None if self.ended is None else self.ended(request)

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        """As `request_finished`."""
        return self.request_finished(request, block_ids)
