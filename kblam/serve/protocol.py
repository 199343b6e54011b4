"""OpenAI's chat completions, as far as they are served: what is asked, and what is said."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kblam.serve.engine import Finished
from kblam.serve.failures import ApiError
from kblam.serve.reading import Strict

# docs/serving.md has a table of them.
MOST_MESSAGES, MOST_CHOICES, MOST_STOPS, LONGEST_STOP, MOST_TOKENS = 256, 16, 4, 200, 2**20
GREEDY_ARE_ALIKE = "n > 1 needs a temperature above 0: greedy answers are all alike"


def two_limits(max_tokens: object, max_completion_tokens: object) -> str | None:
    """What is wrong with the two names of one limit where both are given, and differ; None where nothing is."""
    if max_tokens is None or max_completion_tokens is None or max_tokens == max_completion_tokens:
        return None
    return (
        f"max_tokens is {str(max_tokens)[:20]} and max_completion_tokens {str(max_completion_tokens)[:20]}, and they "
        "are one limit; give one of them"
    )


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """A message of a conversation. Clients send an answer back as they got it, with all the fields of OpenAI's."""

    NOTHING: ClassVar[Mapping[str, Any]] = {"annotations": [], "tool_calls": []}

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def turn(self) -> tuple[str, str]:
        """(role, text) as a chat template has them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return ("system" if self.role == "developer" else self.role), text


class Extra(Strict):
    """What vLLM passes on to the engine."""

    kblam_kb: str | None = None


class StreamOptions(Strict):
    """Of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None  # chunks are not padded to be of one length


class ResponseFormat(Strict):
    """Of the answer's text."""

    type: Literal["text"]


def question_of(turns: Sequence[tuple[str, str]]) -> str:
    """The one message, (role, text), that is put to a knowledge base.

    Raises:
        ApiError: there are others, or it is not the user's.
    """
    if len(turns) > 1 or turns[0][0] != "user":
        raise ApiError(
            400,
            "with a knowledge base a question stands alone: send one message, the user's, without a system message "
            "and without earlier turns",
            "unsupported_parameter",
            param="messages",
        )
    return turns[0][1]


class ChatRequest(Strict):
    """A body of POST /v1/chat/completions. A field that is not here is refused by its name."""

    NOTHING: ClassVar[Mapping[str, Any]] = {"tools": [], "tool_choice": "none", "logit_bias": {}}

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MOST_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    vllm_xargs: Extra | None = None
    user: str | None = None
    # Clients send these with the one value that changes nothing.
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    store: Literal[False] | None = None
    response_format: ResponseFormat | None = None

    @field_validator("frequency_penalty", "presence_penalty", mode="before")
    @classmethod
    def _zero(cls, value: Any) -> Any:
        return 0 if isinstance(value, float) and value == 0 else value

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> str | list[str] | None:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > MOST_STOPS or not all(stops) or any(len(stop) > LONGEST_STOP for stop in stops):
            raise ValueError(f"up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters")
        return value

    @field_validator("temperature")
    @classmethod
    def _not_tiny(cls, value: float | None) -> float | None:
        if value is not None and 0 < value < 0.01:
            raise ValueError("0 for greedy answers, else at least 0.01")
        return value

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if (differ := two_limits(self.max_tokens, self.max_completion_tokens)) is not None:
            raise ValueError(differ)
        if self.n > 1 and self.sampling is None:
            raise ValueError(GREEDY_ARE_ALIKE)
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options without stream; leave it out")
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of an answer at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings before which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def sampling(self) -> float | None:
        """The temperature; None is greedy. A top_p alone samples at temperature 1."""
        if self.temperature is None:
            return None if self.top_p in (None, 1) else 1.0
        return self.temperature or None


class Reply:
    """The parts of one response.

    Args:
        model: as the client named it.
        base: the knowledge base's name; None without one.
        count: of its answers. Of several each choice says what it rests on, of one the response does.
    """

    def __init__(self, model: str, base: str | None, count: int = 1) -> None:
        self.id, self.created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        self.model, self.base, self.is_one = model, base, count == 1

    def whole(self, finished: list[Finished]) -> dict[str, Any]:
        """A response with all of its answers."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.answer.text},
                "logprobs": None,
                "finish_reason": _reason(one),
            }
            for index, one in enumerate(finished)
        ]
        body = {**self._head("chat.completion"), "choices": choices, "usage": _usage(finished)}
        if self.base is not None:
            for choice, one in zip(choices, finished, strict=True):
                (body if self.is_one else choice)["kblam"] = evidence_of(self.base, one)
        return body

    def begin(self, index: int) -> dict[str, Any]:
        """The first chunk of an answer."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, text: str) -> dict[str, Any]:
        """A chunk with text."""
        return self._chunk(index, {"content": text})

    def end(self, index: int, one: Finished, sent: str) -> dict[str, Any]:
        """The last chunk of an answer.

        Args:
            sent: the text of its pieces, which a tokenizer may not be able to write as the answer has it.
        """
        chunk = self._chunk(index, {}, _reason(one))
        said = {} if self.base is None else evidence_of(self.base, one)
        if sent != one.answer.text:
            said["text"] = one.answer.text
        if said:
            (chunk if self.is_one else chunk["choices"][0])["kblam"] = said
        return chunk

    def usage(self, finished: list[Finished]) -> dict[str, Any]:
        """The chunk after the last one."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": _usage(finished)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, index: int, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def evidence_of(base: str, finished: Finished) -> dict[str, Any]:
    """The field `kblam`: what an answer rests on."""
    found = {} if finished.retrieved is None else {"retrieved": [one.to_dict() for one in finished.retrieved]}
    return {"knowledge_base": base, "revision": finished.revision, **finished.answer.basis(), **found}


def _reason(finished: Finished) -> str:
    return "length" if finished.answer.is_cut else "stop"


def _usage(finished: list[Finished]) -> dict[str, int]:
    prompt = finished[0].prompt_tokens if finished else 0
    said = sum(one.answer.num_tokens for one in finished)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said}
