"""Tenants take turns: what one has the server do holds up another's by one job, and takes no place of theirs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from kblam import KnowledgeBase
from kblam.errors import GenerationError
from kblam.generation import Answer
from kblam.models.chat_template import make_ready
from kblam.serve import embedded as engines
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.engine import Asking, Finished
from kblam.serve.keys import Keys
from tests.generation.asking import EMBEDDING_DIM, QuestionEncoder, byte_bpe
from tests.serve.conftest import Counting
from tests.serve.contract import ACME, GLOBEX, TRIPLES, bearer
from tests.serve.served import ANSWER, MODEL, Served, base_of, embedded, serving

KEYS = Keys([("acme", ACME), ("globex", GLOBEX)])


class Held(QuestionEncoder):
    """One that encodes, after its first text, when it may."""

    def __init__(self) -> None:
        super().__init__(EMBEDDING_DIM)
        self.may_go_on = threading.Event()

    def encode(self, texts: Sequence[str], *, progress: Any = None) -> np.ndarray:
        vectors = super().encode(texts, progress=progress)
        assert self.may_go_on.wait(60)
        return vectors


def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextmanager
def two_tenants(encoder: Held) -> Iterator[tuple[Served, Callable[[str, str, int], httpx.Response]]]:
    """A server, and what sends it a change of so many triples with a key."""
    bases = Bases(
        Base(Place(tenant, "facts", None), KnowledgeBase.create(None, encoder)) for tenant in ("acme", "globex")
    )

    with serving(bases, Counting(), KEYS) as served:

        def change(key: str, called: str, count: int) -> httpx.Response:
            triples = [{"name": f"{called} {at}", "property": "kind", "value": f"{called} {at}"} for at in range(count)]
            return served.client.post(TRIPLES, json=triples, headers=bearer(key))

        yield served, change


def test_a_change_waits_for_one_of_another_tenant_and_not_for_all() -> None:
    encoder = Held()
    with ThreadPoolExecutor(32) as pool, two_tenants(encoder) as (served, change):
        sent = [pool.submit(change, ACME, "first", 1)]
        until(lambda: len(encoder.calls) > 0)
        for at in range(16):
            sent.append(pool.submit(change, ACME, f"a{at:02}", 1))
            until(lambda at=at: len(served.service.updates) == at + 1)  # type: ignore[misc]
        refused = change(ACME, "one too many", 1)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        sent.append(pool.submit(change, GLOBEX, "other", 1))
        until(lambda: len(served.service.updates) == 17)
        encoder.may_go_on.set()
        assert [one.result(60).status_code for one in sent] == [200] * 18
    names = list(dict.fromkeys(text.split()[-2] for text in encoder.calls))
    assert names == ["first", "other", *[f"a{at:02}" for at in range(16)]]


def test_a_long_change_lets_another_tenant_s_go_first() -> None:
    encoder = Held()
    with ThreadPoolExecutor() as pool, two_tenants(encoder) as (served, change):
        long = pool.submit(change, ACME, "long", 200)
        until(lambda: len(encoder.calls) > 0)
        short = pool.submit(change, GLOBEX, "short", 1)
        until(lambda: len(served.service.updates) == 1)
        encoder.may_go_on.set()
        assert short.result(60).json()["added"] == 1
        assert long.result(60).json().items() >= {"added": 200, "triples": 200, "revision": 1}.items()
    texts = encoder.calls
    assert len(texts) == len(set(texts)) == 402  # nothing is encoded twice
    assert texts.index("short 0") < 150


def test_a_question_waits_for_one_of_another_tenant_and_not_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    make_ready(byte_bpe(), ["user"])
    engine, may_go_on, order = embedded(Bases([]), queue=3), threading.Event(), list[str]()

    def answered(job: Any) -> Finished:
        order.append(job.asking.turns[0][1])
        assert may_go_on.wait(60)
        return Finished(Answer("", (), False, 1), 1, None)

    monkeypatch.setattr(engine, "_answered", answered)

    async def ask(tenant: str, text: str) -> list[str | Finished]:
        return [one async for one in engine.answer(Asking((("user", text),), tenant=tenant))]

    async def all_of_them() -> None:
        first = asyncio.ensure_future(ask("acme", "a0"))
        while not order:
            await asyncio.sleep(0.005)
        more = [asyncio.ensure_future(ask(name, text)) for name, text in (("acme", "a1"), ("acme", "a2"), ("b", "b0"))]
        while engine.waiting() < 3:
            await asyncio.sleep(0.005)
        may_go_on.set()
        await asyncio.gather(first, *more)

    asyncio.run(asyncio.wait_for(all_of_them(), 60))
    engine.close()
    assert order == ["a0", "b0", "a1", "a2"]


class Noting(Counting):
    """One that notes who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.tenants: list[str | None] = []

    async def answer(self, asking: Asking) -> AsyncGenerator[str | Finished, None]:
        self.tenants.append(asking.tenant)
        yield Finished(Answer("", (), False, 1), 1, None)


def test_the_engine_knows_who_asks() -> None:
    engine = Noting()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    with serving(Bases([]), engine, KEYS) as served:
        for key in (ACME, GLOBEX):
            served.client.post("/v1/chat/completions", json=body, headers=bearer(key))
    with serving(Bases([]), engine) as served:
        served.send(body)
    assert engine.tenants == ["acme", "globex", None]


TURNS = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]


def test_answers_go_on_while_a_chat_template_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, rendering = threading.Event(), list[Sequence[str]]()

    def slow(tokenizer: Any, roles: Sequence[str]) -> None:
        rendering.append(roles)
        assert may_go_on.wait(60)
        make_ready(tokenizer, roles)

    make_ready(byte_bpe(), ["user"])
    bases = Bases([base_of()])
    engine = embedded(bases)
    monkeypatch.setattr(engines, "make_ready", slow)
    monkeypatch.setattr(engines, "is_ready", lambda _, roles: len(roles) == 1)
    with ThreadPoolExecutor() as pool, serving(bases, engine) as served:
        body = {"model": MODEL, "messages": TURNS, "max_tokens": 2}
        new = [pool.submit(served.send, body) for _ in range(2)]
        until(lambda: engine.waiting() == 1)  # the other is rendered
        assert served.ask().json()["choices"][0]["message"]["content"] == ANSWER
        assert rendering == [["user", "assistant", "user"]]
        may_go_on.set()
        assert [one.result(60).status_code for one in new] == [200, 200]


def test_a_chat_template_that_refuses_does_so_before_the_engine_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> None:
        raise GenerationError("not in this order")

    bases = Bases([base_of()])
    engine = embedded(bases)
    monkeypatch.setattr(engines, "make_ready", refuses)
    monkeypatch.setattr(engines, "is_ready", lambda *_: False)
    with serving(bases, engine) as served:
        assert served.ask().json()["choices"][0]["message"]["content"] == ANSWER  # by the adapter's own prompt
        monkeypatch.setattr(engine._line, "_work", lambda _: None)
        refused = served.send({"model": MODEL, "messages": TURNS})
        assert (refused.status_code, refused.json()["error"]["message"]) == (400, "not in this order")
