"""A server from its socket to its end."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import uvicorn

from kblam.errors import ServingError
from kblam.serve.connections import Connection

# Connections at once: each holds a file of the process, so that its limit (often 1,024) is not reached.
_CONNECTIONS = 512
_BACKLOG = 256
_LAST_SECONDS = 3  # for answers in progress, when the server ends


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


def run(app: Any, listening: socket.socket, *, ready: Callable[[], None], access_log: bool = False) -> None:
    """Serves until Ctrl-C (KeyboardInterrupt) or SIGTERM (exit status 0).

    Args:
        listening: from `listen`; closed at the end.
        ready: called when requests are taken.
        access_log: a line on stderr for each request.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server(app, ready=ready, access_log=access_log).run(sockets=[listening])


def server(app: Any, *, ready: Callable[[], None], access_log: bool = False) -> uvicorn.Server:
    """What serves an application, as `run` has it run."""
    _log_to_stderr(access_log)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=access_log,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        backlog=_BACKLOG,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return _Server(config, ready)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Says that it is ready, when it is."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def _log_to_stderr(access_log: bool) -> None:
    """What uvicorn has to say, without its own colours; of the messages only what went wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("uvicorn.error", logging.WARNING), ("uvicorn.access", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if access_log or name == "uvicorn.error" else logging.CRITICAL)
