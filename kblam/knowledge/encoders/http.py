"""One request to an OpenAI-compatible `/embeddings` endpoint: signing, retries, and checks of the answer."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Generator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import httpx
import numpy as np

from kblam.errors import EncoderError, EncoderUnavailableError

FIRST_WAIT = 0.5  # seconds; doubled at each try
LONGEST_WAIT = 60.0
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
        timeout, max_attempts: of one request.
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
        self._http = httpx.Client(timeout=timeout, auth=KeyFromEnvironment(key_variable))

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
            try:
                response = self._http.post(self._url, json={**self._body, "input": texts})
            except httpx.RequestError as error:
                trouble = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == 200:
                    return self._vectors(response, len(texts))
                trouble = f"HTTP {response.status_code}: {self._message(response)}"
                if response.status_code not in RETRIED or "insufficient_quota" in response.text:
                    raise self._refusal(response.status_code, trouble)
                asked = retry_after(response)
            if attempt + 1 < self._max_attempts:
                time.sleep(min(LONGEST_WAIT, max(asked, backoff(attempt))))
        raise EncoderError(
            f"{self._url} failed {self._max_attempts} times for {len(texts)} texts, the last time with "
            f"{trouble}; run the same command again later: what was encoded is kept"
        )

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
            items = response.json()["data"]
            by_index = {item["index"]: item["embedding"] for item in items}
            if len(items) != count or set(by_index) != set(range(count)):
                raise EncoderError(
                    f"{self._url} returned vectors for {sorted(by_index)[:5]}... ({len(items)} of them) where 0 to "
                    f"{count - 1} were expected"
                )
            vectors = np.array([by_index[row] for row in range(count)], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise EncoderError(
                f"{self._url} did not answer with embeddings ({type(error).__name__}: {str(error)[:200]}); "
                "is it an OpenAI-compatible embeddings endpoint?"
            ) from error
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise EncoderError(f"{self._url} returned vectors that are empty or hold NaN or infinity")
        return vectors

    def _message(self, response: httpx.Response) -> str:
        try:
            told = response.json()["error"]
            text = str(told["message"] if isinstance(told, dict) else told)
        except (ValueError, KeyError, TypeError):
            text = response.text
        if os.environ.get(self._key_variable):
            text = text.replace(os.environ[self._key_variable], "***")
        return " ".join(text.split())[:300] or "no message"

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
