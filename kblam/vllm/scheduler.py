"""vLLM's scheduler with knowledge: it fixes which version a request attends to, and keeps caches of versions apart.

The keys and values of a prompt depend on the knowledge that its tokens attended to, so a cached prefix is good for one
version of one base. The salt that keeps them apart is added here, where every request comes by, whoever made it.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

from kblam.adapter.files import adapter_folder, read_config
from kblam.errors import EngineRequestError
from kblam.vllm.admission import STAMP, FrontEnd, asked_of
from kblam.vllm.registry import Loaded, Registry
from kblam.vllm.response import Response
from kblam.vllm.settings import Settings


class WithKnowledge(Scheduler):
    """What both of vLLM's schedulers get."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = Settings.of(self.vllm_config)
        self._registry, self._most = Registry(self.vllm_config), settings.evidence
        self._front = FrontEnd(self.vllm_config, read_config(adapter_folder(settings.adapter)))
        self._responses: dict[str, Response] = {}
        self._in_use: Counter[int] = Counter()
        self._refused: list[tuple[Any, str]] = []
        self.connector.ended = self._ended
        self._tell()

    def add_request(self, request: Any) -> None:
        """A request comes in. One that cannot be answered never runs: its output is an error."""
        if request.request_id in self.requests:  # a further piece of a prompt that streams in
            super().add_request(request)
            return
        try:
            self._fix(request)
        except EngineRequestError as error:
            self._refused.append((request, str(error)))
            return
        super().add_request(request)

    def _fix(self, request: Any) -> None:
        """Fixes what a request attends to, and salts its cache.

        Raises:
            EngineRequestError: it cannot be answered.
        """
        asked = asked_of(request.sampling_params)
        loaded = self._front.check_encoded(asked)
        if asked.base is None or loaded is None:
            return
        # Others may share these parameters.
        request.sampling_params = copy.copy(request.sampling_params)
        stamp = {"request": request.request_id, "generation": loaded.generation}
        request.sampling_params.extra_args = {**request.sampling_params.extra_args, STAMP: stamp}
        salt_of_cache(request, asked.base, loaded)
        most, may_end_early = self._most if asked.evidence else 0, bool(request.sampling_params.stop)
        self._responses[request.request_id] = Response(asked.base, loaded, most, may_end_early)
        self._in_use[loaded.generation] += 1
        if self._in_use[loaded.generation] == 1:
            self._tell()

    def has_requests(self) -> bool:
        """A refusal is told by the next step."""
        return bool(self._refused) or super().has_requests()

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        """Collects the step's evidence, before requests end by it."""
        came = model_runner_output.kv_connector_output
        step = None if came is None else came.kv_connector_worker_meta
        for request_id, found in {} if step is None else step.found.items():
            if (response := self._responses.get(request_id)) is not None:
                response.add(found)
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for output in (output for of_client in outputs.values() for output in of_client.outputs):
            response = self._responses.get(output.request_id)
            if response is not None and response.may_end_early:
                output.kv_transfer_params = {STAMP: response.said()}
        for request, reason in self._refused:
            output = EngineCoreOutput(
                request_id=request.request_id,
                new_token_ids=[],
                finish_reason=FinishReason.ERROR,
                kv_transfer_params={STAMP: {"error": reason}},
            )
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(output)
        self._refused.clear()
        return outputs

    def _ended(self, request: Any) -> dict[str, Any] | None:
        """Called once for each request that ends, in whatever way: what its output says of knowledge."""
        response = self._responses.pop(request.request_id, None)
        if response is None:
            return None
        generation = response.loaded.generation
        self._in_use[generation] -= 1
        if not self._in_use[generation]:
            del self._in_use[generation]
            self._tell()
        return {STAMP: response.said()}

    def _tell(self) -> None:
        self._registry.say_in_use(frozenset(self._in_use))


class KnowledgeScheduler(WithKnowledge):
    """Over vLLM's scheduler."""


class AsyncKnowledgeScheduler(WithKnowledge, AsyncScheduler):
    """Over the one that runs ahead of the model."""


def knowledge_scheduler(*, vllm_config: Any, **others: Any) -> WithKnowledge:
    """The scheduler for an engine; vLLM calls it as it would a class."""
    kind = AsyncKnowledgeScheduler if vllm_config.scheduler_config.async_scheduling else KnowledgeScheduler
    return kind(vllm_config=vllm_config, **others)


def salt_of_cache(request: Any, base: str, loaded: Loaded) -> None:
    """Makes the hashes of a request's blocks those of one version of one base."""
    # No name has @, and a revision counts in one file only, which another may have replaced: hence the generation.
    request.cache_salt = f"kblam:{base}@{loaded.revision}.{loaded.generation}:{request.cache_salt or ''}"
    request.block_hashes.clear()
    request.update_block_hashes()
