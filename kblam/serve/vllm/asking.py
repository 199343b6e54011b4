"""Requests on their way to vLLM: who asks which base, and the question as its adapter is asked it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kblam.adapter import AdapterConfig
from kblam.serve import DEFAULT_TOKENS
from kblam.serve.bases import Base
from kblam.serve.failures import ApiError
from kblam.serve.protocol import GREEDY_ARE_ALIKE, MOST_CHOICES, MOST_MESSAGES, Message, question_of, two_limits
from kblam.serve.reading import refused
from kblam.serve.vllm.prompts import Prompts
from kblam.vllm.admission import BASE, EVIDENCE, QUESTION

VERBATIM = "kblam_verbatim"
# The engine checks what they say.
_ARGUMENTS = {BASE, QUESTION, EVIDENCE, VERBATIM, "kblam_unknown", "kblam_base_prompt"}
# What a prompt that is written here is rendered by.
_AS_IT_IS = "{{ messages[0]['content'] }}"
# vLLM has these for servers that work together, or only for clients that are trusted.
_NEVER = ("chat_template", "kv_transfer_params", "ec_transfer_params", "prompt_embeds")
_UNTRUSTED = "this server does not take it from clients"
_PROMPT = "with a knowledge base the prompt is the adapter's own"
_NOT_DONE = "this server does not do that"
# With a base: why a field is refused that says anything.
_NOT_WITH_A_BASE = {
    "use_beam_search": "beams are not asked of knowledge",
    "tools": _PROMPT,
    "documents": _PROMPT,
    "echo": _PROMPT,
    "suffix": _PROMPT,
    "continue_final_message": _PROMPT,
    "chat_template_kwargs": _PROMPT,
    "truncate_prompt_tokens": _PROMPT,
    # Of OpenAI's API, and ignored by vLLM without a word, or with a prompt that is no conversation.
    "reasoning_effort": _PROMPT,
    **dict.fromkeys(("functions", "function_call", "web_search_options"), _PROMPT),
    **dict.fromkeys(("audio", "store", "verbosity"), _NOT_DONE),
}
# How a conversation would be written.
_OF_CONVERSATIONS = ("add_generation_prompt", "add_special_tokens")


@dataclass(frozen=True)
class Asked:
    """A request that vLLM is asked.

    Args:
        model: as the client named it.
        base: to answer from; None asks the model alone.
        body: for vLLM.
        count: of answers from a base.
    """

    model: str
    base: Base | None
    body: dict[str, Any]
    count: int = 1


class Asking:
    """Turns clients' requests into vLLM's.

    Args:
        served: what vLLM calls the model.
        name_of: what the engine calls a base.
        prompts: of the model.
        adapter: its config.
        most_tokens: that a prompt and its answer may have.
    """

    def __init__(
        self,
        served: str,
        name_of: Callable[[Base], str],
        prompts: Prompts,
        *,
        adapter: AdapterConfig,
        most_tokens: int,
    ) -> None:
        self._served, self._name_of, self._prompts = served, name_of, prompts
        # vLLM shortens it to what room the prompt leaves, and refuses only what is more than all of the context.
        self._default = min(DEFAULT_TOKENS, most_tokens)
        self._queries_need_it = adapter.question_head is not None
        self._decisions_need_it = adapter.pointer or adapter.known_above is not None

    def chat(self, body: dict[str, Any], find: Callable[[str, str | None], Base | None]) -> Asked:
        """A body of /v1/chat/completions.

        Args:
            find: the base of a model's name and of `kblam_kb`.

        Raises:
            ApiError, GenerationError: it cannot be asked.
        """
        asked, extra = self._begun(body, find)
        if asked.base is None:
            return self._alone(asked)
        if given := [field for field in _OF_CONVERSATIONS if body.get(field) is not None]:
            raise _unsupported(given[0], _PROMPT)
        if QUESTION in extra:
            raise _bad(f"{QUESTION}: the question is the user's message", "vllm_xargs")
        question = question_of(_turns(asked.body))
        text, with_special_tokens = self._prompts.question(question)
        if self._queries_need_it or (self._decisions_need_it and extra.get(VERBATIM, True)):
            extra = {**extra, QUESTION: question}
        limited = asked.body.get("max_tokens") is not None or asked.body.get("max_completion_tokens") is not None
        return self._with(
            asked,
            _written(text, with_special_tokens),
            {} if limited else {"max_completion_tokens": self._default},
            {"vllm_xargs": {**extra, BASE: self._name_of(asked.base)}},
        )

    def completion(self, body: dict[str, Any], find: Callable[[str, str | None], Base | None]) -> Asked:
        """A body of /v1/completions: the prompt is the client's, and so is `kblam_question`.

        Raises:
            ApiError: it cannot be asked.
        """
        asked, extra = self._begun(body, find)
        # As at OpenAI this path has one name for the limit; another one vLLM would ignore, and take its default of 16.
        if body.get("max_tokens") is None and body.get("max_completion_tokens") is not None:
            raise ApiError(
                400,
                "max_completion_tokens: /v1/completions calls this limit max_tokens; write that",
                "unsupported_parameter",
                param="max_completion_tokens",
            )
        if asked.base is None:
            return asked
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) > 1 and not all(type(one) is int for one in prompt):
            raise _bad("prompt: with a knowledge base one at a time; send several requests", "prompt")
        return self._with(asked, {"vllm_xargs": {**extra, BASE: self._name_of(asked.base)}})

    def other(self, body: dict[str, Any], find: Callable[[str, str | None], Base | None]) -> Asked:
        """A body of another path, which knows no bases.

        Raises:
            ApiError: it names one.
        """
        asked, extra = self._begun(body, find)
        if asked.base is not None or extra:
            raise _bad("a knowledge base answers at /v1/chat/completions and /v1/completions", "model")
        return asked

    def _begun(
        self, body: dict[str, Any], find: Callable[[str, str | None], Base | None]
    ) -> tuple[Asked, dict[str, Any]]:
        """What all paths have in common; and the arguments for knowledge among `vllm_xargs`."""
        model, extra = body.get("model"), body.get("vllm_xargs")
        if not isinstance(model, str):
            raise _bad("model: a model's name, as GET /v1/models lists them", "model")
        if extra is not None and not isinstance(extra, dict):
            raise _bad("vllm_xargs: an object", "vllm_xargs")
        ours = {key: value for key, value in (extra or {}).items() if key.startswith("kblam")}
        if unknown := sorted(ours.keys() - _ARGUMENTS):
            raise _bad(f"vllm_xargs: {unknown[0][:60]} is no argument of knowledge", "vllm_xargs")
        if hidden := [field for field in _NEVER if field in (extra or {})]:
            raise _unsupported(f"vllm_xargs.{hidden[0]}", _UNTRUSTED)
        named = ours.get(BASE)
        if named is not None and not isinstance(named, str):
            raise _bad(f"{BASE}: the name of a knowledge base", "vllm_xargs")
        base = find(model, named)
        kwargs = body.get("chat_template_kwargs")
        nested = isinstance(kwargs, dict) and kwargs.get("chat_template") is not None
        for field in _NEVER:
            if body.get(field) is not None or (field == "chat_template" and nested):
                raise _unsupported(field, _UNTRUSTED)
        if base is not None:
            _check_with_base(body)
        elif ours:
            raise _bad(f"{min(ours)} without a knowledge base; name one in the model's name", "vllm_xargs")
        # Of two that differ vLLM takes one, and says nothing.
        if (differ := two_limits(body.get("max_tokens"), body.get("max_completion_tokens"))) is not None:
            raise _bad(differ, "max_tokens")
        count = 1 if base is None else _count_of(body)
        return Asked(model, base, {**body, "model": self._served}, count), (extra or {})

    def _alone(self, asked: Asked) -> Asked:
        if self._prompts.has_chat_template:
            return asked
        return self._with(asked, _written(*self._prompts.alone(_turns(asked.body))))

    def _with(self, asked: Asked, *more: dict[str, Any]) -> Asked:
        body = dict(asked.body)
        # Greedy, unless something of sampling is asked for: vLLM's own default samples.
        if asked.base is not None and body.get("temperature") is None:
            body["temperature"] = 0 if body.get("top_p") in (None, 1) else 1
        if asked.count > 1 and body["temperature"] == 0:
            raise _bad(GREEDY_ARE_ALIKE, "n")
        for part in more:
            body.update(part)
        return Asked(asked.model, asked.base, body, asked.count)


class _Messages(BaseModel):
    model_config = ConfigDict(strict=True)
    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)


def _turns(body: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        return [message.turn for message in _Messages.model_validate(body).messages]
    except ValidationError as error:
        raise refused(error) from None


def _written(text: str, with_special_tokens: bool) -> dict[str, Any]:
    """Fields that have vLLM read a text as it is."""
    return {
        "messages": [{"role": "user", "content": text}],
        "chat_template": _AS_IT_IS,
        "add_special_tokens": with_special_tokens,
        "add_generation_prompt": True,
    }


def _check_with_base(body: dict[str, Any]) -> None:
    for field, reason in _NOT_WITH_A_BASE.items():
        if body.get(field):
            raise _unsupported(field, reason)
    if body.get("modalities") not in (None, [], ["text"]):
        raise _unsupported("modalities", _NOT_DONE)
    if body.get("best_of") not in (None, 1):
        raise _unsupported("best_of", "all answers are told")


def _count_of(body: dict[str, Any]) -> int:
    count = 1 if body.get("n") is None else body["n"]
    if type(count) is not int or not 1 <= count <= MOST_CHOICES:
        raise _bad(f"n: a whole number from 1 to {MOST_CHOICES} with a knowledge base", "n")
    return count


def _unsupported(field: str, reason: str) -> ApiError:
    return ApiError(400, f"{field}: {reason}; leave it out", "unsupported_parameter", param=field)


def _bad(message: str, param: str) -> ApiError:
    return ApiError(400, message, "bad_parameter", param=param)
