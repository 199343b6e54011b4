"""Any server with OpenAI's `/embeddings` endpoint: OpenAI itself, Azure's v1 API, vLLM, Ollama, llama.cpp.

The key comes from an environment variable whose *name* is a setting. It is read when a request is signed and
held nowhere: not on the encoder, not in a local variable that a traceback could print, not in a message.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from kblam.errors import EncoderError, EncoderUnavailableError
from kblam.knowledge.encoders.base import Progress

if TYPE_CHECKING:
    from kblam.knowledge.encoders.http import EmbeddingsClient

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"
_KNOWN_DIMENSIONS = {
    "text-embedding-ada-002": 1536,
    "text-embedding-3-small": 1536,
    "text-embedding-3-large": 3072,
}


class OpenAIEncoder:
    """An embeddings model behind an OpenAI-compatible endpoint.

    Args:
        model: the name the server knows it by.
        base_url: up to and including `/v1`; None is $OPENAI_BASE_URL, else OpenAI's. No key or password in it.
        api_key_env: the environment variable that holds the key. A server other than OpenAI's is asked without
            a key when the variable is not set.
        dimensions: ask the server for shorter vectors (text-embedding-3 models); None is the model's own size.
        batch_size: texts in one request.
        timeout: seconds for one request, the answer's last byte included.
        max_attempts: tries of one request; 429, 408, 5xx and lost connections are tried again after 0.5, 1, 2, ...
            seconds, or what the server asks for in Retry-After.

    Raises:
        EncoderError: the settings cannot work, here; anything about the server, at the first use.
    """

    def __init__(
        self,
        model: str = "text-embedding-ada-002",
        *,
        base_url: str | None = None,
        api_key_env: str = DEFAULT_KEY_VARIABLE,
        dimensions: int | None = None,
        batch_size: int = 128,
        timeout: float = 60.0,
        max_attempts: int = 6,
    ) -> None:
        if not timeout > 0:
            raise EncoderError(f"timeout must be more than 0 seconds, got {timeout}")
        if not model.strip():
            raise EncoderError("the model name is empty; give the name the server knows the model by")
        if batch_size < 1 or max_attempts < 1 or (dimensions is not None and dimensions < 1):
            raise EncoderError(
                "batch_size, max_attempts and dimensions must be at least 1, "
                f"got {batch_size}, {max_attempts} and {dimensions}"
            )
        self.model = model
        self.base_url = checked_base_url(base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL)
        self.api_key_env = api_key_env
        self.dimensions = dimensions
        self.batch_size = batch_size
        self.timeout = timeout
        self.max_attempts = max_attempts

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self.base_url!r})"

    @property
    def spec(self) -> str:
        size = "" if self.dimensions is None else f"#{self.dimensions}"
        place = "" if self.base_url == DEFAULT_BASE_URL else f"@{self.base_url}"
        return f"openai:{self.model}{size}{place}"

    @cached_property
    def fingerprint(self) -> str:
        # Not the address: a model is the same model behind a proxy.
        return f"openai:{self.model}:{self.dimension}"

    @cached_property
    def dimension(self) -> int:
        """Known for OpenAI's models; any other is asked for the vector of one word, once."""
        known = self.dimensions or _KNOWN_DIMENSIONS.get(self.model)
        return known or len(self._client.embed(["dimension"])[0])

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        vectors = np.empty((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), self.batch_size):
            batch = list(texts[start : start + self.batch_size])
            rows = self._client.embed(batch)
            if rows.shape[1] != self.dimension:
                raise EncoderError(
                    f"{self.model} at {self.base_url} returned vectors of {rows.shape[1]} numbers where "
                    f"{self.dimension} were expected; set dimensions, or check the model name"
                )
            vectors[start : start + len(batch)] = rows
            if progress is not None:
                progress(start + len(batch), len(texts))
        return vectors

    def close(self) -> None:
        """Close the connection to the server; the next use opens another."""
        if "_client" in self.__dict__:
            self.__dict__.pop("_client").close()

    @cached_property
    def _client(self) -> EmbeddingsClient:
        try:
            from kblam.knowledge.encoders.http import EmbeddingsClient
        except ImportError as error:
            raise EncoderUnavailableError(
                f"the encoder {self.spec!r} needs httpx ({error}): pip install 'kblam-kernels[kblam]'"
            ) from error
        return EmbeddingsClient(
            self.base_url,
            model=self.model,
            key_variable=self.api_key_env,
            key_required=self.base_url == DEFAULT_BASE_URL,
            dimensions=self.dimensions,
            timeout=self.timeout,
            max_attempts=self.max_attempts,
        )


def checked_base_url(url: str) -> str:
    """The address without a final slash.

    Raises:
        EncoderError: it is no http(s) address, or carries a password or a query, which would be stored with
            the knowledge base.
    """
    try:
        parts = urlsplit(url)
        host, secret = parts.hostname, parts.username is not None or bool(parts.query or parts.fragment)
        _ = parts.port
    except ValueError as error:
        raise EncoderError(f"the base URL is not an address: {error}") from None
    if secret:
        raise EncoderError(f"the base URL for {host} carries a user name or a query; a key goes in the environment")
    if parts.scheme not in ("http", "https") or not host:
        raise EncoderError(f"the base URL must look like https://host/v1, got {url!r}")
    return url.rstrip("/")
