"""What is seen of answers while vLLM makes them."""

from __future__ import annotations

from collections import defaultdict
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


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
        refusal: why the engine does not answer the request as it is; None if it does.
    """

    prompt_tokens: int = 0
    answer_tokens: int = 0
    answers: defaultdict[int, Said] = field(default_factory=lambda: defaultdict(Said))
    is_whole: bool = False
    refusal: str | None = None

    def see(self, output: Any) -> None:
        """A `RequestOutput` of vLLM whose outputs hold what is new in it; with a base there is one."""
        self.prompt_tokens = max(self.prompt_tokens, len(output.prompt_token_ids or ()))
        knowledge = (output.kv_transfer_params or {}).get("kblam")
        for one in output.outputs:
            self.answer_tokens += len(one.token_ids)
            said = self.answers[one.index]
            said.text += one.text
            said.knowledge = said.knowledge if knowledge is None else knowledge
            if one.finish_reason == "error" and knowledge is not None and knowledge.get("of_request"):
                self.refusal = knowledge["error"]
        self.is_whole = self.refusal is None and (self.is_whole or output.finished)


# That of the request in whose context vLLM is asked.
WATCH: ContextVar[Watch | None] = ContextVar("kblam_watch", default=None)
