"""Coroutines of both frameworks: the event loop goes on while an answer is made, and who is cancelled stops it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("llama_index.core")

from llama_index.core.base.llms.types import ChatMessage

from kblam import Session
from kblam.errors import GenerationError
from kblam.generation.speaking import Speaker
from kblam.integrations.langchain import ChatKBLaM, KBLaMRetriever
from kblam.integrations.llama_index import KBLaMEvidenceRetriever, KBLaMLLM
from tests.integrations.conftest import ANSWER, QUESTION

# With a stop string an answer is generated token by token.
TOKEN_BY_TOKEN = ["no such words"]
Way = Callable[[Session, str], Awaitable[str]]


def llm(session: Session) -> KBLaMLLM:
    return KBLaMLLM(session=session, max_tokens=40, stop=TOKEN_BY_TOKEN)


def chat(session: Session) -> ChatKBLaM:
    return ChatKBLaM(session=session, max_tokens=40, stop=TOKEN_BY_TOKEN)


async def acomplete(session: Session, question: str) -> str:
    return (await llm(session).acomplete(question)).text


async def achat(session: Session, question: str) -> str:
    return (await llm(session).achat([ChatMessage(content=question)])).message.content or ""


async def ainvoke(session: Session, question: str) -> str:
    return (await chat(session).ainvoke(question)).text


async def astream_complete(session: Session, question: str) -> AsyncIterator[str]:
    async for part in await llm(session).astream_complete(question):
        yield part.delta or ""


async def astream_chat(session: Session, question: str) -> AsyncIterator[str]:
    async for part in await llm(session).astream_chat([ChatMessage(content=question)]):
        yield part.delta or ""


async def astream(session: Session, question: str) -> AsyncIterator[str]:
    async for part in chat(session).astream(question):
        yield part.text


async def nodes(session: Session, question: str) -> str:
    return (await KBLaMEvidenceRetriever(session).aretrieve(question))[0].text


async def documents(session: Session, question: str) -> str:
    return (await KBLaMRetriever(session=session).ainvoke(question, k=2))[0].page_content


WHOLE = (acomplete, achat, ainvoke)
STREAMS = (astream_complete, astream_chat, astream)
FOUND = (nodes, documents)


def joined(stream: Callable[[Session, str], AsyncIterator[str]]) -> Way:
    async def whole(session: Session, question: str) -> str:
        return "".join([piece async for piece in stream(session, question)])

    return whole


ALL = [pytest.param(way, id=way.__name__) for way in (*WHOLE, *FOUND)]
ALL += [pytest.param(joined(stream), id=stream.__name__) for stream in STREAMS]


@pytest.mark.parametrize("way", ALL)
def test_the_event_loop_goes_on_while_an_answer_is_made(
    session: Session, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer waits for something that the loop does."""
    is_done, ask = threading.Event(), Session.ask

    def waiting(self: Session, *arguments: Any, **options: Any) -> Any:
        assert is_done.wait(10), "the loop stands still"
        return ask(self, *arguments, **options)

    monkeypatch.setattr(Session, "ask", waiting)

    async def asked() -> str:
        asyncio.get_running_loop().call_later(0.05, is_done.set)
        return await way(session, QUESTION)

    assert asyncio.run(asked()) == ANSWER


@pytest.mark.parametrize("way", ALL)
def test_what_cannot_be_asked_is_raised_where_it_is_waited_for(session: Session, way: Way) -> None:
    with pytest.raises(GenerationError, match="empty"):
        asyncio.run(way(session, " "))


@pytest.fixture
def halted(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Answers halt after some tokens until nobody wants them: set when one does, and when it was stopped."""
    put, has_halted, was_stopped = Speaker.put, threading.Event(), threading.Event()

    def halt(self: Speaker, value: Any) -> None:
        put(self, value)
        end = time.monotonic() + 15
        while len(self._tokens) > 5 and time.monotonic() < end:
            has_halted.set()
            if self._is_stopped.wait(0.01):
                was_stopped.set()
                return

    monkeypatch.setattr(Speaker, "put", halt)
    return has_halted, was_stopped


@pytest.mark.parametrize("way", [*WHOLE, *map(joined, STREAMS)])
def test_to_cancel_who_waits_stops_the_answer(
    session: Session, way: Way, halted: tuple[threading.Event, threading.Event]
) -> None:
    has_halted, was_stopped = halted

    async def cancelled() -> None:
        task = asyncio.ensure_future(way(session, QUESTION))
        assert await asyncio.to_thread(has_halted.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(was_stopped.wait, 5)

    asyncio.run(cancelled())


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_is_left_stops_the_answer(
    session: Session,
    stream: Callable[[Session, str], Any],
    halted: tuple[threading.Event, threading.Event],
) -> None:
    has_halted, was_stopped = halted

    async def left() -> None:
        async with aclosing(stream(session, QUESTION)) as said:
            assert await anext(said)
            assert await asyncio.to_thread(has_halted.wait, 10)
        assert await asyncio.to_thread(was_stopped.wait, 5)

    asyncio.run(left())
