"""vLLM's engine, whose answers are watched."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm.sampling_params import RequestOutputKind
from vllm.utils.async_utils import merge_async_iterators
from vllm.v1.engine.async_llm import AsyncLLM

from kblam.serve.vllm.watch import WATCH, watched
from kblam.vllm.admission import BASE

Outputs = AsyncGenerator[Any, None]


class WatchedLLM(AsyncLLM):
    """Shows what it generates to the `Watch` of the request that asked for it.

    vLLM's routes put what the engine says of its knowledge into whole answers and leave it out of streams. Of several
    answers vLLM keeps what the engine says of one alone, so with a base each is a request of its own.
    """

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any) -> Outputs:
        """As vLLM's own."""
        watch, ask = WATCH.get(), super().generate
        if watch is None:
            return ask(prompt, sampling_params, request_id, **kwargs)
        if sampling_params.n == 1 or BASE not in (sampling_params.extra_args or {}):
            return watched(ask(prompt, sampling_params, request_id, **kwargs), watch)
        samples = [_sample(sampling_params, at) for at in range(sampling_params.n)]
        each = [ask(prompt, one, f"{request_id}-{at}", **kwargs) for at, one in enumerate(samples)]
        outputs = watched(_together(each, request_id), watch)
        return _as_one(outputs) if sampling_params.output_kind == RequestOutputKind.FINAL_ONLY else outputs


def _sample(params: Any, at: int) -> Any:
    """The parameters of one of several answers, with the seed that vLLM would give it."""
    one = copy.copy(params)
    one.n, one.seed = 1, None if params.seed is None else params.seed + at
    return one


async def _together(each: list[Outputs], request_id: str) -> Outputs:
    """The outputs of several requests as those of one, each with the index of its answer."""
    left = len(each)
    async with aclosing(merge_async_iterators(*each)) as outputs:
        async for at, output in outputs:
            left -= output.finished
            output.request_id, output.outputs[0].index, output.finished = request_id, at, left == 0
            yield output


async def _as_one(outputs: Outputs) -> Outputs:
    """Several whole answers as one output, in the order of their indices."""
    async with aclosing(outputs):
        each = [output async for output in outputs]
    whole = each[-1]
    whole.outputs = sorted((one for output in each for one in output.outputs), key=lambda one: one.index)
    yield whole
