"""What hostile and careless clients send: each gets its status, and the server goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.requests import Request

from kblam.serve import connections, guards, reading
from kblam.serve.embedded import EmbeddedEngine
from kblam.serve.engine import Finished
from kblam.serve.failures import ApiError
from tests.serve.contract import CHAT, TRIPLES, raw
from tests.serve.served import ANSWER, MODEL, Served


def test_triples_may_be_more_than_questions(small: Served) -> None:
    body = [{"name": "a" * 3000, "property": "b", "value": "c"}]
    assert small.client.post(TRIPLES, json=body).status_code == 200
    assert small.client.put(TRIPLES, json=body).status_code == 413


def test_a_body_that_is_said_to_be_compressed_is_refused(small: Served) -> None:
    """Also one that is not: whoever says so believes that it is unpacked."""
    body = json.dumps([{"name": "a", "property": "b", "value": "c"}]).encode()
    for encoding in ("gzip", "br", "identity, gzip", "GZIP"):
        for sent in (body, gzip.compress(body)):
            response = small.client.post(TRIPLES, content=sent, headers={"Content-Encoding": encoding})
            assert (response.status_code, response.json()["error"]["code"]) == (415, "encoded_body")
    as_it_is = {"Content-Encoding": "identity", "Content-Type": "application/json"}
    assert small.client.post(TRIPLES, content=body, headers=as_it_is).status_code == 200


def test_a_body_that_does_not_come_is_given_up(small: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_SECONDS", 0.2)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    began = time.monotonic()
    answer = raw(small, f"{head}Content-Length: 500\r\n\r\n{{".encode())
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "begun", [b"", b"GET / HTTP/1.1\r\nHost: local", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET"]
)
def test_headers_that_do_not_come_are_given_up(small: Served, begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    raw(small, begun)
    assert 0.2 < time.monotonic() - began < 15


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["noise", "no host", "no length", "no chunk"],
)
def test_what_is_no_http_is_told_in_the_form_of_all_errors(small: Served, sent: bytes) -> None:
    answer = raw(small, sent)
    assert answer.startswith(b"HTTP/1.1 40")
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert small.client.head("/health").status_code == 200


def test_another_name_of_this_server_is_refused(small: Served) -> None:
    """A page may give its own name the address of this machine."""
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", "localhost@evil.example", "[", ""):
        response = small.client.get("/v1/models", headers={"Host": host})
        assert (response.status_code, response.json()["error"]["code"]) == (421, "unknown_host")
    assert small.client.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_every_response_keeps_a_browser_from_harm(small: Served) -> None:
    for path in ("/", "/page.js", "/v1/models", "/no/such"):
        headers = small.client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere(small: Served) -> None:
    page = "".join(small.client.get(path).text for path in ("/", "/page.js", "/page.css"))
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page
    assert " on" + "click" not in page


@pytest.mark.parametrize(
    "path", ["/page.css/../../app.py", "/..%2fapp.py", "/page/index.html", "/docs", "/openapi.json"]
)
def test_only_the_page_s_own_files_are_served(small: Served, path: str) -> None:
    response = small.client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "no_such_path")


def test_another_method_is_405(small: Served) -> None:
    response = small.client.get(CHAT)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET /\r\nX: y HTTP/1.1\r\n\r\n",
    ],
    ids=["TLS", "a long header", "two lengths", "a line break in the path"],
)
def test_what_is_no_http_is_refused(small: Served, request_: bytes) -> None:
    assert raw(small, request_).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert small.client.get("/health").status_code == 200


def test_a_client_that_reads_nothing_holds_nobody_up(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answer is more than the system's own buffers take, so that its connection comes to a halt."""
    halted = threading.Event()
    answered, pause_writing = EmbeddedEngine._answered, connections.Connection.pause_writing

    def flooding(engine: EmbeddedEngine, job: Any) -> Finished:
        if job.asking.turns[-1][1] == "flood":
            for _ in range(16):
                job.say("x" * 2**20)
        return answered(engine, job)

    def paused(connection: connections.Connection) -> None:
        pause_writing(connection)
        halted.set()

    monkeypatch.setattr(EmbeddedEngine, "_answered", flooding)
    monkeypatch.setattr(connections.Connection, "pause_writing", paused)
    address = urlsplit(server.url)
    sent = {"model": MODEL, "messages": [{"role": "user", "content": "flood"}], "stream": True, "max_tokens": 2}
    body = json.dumps(sent).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)  # the system looks at it when it connects
        connection.connect((address.hostname, address.port))
        connection.sendall(head.encode() + body)
        assert halted.wait(60)
        asked = {"model": f"{MODEL}@facts", "messages": [{"role": "user", "content": server.question}]}
        other = httpx.post(f"{server.url}{CHAT}", json=asked, timeout=60)
        assert other.json()["choices"][0]["message"]["content"] == ANSWER


def test_a_client_that_hangs_up_in_its_body_is_no_error_of_the_server() -> None:
    parts = iter([{"type": "http.request", "body": b'{"mod', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, object]:
        return dict(next(parts))

    headers = [(b"content-type", b"application/json")]
    request = Request({"type": "http", "method": "POST", "path": CHAT, "headers": headers}, receive)
    with pytest.raises(ApiError, match="hung up before its request was whole"):
        asyncio.run(reading.object_of(request))
