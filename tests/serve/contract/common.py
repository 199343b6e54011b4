"""What the tests of every engine share."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from tests.serve.served import Served

ACME, OTHER, GLOBEX, SCRAPE = (
    "acme-key-0123456789",
    "acme-key-2-0123456",
    "globex-key-0123456789",
    "metrics-key-0123456789",
)
CHAT, TRIPLES = "/v1/chat/completions", "/v1/knowledge/facts/triples"
JSON = {"Content-Type": "application/json"}
BASIS = {"knowledge_base", "revision", "refused", "known", "confidence", "evidence", "copied"}
NEW = {"name": "Zorblax", "property": "weather", "value": "rain"}


def chunks(text: str) -> list[Any]:
    """The JSON of a stream's events, after checking that it ends as it should."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def said_in(parts: list[Any]) -> str:
    """The text of a stream with one answer."""
    return "".join(part["choices"][0]["delta"].get("content") or "" for part in parts if part["choices"])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def values(served: Served) -> dict[tuple[str, ...], float]:
    """Each sample of our own metrics by its name and the values of its labels, which are in alphabetical order."""
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {
        (one.name, *one.labels.values()): one.value
        for family in families
        if family.name.startswith("kblam")
        for one in family.samples
    }


def raw(served: Served, *parts: bytes) -> bytes:
    """What a server answers to bytes, up to the end of the connection."""
    return raw_of(served.url, *parts)


def raw_of(url: str, *parts: bytes) -> bytes:
    """The same of a server by its URL."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for part in parts:
            with contextlib.suppress(ConnectionError):
                connection.sendall(part)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # by a server that closes before it has read all
            while part := connection.recv(65536):
                answer += part
        return answer
