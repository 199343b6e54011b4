"""The V2 runner: what the requests in its slots attend to, handed to the knowledge layers with a step's metadata."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.model_states.interface import ModelSpecificAttnMetadata
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor

from kblam.vllm.admission import admit
from kblam.vllm.step import RequestKnowledge, request_of


class KnowledgeOfStep(ModelSpecificAttnMetadata):
    """What the requests of a step attend to, in the order of the batch."""

    def __init__(self, requests: list[RequestKnowledge | None]) -> None:
        self._requests = requests

    def get_extra_attn_kwargs(self, attn_metadata_builder: Any, num_reqs: int) -> dict[str, Any]:
        """For the builders of knowledge layers; requests past the step's own are padding."""
        if not getattr(attn_metadata_builder, "takes_knowledge", False):
            return {}
        return {"knowledge": (self._requests + [None] * num_reqs)[:num_reqs]}


class KnowledgeState(DefaultModelState):
    """Knowledge of the requests in a worker's slots."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: Any) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self._slots: list[RequestKnowledge | None] = [None] * self.max_num_reqs
        self._slot_of: dict[str, int] = {}

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        """A request takes a slot."""
        super().add_request(req_index, new_req_data)
        prompt = new_req_data.prompt_token_ids
        self._slots[req_index] = request_of(self.model.knowledge, new_req_data.sampling_params, len(prompt or ()))
        self._slot_of[new_req_data.req_id] = req_index

    def remove_request(self, req_id: str) -> None:
        """A request leaves its slot."""
        super().remove_request(req_id)
        slot = self._slot_of.pop(req_id, None)
        if slot is not None:
            self._slots[slot] = None

    def prepare_attn(self, input_batch: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The metadata of a step. Of one that vLLM makes up to measure or capture, no request is known."""
        requests = [
            self._slots[slot] if self._slot_of.get(request_id) == slot else None
            for slot, request_id in zip(input_batch.idx_mapping_np.tolist(), input_batch.req_ids, strict=False)
        ]
        found: dict[str, Any] = super().prepare_attn(
            input_batch, *args, model_specific_attn_metadata=KnowledgeOfStep(requests), **kwargs
        )
        return found


class KnowledgeAdmission(LogitsProcessor):
    """Named to vLLM for its check of each request in the front end; it changes no logits."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Called in the front end for every request."""
        admit(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Has no part in any request."""
        return False

    def apply(self, logits: Tensor, ctx: Any) -> Tensor:
        """Nothing."""
        return logits
