"""One request to an OpenAI-compatible server: signed from the environment, and bounded in time and size."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from weakref import WeakSet

import httpx

from kblam.knowledge.encoders.secrets import guard_logs, note, redact
from kblam.strict_json import loads

FIRST_WAIT = 0.5  # seconds; doubled at each try
LONGEST_WAIT = 60.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504, 529})
_GRACE = 0.5  # seconds in which the HTTP library may say itself that time is over
_MOST_BYTES = 2**20  # of an answer that is an error
_LONGEST_MESSAGE = 10_000
_LOGGERS = ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks")))


class KeyFromEnvironment(httpx.Auth):
    """Signs a request as it leaves, so the key is never an attribute or a variable of ours."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if os.environ.get(self._variable):
            request.headers["Authorization"] = f"Bearer {os.environ[self._variable]}"
        yield request


class Poster:
    """Connections to one address, one for each thread: who waits too long ends his own request and no other.

    Args:
        url: that is posted to.
        key_variable: environment variable with the key; read at each request.
        timeout: seconds for one request, from its first byte to the last one of the answer.
    """

    def __init__(self, url: str, key_variable: str, timeout: float) -> None:
        self._url, self._key_variable, self._timeout = url, key_variable, timeout
        note(key_variable)
        guard_logs(*_LOGGERS)
        self._own = threading.local()
        self._clients: WeakSet[httpx.Client] = WeakSet()  # those of threads that have ended go by themselves
        self._lock, self._is_closed = threading.Lock(), False

    def close(self) -> None:
        """Ends what is under way, and the connections; what is posted from now on fails."""
        with self._lock:
            self._is_closed = True
            clients = list(self._clients)
        for client in clients:
            client.close()

    def post(self, body: Mapping[str, object], most: int) -> httpx.Response | str:
        """The whole answer to one request, or what went wrong; within the time and the size that it may take.

        Args:
            most: bytes of an answer with status 200.
        """
        done: list[httpx.Response | str] = []
        client = self._client()
        deadline = time.monotonic() + self._timeout

        def exchange(client: httpx.Client) -> None:
            try:
                done.append(self._exchange(client, body, most, deadline))
            # What a server sends that is no HTTP, no such encoding, or no such address.
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, ValueError, RuntimeError) as error:
                done.append(redact(f"{type(error).__name__}: {error}"))

        # The HTTP library bounds the wait for each piece, and a server may send a piece a second for ever.
        thread = threading.Thread(target=exchange, args=(client,), daemon=True)
        thread.start()
        thread.join(self._timeout + _GRACE)
        if done:
            return done[0]
        client.close()  # ends the exchange
        del self._own.client
        return f"no whole answer within {self._timeout:g} seconds"

    def until_answered(
        self,
        body: Mapping[str, object],
        most: int,
        *,
        attempts: int,
        wait: Callable[[float], object],
        trouble_of: Callable[[httpx.Response], str],
    ) -> httpx.Response | str:
        """The answer with status 200 to a request that is sent again where that can help, or the last trouble.

        Args:
            most: as `post` has it.
            attempts: so many requests at most.
            wait: waits so many seconds before the next one.
            trouble_of: says what is wrong with an answer of another status; raises where no other attempt can help.
        """
        trouble = ""
        for attempt in range(attempts):
            answer, asked = self.post(body, most), 0.0
            if isinstance(answer, str):
                trouble = answer
            elif answer.status_code == 200:
                return answer
            else:
                trouble, asked = trouble_of(answer), retry_after(answer)
            if attempt + 1 < attempts:
                wait(min(LONGEST_WAIT, max(asked, backoff(attempt))))
        return trouble

    def _exchange(self, client: httpx.Client, body: Mapping[str, object], most: int, deadline: float) -> httpx.Response:
        with client.stream("POST", self._url, json=body) as answer:
            whole = bytearray()
            most = most if answer.status_code == 200 else _MOST_BYTES
            for piece in answer.iter_bytes():
                whole += piece
                if len(whole) > most:
                    raise ValueError(f"an answer of more than {most:,} bytes")
                if time.monotonic() > deadline:
                    raise ValueError(f"no whole answer within {self._timeout:g} seconds")
            told = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
            return httpx.Response(answer.status_code, headers=told, content=bytes(whole))

    def _client(self) -> httpx.Client:
        client: httpx.Client | None = getattr(self._own, "client", None)
        if client is None:
            client = httpx.Client(timeout=self._timeout, auth=KeyFromEnvironment(self._key_variable))
            self._own.client = client
            with self._lock:
                self._clients.add(client)
                if self._is_closed:
                    client.close()
        return client


def message_of(response: httpx.Response) -> str:
    """What a server says of an error, in a line, without secrets."""
    text = response.content.decode("utf-8", "replace")
    try:
        told = loads(text)["error"]
        text = str(told["message"] if isinstance(told, dict) else told)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return redact(" ".join(text[:_LONGEST_MESSAGE].split()))[:300] or "no message"


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
