"""A real server in this process, on a port of its own."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from kblam import KnowledgeBase, Triple
from kblam.serve import SEND_SECONDS, chat
from kblam.serve.app import make_app
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.embedded import EmbeddedEngine
from kblam.serve.engine import Answering
from kblam.serve.keys import Keys
from kblam.serve.run import CONNECTIONS, listen, server, url_of
from kblam.serve.service import Service
from tests.generation.asking import EMBEDDING_DIM, FACTS, QuestionEncoder, attached, byte_bpe

MODEL = "tiny-model"
QUESTION, ANSWER = "what is the currency of France", "The currency of France is Euro."
ENCODER = QuestionEncoder(EMBEDDING_DIM)


@dataclass
class Served:
    """A server that runs.

    Args:
        url: of it.
        service: what it serves.
        client: asks it.
        question: that the base "facts" answers with `fact`, and would with `other_value` in it.
        room: tokens of the model's context.
    """

    url: str
    service: Service
    client: httpx.Client
    question: str = QUESTION
    fact: Triple = FACTS[0]
    other_value: str = "Franc"
    room: int = 512

    @property
    def model(self) -> str:
        """Its name."""
        return self.service.model

    def ask(self, content: str | None = None, base: str | None = "facts", **more: Any) -> httpx.Response:
        """A chat completion; without a content, of `question`."""
        model = self.model if base is None else f"{self.model}@{base}"
        body = {"model": model, "messages": [{"role": "user", "content": content or self.question}], **more}
        return self.send(body)

    def send(self, body: Any, path: str = "/v1/chat/completions", method: str = "POST") -> httpx.Response:
        """A JSON body, which may hold half a surrogate pair."""
        return self.client.request(method, path, content=json.dumps(body), headers={"Content-Type": "application/json"})


def base_of(name: str = "facts", tenant: str | None = None, facts: Sequence[Any] = FACTS) -> Base:
    """A knowledge base in memory."""
    return Base(Place(tenant, name, None), KnowledgeBase.from_triples(facts, ENCODER))


def embedded(bases: Bases, queue: int = 64, *, with_rag: bool = False) -> EmbeddedEngine:
    """The engine with a tiny model, which answers from the tests' facts."""
    tokenizer = byte_bpe()
    model, attachment = attached(tokenizer)
    return EmbeddedEngine(model, attachment, tokenizer, bases, queue=queue, with_rag=with_rag)


@contextmanager
def serving(
    bases: Bases,
    engine: Answering | None = None,
    keys: Keys | None = None,
    *,
    read_only: bool = False,
    with_rag: bool = False,
    connections: int = CONNECTIONS,
    send_seconds: float = SEND_SECONDS,
    **limits: Any,
) -> Iterator[Served]:
    """A server for the time of the block."""
    engine = engine or embedded(bases, with_rag=with_rag)
    service = Service(MODEL, engine, bases, keys or Keys(), read_only, with_rag)
    app = make_app(service, chat.routes(service, engine), **limits)
    with running(app, service, connections=connections, send_seconds=send_seconds) as served:
        yield served


@contextmanager
def running(app: FastAPI, service: Service, **options: Any) -> Iterator[Served]:
    """A server of this application for the time of the block."""
    is_ready = threading.Event()
    uvicorn = server(app, service, ready=is_ready.set, **options)
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=uvicorn.run, args=([listening],), daemon=True)
        thread.start()
        assert is_ready.wait(120)
        try:
            with httpx.Client(base_url=url_of(listening), timeout=300) as client:
                yield Served(url_of(listening), service, client)
        finally:
            uvicorn.should_exit = True
            thread.join(120)
            assert not thread.is_alive()


@contextmanager
def meanwhile(change: Callable[[int], None]) -> Iterator[None]:
    """`change(1)`, `change(2)`, ... in a thread for the time of the block; what it raises is raised at the end."""
    stopped, failed = threading.Event(), list[BaseException]()

    def over_and_over() -> None:
        try:
            for number in itertools.count(1):
                if stopped.is_set():
                    return
                change(number)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=over_and_over)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    if failed:
        raise failed[0]
