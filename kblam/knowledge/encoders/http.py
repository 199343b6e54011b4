"""Requests to an OpenAI-compatible `/embeddings` endpoint: retries, and checks of the answer."""

from __future__ import annotations

import os
import time

import httpx
import numpy as np

from kblam.counts import many
from kblam.errors import EncoderError, EncoderUnavailableError
from kblam.knowledge.encoders.posting import (
    RETRIED,
    Poster,
    can_be_a_header,
    message_of,
)
from kblam.knowledge.encoders.secrets import redact
from kblam.strict_json import loads

# Of an answer: 512 KiB hold 20,000 numbers, several times what any encoder gives.
_MOST_BYTES, _MOST_BYTES_A_TEXT = 2**20, 2**19


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
        self._max_attempts = max_attempts
        self._poster = Poster(self._url, key_variable, timeout)

    def close(self) -> None:
        self._poster.close()

    def embed(self, texts: list[str]) -> np.ndarray:
        """(len(texts), P) float32 from one request, tried again where that can help.

        Raises:
            EncoderUnavailableError: the key is missing or refused, or model or address do not exist.
            EncoderError: the server refuses the texts, keeps failing, or answers with something else.
        """
        self._check_key()
        answer = self._poster.until_answered(
            {**self._body, "input": texts},
            _MOST_BYTES + _MOST_BYTES_A_TEXT * len(texts),
            attempts=self._max_attempts,
            wait=time.sleep,
            trouble_of=self._trouble,
        )
        if not isinstance(answer, str):
            return self._vectors(answer, len(texts))
        raise EncoderError(
            f"{self._url} failed {many(self._max_attempts, 'time')} for {many(len(texts), 'text')}, the last time with "
            f"{answer}; run the same command again later: what was encoded is kept"
        )

    def _trouble(self, answer: httpx.Response) -> str:
        """What to say of a status that may pass; raises for one that will not."""
        trouble = f"HTTP {answer.status_code}: {message_of(answer)}"
        if answer.status_code not in RETRIED or b"insufficient_quota" in answer.content:
            raise self._refusal(answer.status_code, trouble)
        return trouble

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
