"""A language model behind an OpenAI-compatible `/chat/completions` endpoint: asked, waited for, asked again."""

from __future__ import annotations

import codecs
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from kblam.counts import many
from kblam.errors import DataError, DataServerError
from kblam.knowledge.encoders.openai import checked_base_url
from kblam.knowledge.encoders.posting import (
    FIRST_WAIT,
    RETRIED,
    Poster,
    can_be_a_header,
    message_of,
)
from kblam.knowledge.encoders.secrets import redact
from kblam.strict_json import decoder, loads

_MOST_BYTES = 2**24  # of a reply: far more than any model writes
_MOST_TRIES = 1000  # brackets in a reply that JSON does not begin with
# What JSON begins with, and what is around the thinking of a model whose server leaves it in the reply.
_MARK = re.compile(r"[\[{]|</?think(?:ing)?>")
_THINKING_ENDS = re.compile(r"</think(?:ing)?>")
_LIMITED = 429
_OF_THE_REQUEST = frozenset({400, 413, 422})  # statuses that say nothing about other requests
_LOOKED_AT = 10_000  # characters of a reply that a message shows the beginning of


@dataclass(frozen=True)
class Endpoint:
    """Where to ask.

    Args:
        base_url: up to and including `/v1`.
        model: its name there.
        api_key_env: environment variable with the key; read at each request, and sent only if it is set.
        timeout: seconds of one request, the reply's last byte included.
        max_attempts: of one request: 408, 429, 5xx and lost connections are tried again after 0.5, 1, 2, ... seconds,
            or what the server asks for in Retry-After, up to a minute.

    Raises:
        DataError: the model has no name.
    """

    base_url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    max_attempts: int = 4

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise DataError("the name of the model at the endpoint is empty; give the one that its server lists")


@dataclass(frozen=True)
class Reply:
    """What a model wrote.

    Args:
        text: empty where it wrote none.
        finish: why it ended, in the server's word: "stop", "length", "content_filter", ...
        refusal: what it said in place of an answer, if it refused.
        prompt_tokens, reply_tokens: as the server counts them; None where it does not tell.
    """

    text: str
    finish: str = "stop"
    refusal: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None

    @property
    def is_refusal(self) -> bool:
        """Whether the model, or the server's filter, would not answer."""
        return self.refusal is not None or self.finish == "content_filter"

    @property
    def is_cut(self) -> bool:
        """Whether it ended at a length limit: asked the same way it ends there again."""
        return self.finish == "length"


class RequestFailedError(DataServerError):
    """A request was not answered. Whether others are tells if it is its own fault, or the server's.

    Attributes:
        is_refused: the server answered that it will not; else it failed, or answered with something else.
    """

    def __init__(self, message: str, *, is_refused: bool = False) -> None:
        super().__init__(message)
        self.is_refused = is_refused


class StoppedError(Exception):
    """The work was stopped while an answer was waited for."""


class Pause:
    """What several threads wait for together: a server that is asked too often wants quiet from all of them."""

    def __init__(self) -> None:
        self.is_stopped = threading.Event()
        self.latest: object = None  # answer that anybody got
        self._until = 0.0

    def ask_for(self, seconds: float) -> None:
        """Nobody goes on before so many seconds have passed."""
        self._until = max(self._until, time.monotonic() + seconds)

    def of(self, seconds: float) -> None:
        """Asks for a pause, and waits for its end."""
        self.ask_for(seconds)
        self.wait()

    def wait(self) -> None:
        """Until the pause is over.

        Raises:
            StoppedError: the work was stopped.
        """
        while (left := self._until - time.monotonic()) > 0:
            if self.is_stopped.wait(left):
                break
        if self.is_stopped.is_set():
            raise StoppedError


class ChatClient:
    """A connection to a model, for one thread.

    Args:
        endpoint: where.
        pause: shared with the other threads that ask there.

    Raises:
        EncoderError: the address cannot be used.
        DataError: the key cannot be sent.
    """

    def __init__(self, endpoint: Endpoint, pause: Pause | None = None) -> None:
        self.endpoint = endpoint
        self.url = f"{checked_base_url(endpoint.base_url)}/chat/completions"
        if os.environ.get(endpoint.api_key_env) and not can_be_a_header(endpoint.api_key_env):
            raise DataError(
                f"the key in {endpoint.api_key_env} holds white space or characters beyond ASCII; set it again"
            )
        self._pause = pause or Pause()
        self._poster = Poster(self.url, endpoint.api_key_env, endpoint.timeout)

    def close(self) -> None:
        """Ends what is under way, and the connection."""
        self._poster.close()

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        temperature: float,
        schema: Mapping[str, Any] | None = None,
        most_tokens: int | None = None,
    ) -> Reply:
        """One reply; tried again where that can help.

        Args:
            messages: with `role` and `content`.
            temperature: of sampling.
            schema: JSON schema that the reply has to follow; sent as `response_format`.
            most_tokens: length limit of the reply.

        Raises:
            DataError: the key is refused, or the model is not known.
            RequestFailedError: the server keeps failing, refuses the request, or does not answer with a chat
                completion.
            DataServerError: the endpoint is not one that can be asked.
            StoppedError: the pause was stopped.
        """
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": list(messages),
            "temperature": temperature,
        }
        if schema is not None:
            named = {"name": "reply", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if most_tokens is not None:
            body["max_tokens"] = most_tokens
        self._pause.wait()
        while True:
            latest = self._pause.latest
            answer = self._poster.until_answered(
                body, _MOST_BYTES, attempts=self.endpoint.max_attempts, wait=self._pause.of, trouble_of=self._trouble
            )
            if not isinstance(answer, str):
                self._pause.latest = answer
                return self._reply(answer)
            # A limit that lets others through meanwhile is no failure: it will be this one's turn.
            if answer != f"HTTP {_LIMITED}" or self._pause.latest is latest:
                break
            self._pause.of(FIRST_WAIT)
        raise RequestFailedError(
            f"{self.url} failed {many(self.endpoint.max_attempts, 'time')}, the last time with {answer}; "
            "run the same command again later"
        )

    def _trouble(self, answer: httpx.Response) -> str:
        """What to say of a status that may pass.

        Raises:
            DataError, DataServerError, RequestFailedError: it will not.
        """
        status, endpoint = answer.status_code, self.endpoint
        # Servers may quote part of the key they refuse, so their message is left out.
        if status in (401, 403):
            raise DataError(
                f"{self.url} refused the key (HTTP {status}): check the environment variable {endpoint.api_key_env}"
            )
        if status == 404:
            raise DataError(
                f"{self.url} does not know the model {endpoint.model!r}, or is not the endpoint (HTTP 404); the base "
                "URL usually ends in /v1"
            )
        trouble = f"HTTP {status}"
        if status == _LIMITED and b"insufficient_quota" in answer.content:
            raise DataError(f"{self.url}: the account has no quota left: {trouble}: {message_of(answer)}")
        if status not in RETRIED:
            told = f"{self.url} refused the request for model {endpoint.model!r}: {trouble}: {message_of(answer)}"
            raise RequestFailedError(told, is_refused=True) if status in _OF_THE_REQUEST else DataServerError(told)
        return trouble

    def _reply(self, answer: httpx.Response) -> Reply:
        try:
            body = loads(answer.content.removeprefix(codecs.BOM_UTF8))
            if isinstance(body, dict) and body.get("error") and not body.get("choices"):
                raise RequestFailedError(f"{self.url} answered with an error: {message_of(answer)}")
            choice = body["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content"), message.get("refusal")
            usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
            return Reply(
                content if isinstance(content, str) else "",
                str(choice.get("finish_reason") or "stop"),
                refusal if isinstance(refusal, str) and refusal else None,
                _count(usage.get("prompt_tokens")),
                _count(usage.get("completion_tokens")),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            # Not raised from it: what a server sends may quote the key.
            raise RequestFailedError(
                f"{self.url} did not answer with a chat completion ({type(error).__name__}: "
                f"{redact(str(error))[:100]}); is it an OpenAI-compatible endpoint?"
            ) from None


def _count(given: object) -> int | None:
    return given if type(given) is int and given >= 0 else None


def beginning(reply: str, most: int) -> str:
    """What a reply begins with, as a message shows it: in a line, without secrets."""
    return redact(" ".join(reply[:_LOOKED_AT].split()))[:most]


def json_in(reply: str) -> Any:
    """The JSON in a reply, with or without text or a code fence around it; None if there is none.

    The last with an object in it, else the last: text may say [1] beside it, and a draft may stand before it. What a
    model says while it thinks (`<think>`) is no reply, and neither is what follows where its thinking has no end.
    """
    last, last_with_object, at, failed = None, None, 0, 0
    # What has many brackets that no JSON begins with holds none, and each try takes time with the length of the reply.
    while failed < _MOST_TRIES and (mark := _MARK.search(reply, at)):
        at = mark.end()
        if mark[0].startswith("</"):  # all until here was thought; a prompt may have begun it
            last = last_with_object = None
        elif mark[0].startswith("<"):
            end = _THINKING_ENDS.search(reply, at)
            if end is None and not reply[: mark.start()].strip():
                return None
            at = at if end is None else end.start()
        else:
            try:
                last, at = decoder().raw_decode(reply, mark.start())
            except (ValueError, RecursionError):
                failed += 1
                continue
            if isinstance(last, dict) or any(isinstance(one, dict) for one in last):
                last_with_object = last
    return last if last_with_object is None else last_with_object
