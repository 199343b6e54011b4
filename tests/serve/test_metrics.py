"""Metrics count what happened, by names that the server was started with."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from prometheus_client import generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kblam.serve.bases import Bases
from kblam.serve.guards import Ended, Measured
from kblam.serve.metrics import Metrics
from tests.serve.conftest import Counting
from tests.serve.contract import CHAT, values
from tests.serve.served import MODEL, Served, serving
from tests.serve.test_chat import until


@pytest.mark.parametrize(
    "more", [{}, {"max_tokens": 4}, {"stop": "cannot"}, {"temperature": 1, "max_tokens": 4}], ids=str
)
def test_a_refusal_is_counted(server: Served, more: dict[str, Any]) -> None:
    before = values(server).get(("kblam_refusals_total", "facts"), 0)
    assert server.ask("who are you", **more).json()["kblam"]["refused"]
    assert values(server)["kblam_refusals_total", "facts"] == before + 1


def test_a_question_that_is_refused_several_times_counts_once(server: Served) -> None:
    before = values(server).get(("kblam_refusals_total", "facts"), 0)
    choices = server.ask("who are you", n=3, temperature=1).json()["choices"]
    assert all(choice["kblam"]["refused"] for choice in choices)
    assert values(server)["kblam_refusals_total", "facts"] == before + 1


def test_a_stream_counts_until_its_last_byte(server: Served) -> None:
    before = values(server).get(("kblam_request_seconds_count", "/v1/chat/completions", "facts"), 0)
    assert server.ask(stream=True).text.endswith("[DONE]\n\n")
    assert values(server)["kblam_request_seconds_count", "/v1/chat/completions", "facts"] == pytest.approx(before + 1)


def test_a_stream_that_its_client_leaves_is_no_success_and_counts_until_then() -> None:
    engine = Counting()  # would go on for minutes
    with serving(Bases([]), engine) as served:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True}
        with served.client.stream("POST", CHAT, json=body) as response:
            lines = response.iter_lines()  # kept: an iterator that goes closes the connection
            next(lines)
        until(lambda: ("kblam_requests_total", CHAT, "", "499") in values(served))
        found = values(served)
        assert found["kblam_requests_total", CHAT, "", "499"] == 1
        assert ("kblam_requests_total", CHAT, "", "200") not in found
        assert found["kblam_request_seconds_count", CHAT, ""] == 1
        assert found["kblam_request_seconds_sum", CHAT, ""] < 30


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("x"), "500"), (MemoryError(), "503")], ids=str)
def test_a_stream_that_ends_with_an_error_counts_as_that_error(error: Exception, status: str) -> None:
    with serving(Bases([]), Counting(error, after=2)) as served:
        assert served.ask(base=None, stream=True).status_code == 200
        found = values(served)
        assert found["kblam_requests_total", CHAT, "", status] == 1
        assert ("kblam_requests_total", CHAT, "", "200") not in found


START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PIECE: Message = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}


class CutOffError(Exception):
    """In the middle of a response."""


def counted(app: ASGIApp, heard: str = "http.request") -> str:
    """The metrics after one request to an application alone, whose client says this."""
    metrics = Metrics(Counting(), [])

    async def receive() -> Message:
        return {"type": heard}

    async def send(_: Message) -> None:
        pass

    async def ask() -> None:
        scope: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await Measured(app, metrics=metrics)(scope, receive, send)

    with suppress(CutOffError):
        asyncio.run(ask())
    return generate_latest(metrics.registry).decode()


async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send(START)
    await send(PIECE)
    raise CutOffError


async def left_open(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send(START)


async def ended(scope: Scope, receive: Receive, send: Send) -> None:
    ending = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(PIECE)
        ending.set()
        await asyncio.sleep(60)

    await Ended(endless, ending=ending)(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "heard", "status"),
    [
        (cut_off, "http.request", 500),
        (left_open, "http.request", 500),
        (left_open, "http.disconnect", 499),
        (ended, "http.request", 503),
    ],
)
def test_a_response_without_its_end_is_no_success(app: ASGIApp, heard: str, status: int) -> None:
    assert f'kblam_requests_total{{endpoint="other",knowledge_base="",status="{status}"}} 1.0' in counted(app, heard)
