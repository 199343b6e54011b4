"""What is seen of answers while vLLM makes them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from kblam.errors import EngineRequestError, KblamError
from kblam.serve.failures import REPLACED, SERVER_FAILED, ApiError, told

logger = logging.getLogger("kblam")

_UNFORESEEN = "EngineGenerateError"  # what vLLM makes of all that it does not know


@dataclass
class Said:
    """One answer.

    Attributes:
        knowledge: what the engine says of its knowledge; None before it says so.
        text: so far.
    """

    knowledge: dict[str, Any] | None = None
    text: str = ""


@dataclass
class Watch:
    """One HTTP request.

    Attributes:
        prompt_tokens, answer_tokens: so far.
        answers: by index, each so far.
        is_whole: whether all of them are.
        failure: what the client is told where the engine does not answer; None where it does, or says nothing of it.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    answers: defaultdict[int, Said] = field(default_factory=lambda: defaultdict(Said))
    is_whole: bool = False
    failure: ApiError | None = None

    def see(self, output: Any) -> None:
        """A `RequestOutput` of vLLM whose outputs hold what is new in it; with a base there is one."""
        self.prompt_tokens = max(self.prompt_tokens, len(output.prompt_token_ids or ()))
        knowledge = (output.kv_transfer_params or {}).get("kblam")
        for one in output.outputs:
            self.answer_tokens += len(one.token_ids)
            said = self.answers[one.index]
            said.text += one.text
            said.knowledge = said.knowledge if knowledge is None else knowledge
            if one.finish_reason == "error" and knowledge is not None and "error" in knowledge:
                self.failure = _told(knowledge)
        self.is_whole = self.failure is None and (self.is_whole or output.finished)


def _told(knowledge: dict[str, Any]) -> ApiError:
    """What a client is told of a refusal of our scheduler; vLLM calls each a failure of its own."""
    if knowledge.get("of_request"):
        return ApiError(400, knowledge["error"], "cannot_answer")
    logger.warning("%s", knowledge["error"])  # it may name files
    return REPLACED if knowledge.get("replaced") else SERVER_FAILED


async def watched(outputs: AsyncGenerator[Any, None], watch: Watch) -> AsyncGenerator[Any, None]:
    """The outputs of a request, each of which the watch has seen, or why there are no more."""
    try:
        async with aclosing(outputs):
            async for output in outputs:
                watch.see(output)
                yield output
    except Exception as error:
        if _is_failure(error) and isinstance(error.__cause__, Exception):
            watch.failure = told(error.__cause__)
        raise


def _is_failure(error: Exception) -> bool:
    """Whether something failed in the front end, in our part of it or in vLLM's. vLLM tells it as a failure of its own,
    without a message, and logs nothing."""
    if isinstance(error.__cause__, KblamError):
        return not isinstance(error.__cause__, EngineRequestError)
    return type(error).__name__ == _UNFORESEEN


# That of the request in whose context vLLM is asked.
WATCH: ContextVar[Watch | None] = ContextVar("kblam_watch", default=None)
