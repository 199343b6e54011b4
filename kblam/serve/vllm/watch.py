"""What is seen of an answer while vLLM makes it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class Watch:
    """One HTTP request.

    Attributes:
        knowledge: what the engine says of its knowledge; None before it says so.
        prompt_tokens, answer_tokens: so far.
        text: so far, of a request with one answer.
        is_whole: whether the answer is.
    """

    knowledge: dict[str, Any] | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    text: str = ""
    is_whole: bool = False

    def see(self, output: Any) -> None:
        """A `RequestOutput` of vLLM whose outputs hold what is new in it."""
        self.prompt_tokens = max(self.prompt_tokens, len(output.prompt_token_ids or ()))
        self.answer_tokens += sum(len(one.token_ids) for one in output.outputs)
        self.text += "".join(one.text for one in output.outputs)
        said = (output.kv_transfer_params or {}).get("kblam")
        self.knowledge = said if said is not None else self.knowledge
        self.is_whole = self.is_whole or output.finished


# That of the request in whose context vLLM is asked.
WATCH: ContextVar[Watch | None] = ContextVar("kblam_watch", default=None)
