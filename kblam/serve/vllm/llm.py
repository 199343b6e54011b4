"""vLLM's engine, whose answers are watched."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM

from kblam.serve.vllm.watch import WATCH, Watch


class WatchedLLM(AsyncLLM):
    """Shows what it generates to the `Watch` of the request that asked for it.

    vLLM's routes put what the engine says of its knowledge into whole answers and leave it out of streams.
    """

    def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """As vLLM's own."""
        outputs = super().generate(*args, **kwargs)
        watch = WATCH.get()
        return outputs if watch is None else _watched(outputs, watch)


async def _watched(outputs: AsyncGenerator[Any, None], watch: Watch) -> AsyncGenerator[Any, None]:
    async with aclosing(outputs):
        async for output in outputs:
            watch.see(output)
            yield output
