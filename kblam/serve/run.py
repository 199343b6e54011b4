"""A server from its socket to its end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from ipaddress import ip_address
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from kblam.errors import EngineDiedError, ServingError
from kblam.serve import SEND_SECONDS
from kblam.serve.connections import waiting_for
from kblam.serve.crowd import CROWDED
from kblam.serve.service import Service

# Connections at once: each holds a file of the process, so that its limit (often 1,024) is not reached.
CONNECTIONS = 512
_BACKLOG = 256
_LAST_SECONDS, _TELLING_SECONDS = 3, 2  # when the server ends: for answers in progress; to tell those that are left
_LOOK_SECONDS = 1  # between looks whether the engine is alive


def is_this_machine(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        port: 0 takes a free one.

    Raises:
        ServingError: the port is in use or not allowed, or the host is none of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(_BACKLOG)
        except BaseException:
            made.close()
            raise
        return made
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServingError(
                f"port {port} of {host} is in use; choose another with --port, or 0 for a free one"
            ) from None
        raise ServingError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def url_of(listening: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Serves until Ctrl-C (KeyboardInterrupt) or SIGTERM (exit status 0).

    Args:
        serving: `serve`, and what it needs around it.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    asyncio.run(serving)


async def serve(
    app: Any,
    service: Service,
    listening: socket.socket,
    *,
    ready: Callable[[], None],
    access_log: bool = False,
    connections: int = CONNECTIONS,
    send_seconds: float = SEND_SECONDS,
) -> None:
    """Serves until a signal ends it.

    Args:
        app, service: from `make_app`, and what it serves.
        listening: from `listen`; closed at the end.
        ready: called when requests are taken.
        access_log: a line on stderr for each request.
        connections: at once; with more, requests are refused, see `crowd`.
        send_seconds: after which a client that takes nothing of its response is cut off.

    Raises:
        EngineDiedError: there is nothing to serve with any more.
    """
    running = server(
        app, service, ready=ready, access_log=access_log, connections=connections, send_seconds=send_seconds
    )
    watching = asyncio.ensure_future(_watch(service, running))
    try:
        await running.serve(sockets=[listening])
    finally:
        watching.cancel()
    if not service.engine.is_alive():
        raise EngineDiedError(f"the engine ({service.engine.name}) has died; what it said above has the reason")


async def _watch(service: Service, running: uvicorn.Server) -> None:
    while service.engine.is_alive():
        await asyncio.sleep(_LOOK_SECONDS)
    running.should_exit = True


def server(
    app: Any,
    service: Service,
    *,
    ready: Callable[[], None],
    access_log: bool = False,
    connections: int = CONNECTIONS,
    send_seconds: float = SEND_SECONDS,
) -> uvicorn.Server:
    """What serves an application, as `serve` has it run."""
    _log_to_stderr(access_log)

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # uvicorn's own limit answers in plain text, to whoever looks whether the server is alive too.
            scope.setdefault("state", {})[CROWDED] = len(running.server_state.connections) > connections
        await app(scope, receive, send)

    config = uvicorn.Config(
        counted,
        loop="asyncio",
        http=waiting_for(send_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST_SECONDS + _TELLING_SECONDS,
    )
    running = _Server(config, service, ready)
    return running


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._ready = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that it is ready, when it is."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Gives what is in progress some time to end by itself."""
        asyncio.get_running_loop().call_later(_LAST_SECONDS, self._service.ending.set)
        await super().shutdown(sockets)


def _log_to_stderr(access_log: bool) -> None:
    """What uvicorn has to say, without its own colours; of the messages only what went wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("uvicorn.error", logging.WARNING), ("uvicorn.access", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if access_log or name == "uvicorn.error" else logging.CRITICAL)
