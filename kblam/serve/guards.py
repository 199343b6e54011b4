"""What stands before every request: limits of its body, headers of every response, and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kblam.serve.failures import GONE, ApiError, dumped, response_of, told
from kblam.serve.metrics import NO_BASE, Metrics

BODY_SECONDS = 60.0
_BROKEN_OFF = "broken_off"  # in the state of a scope: the status that the end of its stream tells
# Nothing of a page may come from elsewhere, and no other page may hold this one.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ENDED = ApiError(
    503,
    "the server is going down; ask again when it is back",
    "server_ending",
    headers={"Retry-After": "5", "Connection": "close"},
)
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


class SafeHeaders:
    """Adds to every response the headers that keep a browser from harm."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW_HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)


class KnownHosts:
    """Refuses a request that calls this server by a name it does not have.

    A page of the web may give its own name this machine's address, and would then be the same site to a browser.

    Args:
        hosts: names and addresses, without ports.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http" or _host_of(scope) in self.hosts:
            await self.app(scope, receive, send)
            return
        message = f"call this server by one of its names: {', '.join(sorted(self.hosts))}"
        await response_of(ApiError(421, message, "unknown_host"))(scope, receive, send)


def _host_of(scope: Scope) -> str | None:
    given = next((value for name, value in scope["headers"] if name == b"host"), b"")
    try:
        return urlsplit(f"//{given.decode('ascii')}").hostname
    except ValueError:  # no ASCII either
        return None


class BodyLimit:
    """Refuses a body that is too large before it is read whole, one that does not come, and one that is compressed.

    Args:
        most: bytes of a body.
        most_of_uploads: bytes of a body with triples.
    """

    def __init__(self, app: ASGIApp, *, most: int, most_of_uploads: int) -> None:
        self.app, self.most, self.most_of_uploads = app, most, most_of_uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"].endswith("/triples")
        most = self.most_of_uploads if is_upload else self.most
        headers = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip()
        if encoding.lower() not in ("", "identity"):
            await response_of(_encoded(encoding))(scope, receive, send)
            return
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > most:
            await response_of(_too_large(most, is_upload))(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        came, is_whole = 0, False

        async def limited() -> Message:
            nonlocal came, is_whole
            if is_whole:  # now it is only waited for the client to leave
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - asyncio.get_running_loop().time())
            except asyncio.TimeoutError:
                message_text = f"the request's body has not come within {BODY_SECONDS:.0f} seconds"
                raise ApiError(408, message_text, "slow_body", headers={"Connection": "close"}) from None
            came += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if came > most:
                raise _too_large(most, is_upload)
            return message

        await self.app(scope, limited, send)


class Contained:
    """Answers what nobody foresaw with status 500, so that the connection and the server go on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if scope["type"] != "http" or has_begun:  # the half-sent response can only be broken off
                raise
            await response_of(told(error))(scope, receive, send)


class Ended:
    """Ends what is still in progress when the server's time is up, and tells whoever waits for it.

    Args:
        ending: set when it is.
    """

    def __init__(self, app: ASGIApp, *, ending: asyncio.Event) -> None:
        self.app, self.ending = app, ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began: Message | None = None

        async def watched(message: Message) -> None:
            nonlocal began
            began = message if message["type"] == "http.response.start" else began
            await send(message)

        work = asyncio.ensure_future(self.app(scope, receive, watched))
        over = asyncio.ensure_future(self.ending.wait())
        try:
            await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
                return
        finally:
            for one in (work, over):
                one.cancel()
            await asyncio.gather(work, over, return_exceptions=True)
        if began is None:
            await response_of(_ENDED)(scope, receive, send)
        elif is_stream(began):
            break_off(scope, _ENDED)
            last = f"data: {dumped(_ENDED.body)}\n\n".encode()
            await send({"type": "http.response.body", "body": last, "more_body": False})


def is_stream(start: Message) -> bool:
    """Whether a response that begins so is one of server-sent events."""
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"]
    )


def break_off(scope: Scope, error: ApiError) -> None:
    """Has a stream whose last event is an error counted by that error's status: its own was sent before."""
    scope["state"][_BROKEN_OFF] = error.status


class Measured:
    """Tells the metrics of every request, when its last byte was sent or nothing more will be.

    A response is not counted by the status that it began with if its client left before the end (`GONE`), if it ends
    with an error (`break_off`), or if it was cut off (500).
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, is_counted, is_gone = time.monotonic(), 500, False, False
        state = scope.setdefault("state", {})

        def count() -> None:
            nonlocal is_counted
            if not is_counted:
                is_counted = True
                endpoint = getattr(scope.get("route"), "path", None) or "other"
                ended = state.get(_BROKEN_OFF, GONE if is_gone else status)
                self.metrics.request(endpoint, state.get("base_label", NO_BASE), ended, time.monotonic() - began)

        async def heard() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] == "http.disconnect"
            return message

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            # Not later: whoever has the last byte may look at the metrics next.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                count()

        try:
            await self.app(scope, heard, watched)
        finally:
            status = 500  # of what was not counted yet, since its last byte was not sent
            count()


def _encoded(encoding: str) -> ApiError:
    message = f"the request's body has Content-Encoding {encoding}; send it as it is, without that header"
    return ApiError(415, message, "encoded_body", headers={"Accept-Encoding": "identity", "Connection": "close"})


def _too_large(most: int, is_upload: bool) -> ApiError:
    size = f"{most / 2**20:g} MiB" if most >= 2**20 else f"{most:,} bytes"
    fix = "send it in parts, or build the file with `kblam kb build`" if is_upload else "send less"
    message = f"the request's body is larger than {size}; {fix}"
    return ApiError(413, message, "body_too_large", headers={"Connection": "close"})
