"""One request to an OpenAI-compatible `/embeddings` endpoint: signing, retries, and checks of the answer."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Generator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import httpx
import numpy as np

from kblam.errors import EncoderError, EncoderUnavailableError
from kblam.knowledge.encoders.secrets import guard_logs, note, redact
from kblam.strict_json import loads

FIRST_WAIT = 0.5  # seconds; doubled at each try
LONGEST_WAIT = 60.0
_GRACE = 0.5  # seconds in which the HTTP library may say itself that time is over
# Of an answer: 512 KiB hold 20,000 numbers, several times what any encoder gives.
_MOST_BYTES, _MOST_BYTES_A_TEXT = 2**20, 2**19
_LONGEST_MESSAGE = 10_000
_LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))
RETRIED = frozenset({408, 429, 500, 502, 503, 504, 529})


class KeyFromEnvironment(httpx.Auth):
    """Signs a request as it leaves, so the key is never an attribute or a variable of ours."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if os.environ.get(self._variable):
            request.headers["Authorization"] = f"Bearer {os.environ[self._variable]}"
        yield request


class EmbeddingsClient:
    """A connection to one embeddings model.

    Args:
        base_url: the endpoint is `{base_url}/embeddings`.
        model, dimensions: sent with every request.
        key_variable: environment variable with the key; read at each request.
        key_required: refuse to send anything while it is not set.
        timeout: seconds for one request, from its first byte to the last one of the answer.
        max_attempts: of one request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        key_variable: str,
        key_required: bool,
        dimensions: int | None,
        timeout: float,
        max_attempts: int,
    ) -> None:
        self._url = f"{base_url}/embeddings"
        self._body: dict[str, object] = {"model": model, "encoding_format": "float"}
        if dimensions is not None:
            self._body["dimensions"] = dimensions
        self._model = model
        self._key_variable = key_variable
        self._key_required = key_required
        self._timeout = timeout
        self._max_attempts = max_attempts
        note(key_variable)
        guard_logs(*_LOGGERS)
        self._http = self._new_client()

    def close(self) -> None:
        self._http.close()

    def embed(self, texts: list[str]) -> np.ndarray:
        """(len(texts), P) float32 from one request, tried again where that can help.

        Raises:
            EncoderUnavailableError: the key is missing or refused, or model or address do not exist.
            EncoderError: the server refuses the texts, keeps failing, or answers with something else.
        """
        self._check_key()
        trouble = ""
        for attempt in range(self._max_attempts):
            asked = 0.0
            answer = self._ask(texts)
            if isinstance(answer, str):
                trouble = answer
            else:
                if answer.status_code == 200:
                    return self._vectors(answer, len(texts))
                trouble = f"HTTP {answer.status_code}: {self._message(answer)}"
                if answer.status_code not in RETRIED or b"insufficient_quota" in answer.content:
                    raise self._refusal(answer.status_code, trouble)
                asked = retry_after(answer)
            if attempt + 1 < self._max_attempts:
                time.sleep(min(LONGEST_WAIT, max(asked, backoff(attempt))))
        raise EncoderError(
            f"{self._url} failed {self._max_attempts} times for {len(texts)} texts, the last time with "
            f"{trouble}; run the same command again later: what was encoded is kept"
        )

    def _ask(self, texts: list[str]) -> httpx.Response | str:
        """The whole answer to one request, or what went wrong; within the time and the size that it may take."""
        done: list[httpx.Response | str] = []
        deadline = time.monotonic() + self._timeout

        def exchange(client: httpx.Client) -> None:
            try:
                done.append(self._exchange(client, texts, deadline))
            # What a server sends that is no HTTP, no such encoding, or no such address.
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError) as error:
                done.append(redact(f"{type(error).__name__}: {error}"))

        # The HTTP library bounds the wait for each piece, and a server may send a piece a second for ever.
        thread = threading.Thread(target=exchange, args=(self._http,), daemon=True)
        thread.start()
        thread.join(self._timeout + _GRACE)
        if done:
            return done[0]
        self._http.close()  # ends the exchange
        self._http = self._new_client()
        return f"no whole answer within {self._timeout:g} seconds"

    def _exchange(self, client: httpx.Client, texts: list[str], deadline: float) -> httpx.Response:
        with client.stream("POST", self._url, json={**self._body, "input": texts}) as answer:
            whole = bytearray()
            most = _MOST_BYTES + (_MOST_BYTES_A_TEXT * len(texts) if answer.status_code == 200 else 0)
            for piece in answer.iter_bytes():
                whole += piece
                if len(whole) > most:
                    raise ValueError(f"an answer of more than {most:,} bytes")
                if time.monotonic() > deadline:
                    raise ValueError(f"no whole answer within {self._timeout:g} seconds")
            told = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
            return httpx.Response(answer.status_code, headers=told, content=bytes(whole))

    def _new_client(self) -> httpx.Client:
        return httpx.Client(timeout=self._timeout, auth=KeyFromEnvironment(self._key_variable))

    def _check_key(self) -> None:
        if not os.environ.get(self._key_variable):
            if self._key_required:
                raise EncoderUnavailableError(
                    f"{self._url} needs a key: put it in the environment variable {self._key_variable}"
                )
        elif not can_be_a_header(self._key_variable):
            # The HTTP library would refuse it too, with a message that shows it.
            raise EncoderUnavailableError(
                f"the key in {self._key_variable} holds white space or characters beyond ASCII; set it again"
            )

    def _vectors(self, response: httpx.Response, count: int) -> np.ndarray:
        try:
            vectors = _vectors_of(response.content, count)
        except _WrongAnswerError as error:
            raise EncoderError(f"{self._url} {redact(str(error))}") from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            # Not raised from it: what a server sends may quote the key.
            raise EncoderError(
                f"{self._url} did not answer with embeddings ({type(error).__name__}: {redact(str(error))[:200]}); "
                "is it an OpenAI-compatible embeddings endpoint?"
            ) from None
        return vectors

    def _message(self, response: httpx.Response) -> str:
        text = response.content.decode("utf-8", "replace")
        try:
            told = loads(text)["error"]
            text = str(told["message"] if isinstance(told, dict) else told)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        return redact(" ".join(text[:_LONGEST_MESSAGE].split()))[:300] or "no message"

    def _refusal(self, status: int, trouble: str) -> EncoderError:
        if status in (401, 403):
            # Servers may quote part of the key they refuse, so their message is left out.
            return EncoderUnavailableError(
                f"{self._url} refused the key (HTTP {status}): check the environment variable {self._key_variable}"
            )
        if status == 404:
            return EncoderUnavailableError(
                f"{self._url} does not know the model {self._model!r}, or is not the endpoint: {trouble}; "
                "the base URL usually ends in /v1"
            )
        if 300 <= status < 400:
            return EncoderUnavailableError(f"{self._url} has moved ({trouble}): give its new base URL")
        if status == 429:
            return EncoderUnavailableError(f"{self._url}: the account has no quota left: {trouble}")
        return EncoderError(f"{self._url} refused the request for model {self._model!r}: {trouble}")


class _WrongAnswerError(Exception):
    """An answer of the right form with the wrong contents; the message goes on after the server's address."""


def _vectors_of(content: bytes, count: int) -> np.ndarray:
    """(count, P) float32 out of an answer: one vector for each index, of one length, of finite numbers.

    Raises:
        _WrongAnswerError, or what Python raises for an answer of another form.
    """
    items = loads(content)["data"]
    if type(items) is not list:
        raise TypeError(f"data is a {type(items).__name__}")
    by_index = {item["index"]: item["embedding"] for item in items}
    if len(items) != count or set(by_index) != set(range(count)) or bool in set(map(type, by_index)):
        shown = sorted(map(str, by_index))[:5]
        raise _WrongAnswerError(
            f"returned vectors for {', '.join(shown)}... ({len(items)} of them) where 0 to {count - 1} were expected"
        )
    rows = [by_index[row] for row in range(count)]
    for row in rows:
        if type(row) is not list or not set(map(type, row)) <= {int, float}:
            raise TypeError("an embedding is not a list of numbers")
    if len({len(row) for row in rows}) > 1:
        raise _WrongAnswerError("returned vectors of different lengths")
    vectors = np.array(rows, np.float32).reshape(count, -1)
    if not vectors.size or not np.isfinite(vectors).all():
        raise _WrongAnswerError("returned vectors that are empty or hold NaN or infinity")
    if not vectors.any(axis=1).all():
        raise _WrongAnswerError("returned a vector of nothing but zeros; does the model embed texts?")
    return vectors


def can_be_a_header(variable: str) -> bool:
    """Whether the key in an environment variable can be sent: ASCII without white space."""
    return os.environ[variable].isascii() and all("!" <= character <= "~" for character in os.environ[variable])


def backoff(attempt: int) -> float:
    """Seconds to wait after a failed attempt, counted from 0."""
    # A little randomness, so that many clients turned away together do not return together.
    return FIRST_WAIT * 2.0**attempt * random.uniform(1.0, 1.25)


def retry_after(response: httpx.Response) -> float:
    """Seconds the server asks to wait: a number, or a date; 0 when it does not say."""
    told = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
