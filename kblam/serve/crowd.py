"""More connections than a server takes: requests are refused, and it still says how it is."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kblam.serve.failures import ApiError, response_of

logger = logging.getLogger("kblam")

CROWDED = "is_crowded"  # in the state of a scope, of whoever counts the connections
# A balancer that gets no answer here takes the server for dead.
_ALWAYS_ANSWERED = frozenset(("/health", "/metrics"))
_CLOSE = (b"connection", b"close")
_REFUSED = ApiError(
    503,
    "too many connections are open; try again later",
    "too_many_connections",
    headers={"Retry-After": "1", "Connection": "close"},
)


class Crowd:
    """Refuses requests while more connections are open than may be, and closes the connection of each.

    Health and metrics are answered, and their connections closed too: what is kept open counts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self._was_crowded = app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        is_crowded = scope["type"] == "http" and scope.get("state", {}).get(CROWDED, False)
        if is_crowded and not self._was_crowded:  # a line each would fill the log
            logger.warning("more connections are open than this server takes; requests are refused until some close")
        self._was_crowded = is_crowded
        if not is_crowded:
            await self.app(scope, receive, send)
        elif scope["path"] in _ALWAYS_ANSWERED:
            await self.app(scope, receive, _closing(send))
        else:
            await response_of(_REFUSED)(scope, receive, send)


def _closing(send: Send) -> Send:
    """A response after which the connection is closed."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], _CLOSE]
        await send(message)

    return closing
