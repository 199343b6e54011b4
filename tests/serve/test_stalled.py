"""A client that does not read its response keeps no connection, no request and no place."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from starlette.responses import StreamingResponse

from kblam.generation import Answer
from kblam.serve.bases import Bases
from kblam.serve.engine import Asking, Finished
from tests.serve.conftest import Counting
from tests.serve.contract import CHAT, values
from tests.serve.served import MODEL, Served, running, serving
from tests.serve.vllm.standing_in import Served as Gate

PIECE = "x" * 2**18
PATIENCE = 0.6


class Flooding(Counting):
    """An engine that says more than the system's own buffers take.

    Args:
        pieces: of an answer.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    async def answer(self, asking: Asking) -> AsyncGenerator[str | Finished, None]:
        self.began += 1
        try:
            for _ in range(self.pieces):
                await asyncio.sleep(0)
                yield PIECE
            yield Finished(Answer(PIECE * self.pieces, (), False, 1), 1, None)
        finally:
            self.closed += 1


@contextmanager
def asking(served: Served, *, stream: bool, model: str = MODEL, window: int = 1024) -> Iterator[socket.socket]:
    """A connection that has sent a question, and read nothing."""
    address = urlsplit(served.url)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "stream": stream}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)  # the system looks at it when it connects
        connection.settimeout(60)
        connection.connect((address.hostname, address.port))
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield connection


def rest_of(connection: socket.socket) -> int:
    """The bytes that are still read before the connection ends."""
    count = 0
    try:
        while part := connection.recv(2**20):
            count += len(part)
    except ConnectionResetError:
        pass
    return count


def until(is_so: object) -> None:
    """Waits, for 20 seconds at most."""
    end = time.monotonic() + 20
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def gone(served: Served) -> float:
    """How many requests ended without their client."""
    return sum(
        count for label, count in values(served).items() if label[0] == "kblam_requests_total" and "499" in label
    )


def test_a_client_that_never_reads_its_stream_is_cut_off_and_its_request_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Flooding(10_000)
    with (
        caplog.at_level(logging.WARNING, "kblam"),
        serving(Bases([]), engine, send_seconds=PATIENCE) as served,
        asking(served, stream=True) as connection,
    ):
        until(lambda: engine.closed == 1)
        until(lambda: gone(served) == 1)
        assert rest_of(connection) < 2**23
    assert [record.getMessage() for record in caplog.records if record.name == "kblam"] == [
        "the client 127.0.0.1 takes nothing of its response for 0.6 seconds: it is cut off"
    ]


def test_a_client_that_never_reads_a_whole_answer_is_cut_off_too() -> None:
    """Its request has ended, and uvicorn would close its connection when all is sent."""
    pieces = 64
    with (
        serving(Bases([]), Flooding(pieces), send_seconds=PATIENCE) as served,
        asking(served, stream=False) as connection,
    ):
        time.sleep(5 * PATIENCE)
        assert rest_of(connection) < pieces * len(PIECE) / 2


def test_a_client_that_reads_slowly_has_its_answer() -> None:
    pieces, got, patience = 16, 0, 1.5
    with (
        serving(Bases([]), Flooding(pieces), send_seconds=patience) as served,
        asking(served, stream=False, window=2**16) as connection,
    ):
        began = time.monotonic()
        while got < pieces * len(PIECE):
            time.sleep(patience / 6)
            part = connection.recv(200_000, socket.MSG_WAITALL)
            assert part
            got += len(part)
        assert time.monotonic() - began > 3 * patience


def test_on_vllm_it_frees_its_place() -> None:
    is_closed = threading.Event()

    async def endless() -> AsyncIterator[str]:
        try:
            while True:
                await asyncio.sleep(0)
                yield f"data: {json.dumps({'model': 'tiny', 'choices': [], 'x': PIECE})}\n\n"
        finally:
            is_closed.set()

    gate = Gate(most=1)
    gate.behind.answers = lambda _: StreamingResponse(endless(), media_type="text/event-stream")
    with (
        running(gate.app, gate.service, send_seconds=PATIENCE) as served,
        asking(served, stream=True, model="tiny@facts") as connection,
    ):
        until(lambda: gate.engine._taken.total() == 1)
        assert served.ask().status_code == 429
        assert is_closed.wait(20)
        until(lambda: gate.engine._taken.total() == 0)
        until(lambda: gone(served) == 1)
        assert rest_of(connection) < 2**23
