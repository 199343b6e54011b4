"""Chat completions by an engine that is asked for one answer after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kblam.serve.bases import Base
from kblam.serve.engine import Answering, Asking, Finished
from kblam.serve.failures import GONE, Json, dumped, told
from kblam.serve.guards import break_off
from kblam.serve.metrics import NO_BASE
from kblam.serve.models import base_named, is_by_rag
from kblam.serve.protocol import ChatRequest, Reply, question_of
from kblam.serve.reading import body_of
from kblam.serve.service import RAG, Service

Said = TypeVar("Said")
Events = AsyncGenerator[tuple[int, "str | Finished"], None]


class GoneError(Exception):
    """The client has left."""


def routes(service: Service, engine: Answering) -> APIRouter:
    """POST /v1/chat/completions."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        tenant = service.tenant_of(request)  # before its body is read
        body = await body_of(request, ChatRequest)
        extra = None if body.vllm_xargs is None else body.vllm_xargs.kblam_kb
        base = base_named(service, request, body.model, extra)
        in_prompt = is_by_rag(service, body.model)
        asking = _asking(body, base, tenant, in_prompt=in_prompt)
        reply = Reply(body.model, None if base is None else base.name, body.n)
        label = NO_BASE if base is None else base.place.label
        if in_prompt:  # its requests are counted apart
            label = request.scope["state"]["base_label"] = f"{label}{RAG}"
        events = _events(service, engine, asking, body.n, label)
        try:
            if not body.stream:
                finished = await _unless_gone(request, _whole(events))
                return Json(reply.whole(finished))
            # What cannot be answered is told with its status, so nothing is sent before the first piece is there.
            first = await _unless_gone(request, anext(events))
        except GoneError:
            return Response(status_code=GONE)
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        lines = _lines(request, reply, first, events, with_usage=with_usage)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    return router


def _asking(body: ChatRequest, base: Base | None, tenant: str | None, *, in_prompt: bool) -> Asking:
    turns = tuple(message.turn for message in body.messages)
    if base is not None:
        question_of(turns)
    top_p = 1.0 if body.top_p is None else body.top_p
    return Asking(turns, base, body.limit, body.sampling, top_p, body.seed, body.stops, in_prompt, tenant=tenant)


async def _events(service: Service, engine: Answering, asking: Asking, count: int, label: str) -> Events:
    """(index, piece or whole) of each answer in turn; to close it stops the generation."""
    is_refused = False  # a question counts once
    for index in range(count):
        seed = None if asking.seed is None else asking.seed + index
        async with aclosing(engine.answer(replace(asking, seed=seed, goes_on=index > 0))) as said:
            async for piece in said:
                if isinstance(piece, Finished):
                    answer, prompt_tokens = piece.answer, 0 if index else piece.prompt_tokens
                    is_new = answer.refused and not is_refused
                    service.metrics.answer(label, prompt_tokens, answer.num_tokens, refused=is_new)
                    is_refused = is_refused or is_new
                yield index, piece


async def _whole(events: Events) -> list[Finished]:
    async with aclosing(events) as open_events:
        return [said async for _, said in open_events if isinstance(said, Finished)]


async def _lines(
    request: Request, reply: Reply, first: tuple[int, str | Finished], events: Events, *, with_usage: bool
) -> AsyncIterator[str]:
    """A stream's server-sent events."""
    finished: list[Finished] = []
    sent, began = "", -1
    event: tuple[int, str | Finished] | None = first
    async with aclosing(events):
        try:
            while event is not None:
                index, said = event
                if index > began:
                    began, sent = index, ""
                    yield _line(reply.begin(index))
                if isinstance(said, Finished):
                    finished.append(said)
                    yield _line(reply.end(index, said, sent))
                else:
                    sent += said
                    yield _line(reply.piece(index, said))
                event = await anext(events, None)
        except Exception as error:  # the status is sent already
            failure = told(error)
            break_off(request.scope, failure)
            yield _line(failure.body)
            return
        if with_usage:
            yield _line(reply.usage(finished))
        yield "data: [DONE]\n\n"


def _line(content: dict[str, Any]) -> str:
    return f"data: {dumped(content)}\n\n"


async def _unless_gone(request: Request, work: Awaitable[Said]) -> Said:
    """What some work comes to, which is stopped when the client leaves.

    Raises:
        GoneError: it left.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
