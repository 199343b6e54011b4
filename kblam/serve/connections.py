"""Connections of clients that take their time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kblam.serve.failures import ApiError, dumped

HEAD_SECONDS = 20.0
_NO_HTTP = ApiError(400, "this is no request of HTTP/1.1", "bad_http")


class Connection(H11Protocol):
    """Closes a connection whose next request has begun, or was to begin, and whose headers do not come.

    uvicorn waits for them for ever, so that a few hundred such connections would keep everybody out. After a response
    it closes an idle connection by itself.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what is no HTTP; of itself it says so in plain text."""
        body = dumped(_NO_HTTP.body).encode("ascii")
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        start = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        with suppress(h11.LocalProtocolError):  # a response is on its way already
            for event in (start, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _waits(self) -> bool:
        """For a request's headers."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        if self._timer is None and self._waits:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)

    def _look(self, cycle: object) -> None:
        self._timer = None
        # Another cycle is another request, which has come whole meanwhile.
        if self.cycle is cycle and self._waits and not self.transport.is_closing():
            self.transport.close()
        else:
            self._watch()
