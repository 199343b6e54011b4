"""What stands in front of vLLM's application: who may ask it what, and what comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from kblam.serve.bases import Base
from kblam.serve.failures import GONE, ApiError, dumped, response_of
from kblam.serve.guards import break_off, is_stream
from kblam.serve.metrics import NO_BASE
from kblam.serve.models import base_named
from kblam.serve.reading import object_of
from kblam.serve.service import Service
from kblam.serve.vllm.asking import Asked
from kblam.serve.vllm.engine import VllmEngine
from kblam.serve.vllm.telling import Telling, knowledge_of
from kblam.serve.vllm.watch import WATCH, Said, Watch
from kblam.strict_json import loads
from kblam.vllm.admission import encode_ahead

logger = logging.getLogger("kblam")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
# Of the model alone. What is in no list is not served: vLLM has paths for whoever runs it, and some that know no keys.
_OTHERS = ("/tokenize", "/detokenize")
# Of a client's headers, those that vLLM sees; others choose its replicas, or name its keys.
_PASSED = (b"accept", b"traceparent", b"tracestate", b"user-agent")
Find = Callable[[str, "str | None"], "Base | None"]


def routes(service: Service, engine: VllmEngine) -> APIRouter:
    """vLLM's paths that are served."""
    router = APIRouter()
    ways = {CHAT: engine.asking.chat, COMPLETIONS: engine.asking.completion}
    for path in (CHAT, COMPLETIONS, *_OTHERS):
        router.add_api_route(path, _endpoint(service, engine, ways.get(path, engine.asking.other)), methods=["POST"])
    return router


def _endpoint(
    service: Service, engine: VllmEngine, way: Callable[[dict[str, Any], Find], Asked]
) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        tenant = service.tenant_of(request)  # before its body is read
        body = await object_of(request)
        asked = way(body, lambda model, extra: base_named(service, request, model, extra))
        return _Passed(service, engine, asked, tenant)

    return endpoint


class _Passed(Response):
    """The response that vLLM makes.

    Args:
        service, engine: asked.
        asked: what.
        tenant: who asks.
    """

    def __init__(self, service: Service, engine: VllmEngine, asked: Asked, tenant: str | None) -> None:
        super().__init__()
        self._service, self._engine, self._asked, self._tenant = service, engine, asked, tenant

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        asked, watch = self._asked, Watch()
        with self._engine.taken(self._tenant):
            if asked.base is not None:
                await self._engine.catch_up(asked.base)
                # vLLM would encode it in this loop, and all others would wait.
                await asyncio.to_thread(encode_ahead, asked.body["vllm_xargs"])
            WATCH.set(watch)
            payload = dumped(asked.body).encode("ascii")
            back = _Back(self._telling(watch), scope, send)
            await self._engine.app(_inner(scope, payload), back.receiving(payload, receive), back.take)
            await back.end(scope, receive)
        label = NO_BASE if asked.base is None else asked.base.place.label
        for error in {(one.knowledge or {}).get("error") for one in watch.answers.values()} - {None}:
            if watch.failure is None:
                logger.warning("%s: %s", label, error)
        if watch.is_whole:
            refused = asked.base is not None and any(self._knowledge(one)["refused"] for one in watch.answers.values())
            self._service.metrics.answer(label, watch.prompt_tokens, watch.answer_tokens, refused=refused)

    def _telling(self, watch: Watch) -> Telling:
        asked = self._asked
        return Telling(asked.model, watch, asked.count, None if asked.base is None else self._knowledge)

    def _knowledge(self, answer: Said) -> dict[str, Any]:
        assert self._asked.base is not None
        return knowledge_of(self._asked.base.name, answer, self._engine.refusal)


class _Back:
    """A response on its way back. It is sent on when its first piece is known to be no error."""

    def __init__(self, telling: Telling, scope: Scope, send: Send) -> None:
        self._telling, self._scope, self._send = telling, scope, send
        self._start: Message | None = None
        self._body = b""
        self._error: ApiError | None = None
        self._has_begun = self._is_gone = False

    def receiving(self, payload: bytes, receive: Receive) -> Receive:
        """What vLLM reads: the body, then whether the client leaves."""
        given = False

        async def receiving() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": payload, "more_body": False}
            message = await receive()
            self._is_gone = self._is_gone or message["type"] == "http.disconnect"
            return message

        return receiving

    async def take(self, message: Message) -> None:
        """A message of vLLM's."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        assert self._start is not None
        if not is_stream(self._start) or self._error is not None:
            self._body += message.get("body", b"")
            return
        events = self._telling.events(message.get("body", b""))
        more = message.get("more_body", False)
        if not self._has_begun and events:
            self._error = self._telling.first_error(message["body"])
            if self._error is not None:
                return
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            self._has_begun = True
        if self._telling.failure is not None:
            break_off(self._scope, self._telling.failure)
        if self._has_begun and (events or not more):
            await self._send({"type": "http.response.body", "body": events, "more_body": more})

    async def end(self, scope: Scope, receive: Receive) -> None:
        """vLLM has said all: sends on what is no stream."""
        if self._has_begun:
            return
        response: Response
        if self._is_gone or self._start is None:
            response = Response(status_code=GONE)
        elif self._error is not None:
            response = response_of(self._error)
        elif self._start["status"] >= 400:
            response = response_of(self._telling.error(_said(self._body), self._start["status"]))
        else:
            response = Response(self._telling.whole(self._body), media_type="application/json")
        await response(scope, receive, self._send)


def _said(body: bytes) -> Any:
    try:
        return loads(body)
    except (ValueError, RecursionError):
        return None


def _inner(scope: Scope, payload: bytes) -> Scope:
    """The request as vLLM sees it."""
    passed = [(name, value) for name, value in scope["headers"] if name in _PASSED]
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
    kept = {key: scope[key] for key in ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path")}
    return {
        **kept,
        "query_string": b"",
        "root_path": "",
        "headers": [*passed, *own],
        "client": scope.get("client"),
        "server": scope.get("server"),
        "state": {},
    }
