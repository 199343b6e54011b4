"""A gate to vLLM with something behind it that answers like vLLM, asked without a socket."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kblam import KnowledgeBase
from kblam.adapter import AdapterConfig
from kblam.knowledge.rows import room_for
from kblam.serve.app import make_app
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.keys import Keys
from kblam.serve.service import Service
from kblam.serve.vllm import gate
from kblam.serve.vllm.asking import Asking
from kblam.serve.vllm.engine import VllmEngine
from kblam.serve.vllm.prompts import Prompts
from kblam.serve.vllm.watch import WATCH
from kblam.vllm.past import Past
from tests.generation.asking import EMBEDDING_DIM, FACTS, QuestionEncoder, byte_bpe
from tests.serve.contract import CHAT

PROMPT = "<q>{question}</q>"
EVIDENCE = {"name": "France", "property": "currency", "value": "Euro", "mass": 0.123456789}


class Workers:
    """vLLM's client, as far as the engine uses it.

    Args:
        bases: by the engine's name.
    """

    def __init__(self, bases: dict[str, Base]) -> None:
        self.bases, self.errored, self.trouble, self.calls = bases, False, 0, []
        self.seconds = 0.0  # until a change has failed
        self.reason = "no room for 64 rows of knowledge"
        self.served = {name: self._now(name) for name in bases}

    def _now(self, name: str) -> dict[str, Any]:
        base = self.bases[name].knowledge_base
        return {"revision": base.revision, "triples": len(base), "rows": room_for(len(base)), "bytes": 100}

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        self.calls.append(method)
        if method == "kblam_update":
            if self.trouble:
                self.trouble -= 1
                await asyncio.sleep(self.seconds)
                raise Exception(f"Call to collective_rpc method failed: {self.reason}")
            self.served[args[0]] = self._now(args[0])
        return [dict(self.served), {}]

    def shutdown(self, timeout: float) -> None:
        self.errored = True


class Behind:
    """An application that answers like vLLM's.

    Attributes:
        got: the newest request's headers and body.
        order: the bases of all requests.
        others: set when one without a base came.
        answers: makes the response, of the body.
    """

    def __init__(self) -> None:
        self.got: tuple[dict[str, str], dict[str, Any]] = {}, {}
        self.order, self.others = list[str | None](), threading.Event()
        self.answers: Callable[[dict[str, Any]], Response] = self.said
        self.app = Starlette(routes=[Route(path, self._take, methods=["POST"]) for path in (CHAT, "/v1/completions")])

    async def _take(self, request: Request) -> Response:
        self.got = dict(request.headers), await request.json()
        self.order.append(self.got[1].get("vllm_xargs", {}).get("kblam_kb"))
        if self.order[-1] is None:
            self.others.set()
        return self.answers(self.got[1])

    def said(self, body: dict[str, Any]) -> Response:
        watch = WATCH.get()
        assert watch is not None
        watch.is_whole, answer = True, watch.answers[0]
        answer.knowledge = {"knowledge_base": "x", "revision": 7, "evidence": [EVIDENCE]}
        watch.prompt_tokens, watch.answer_tokens, answer.text = 5, 2, "It is."
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It is."}}
        whole = {"id": "1", "model": "tiny", "choices": [choice], "kv_transfer_params": {"kblam": answer.knowledge}}
        return (
            JSONResponse(whole)
            if not body.get("stream")
            else StreamingResponse(self._parts(), media_type="text/event-stream")
        )

    async def _parts(self) -> AsyncIterator[str]:
        for delta, reason in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "It"}, None),
            ({"content": " is."}, "stop"),
        ):
            part = {"model": "tiny", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            event = f"data: {json.dumps(part)}\n\n"
            yield event[:9]  # a proxy may cut anywhere
            yield event[9:]
        yield ": keep-alive\n\n"
        yield "data: [DONE]\n\n"


class Served:
    """A gate with its parts, asked without a socket."""

    def __init__(self, *, question_head: bool = False, most: int = 8, names: tuple[str, ...] = ("facts", "hr")) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        encoder = QuestionEncoder(EMBEDDING_DIM)
        self.bases = Bases(Base(Place(None, name, None), KnowledgeBase.from_triples(FACTS, encoder)) for name in names)
        self.workers, self.behind = Workers({base.name: base for base in self.bases}), Behind()
        self.engine = VllmEngine(
            "0",
            self.workers,
            self.behind.app,
            self.bases,
            capacity=1000,
            most=most,
            running=4,
            refusal="I am sorry.",
            past=Past(self.folder),
        )
        head = "linear" if question_head else None
        config = AdapterConfig(EMBEDDING_DIM, 8, 2, 2, 4, prompt=PROMPT, question_head=head)
        prompts = Prompts(byte_bpe(), config, "llama", has_chat_template=False)
        self.engine.asking = Asking("tiny", self.engine.name_of, prompts, adapter=config, most_tokens=100)
        self.engine.metrics = lambda: b""  # type: ignore[method-assign] - vLLM has them
        self.service = Service("tiny", self.engine, self.bases, Keys())
        self.app = make_app(self.service, gate.routes(self.service, self.engine))
        self._loop = asyncio.new_event_loop()  # one, as a server has it
        self._loop.run_until_complete(self.engine.look())

    def send(self, path: str, body: Any, method: str = "POST") -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, json=body, headers={"Authorization": "Bearer secret"})

        return self._loop.run_until_complete(send())

    def leave(self, body: Any) -> None:
        """Sends a question to be answered by a stream, and leaves when that has begun."""

        async def leave() -> None:
            has_begun, is_sent = asyncio.Event(), False

            async def receive() -> dict[str, Any]:
                nonlocal is_sent
                if not is_sent:
                    is_sent = True
                    return {"type": "http.request", "body": json.dumps(body).encode()}
                await has_begun.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                has_begun.set()

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "headers": headers}
            scope |= {"asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "query_string": b""}
            await asyncio.wait_for(self.app(scope, receive, send), 60)

        self._loop.run_until_complete(leave())

    def ask(self, base: str | None = "facts", **more: Any) -> httpx.Response:
        return self.send(CHAT, self._asking(base) | more)

    def ask_together(self, *bases: str | None) -> list[httpx.Response]:
        """A question to each, all at once."""

        async def together() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await asyncio.gather(*(client.post(CHAT, json=self._asking(base)) for base in bases))

        return self._loop.run_until_complete(together())

    def ask_while(self, first: str | None, began: threading.Event, then: str | None) -> list[httpx.Response]:
        """A question to one base, and when that has begun one to another."""

        async def both() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                asking = asyncio.create_task(client.post(CHAT, json=self._asking(first)))
                while not began.is_set():
                    await asyncio.sleep(0.01)
                second = await client.post(CHAT, json=self._asking(then))
                return [await asking, second]

        return self._loop.run_until_complete(both())

    @staticmethod
    def _asking(base: str | None) -> dict[str, Any]:
        model = "tiny" if base is None else f"tiny@{base}"
        return {"model": model, "messages": [{"role": "user", "content": "Who?"}]}
