"""Connections of clients that take their time."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kblam.serve import SEND_SECONDS
from kblam.serve.failures import ApiError, dumped

logger = logging.getLogger("kblam")

HEAD_SECONDS = 20.0
# Bytes that the system keeps unsent for one client. It says that there is room only when much of it has gone: of its
# usual megabytes a client of 20 kB a second takes too little in a minute for that.
_UNSENT = 65_536
_LOOKS = 4  # at a client that takes nothing, in the time that it has
_NO_HTTP = ApiError(400, "this is no request of HTTP/1.1", "bad_http")


class Connection(H11Protocol):
    """Closes a connection whose next request has begun, or was to begin, and whose headers do not come.

    uvicorn waits for them for ever, so that a few hundred such connections would keep everybody out. After a response
    it closes an idle connection by itself.

    It also waits for ever for a client to read what it is sent. One that takes nothing of it for `send_seconds` is cut
    off here, and is to its request a client that has left.
    """

    send_seconds: float = SEND_SECONDS

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._sending: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by asyncio."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that `pause_writing` is called for the first byte that waits
        connected = transport.get_extra_info("socket")
        with suppress(AttributeError, OSError):  # not every system has it
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        super().connection_lost(exc)
        for timer in (self._timer, self._sending):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Called by asyncio when the system has no room for more of a response."""
        super().pause_writing()
        self._see_it_take(self.transport.get_write_buffer_size(), self.loop.time())

    def resume_writing(self) -> None:
        """Called by asyncio when nothing of it waits any more."""
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

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

    def _see_it_take(self, before: int, since: float) -> None:
        """Looks whether the client takes something of the `before` bytes that wait, none of which it took since."""
        now, left = self.loop.time(), self.transport.get_write_buffer_size()
        if left < before:
            since = now
        elif now - since >= self.send_seconds:
            who = "a client" if self.client is None else f"the client {self.client[0]}"
            logger.warning("%s takes nothing of its response for %g seconds: it is cut off", who, self.send_seconds)
            self.transport.abort()  # to close it would wait until it has taken the rest
            return
        self._sending = self.loop.call_later(self.send_seconds / _LOOKS, self._see_it_take, left, since)


def waiting_for(send_seconds: float) -> type[Connection]:
    """Connections that wait so long for a client to take something of a response."""
    return type("Connection", (Connection,), {"send_seconds": send_seconds})
