"""What stands in front of vLLM, with something that answers like vLLM behind it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from kblam import KnowledgeBase, Triple
from kblam.adapter import AdapterConfig
from kblam.serve.app import make_app
from kblam.serve.bases import Base, Bases, Place
from kblam.serve.failures import NoRoomError
from kblam.serve.keys import Keys
from kblam.serve.service import Service
from kblam.serve.vllm import engine as engine_module
from kblam.serve.vllm import gate
from kblam.serve.vllm.asking import Asking
from kblam.serve.vllm.engine import VllmEngine, span_of
from kblam.serve.vllm.prompts import Prompts
from kblam.serve.vllm.watch import WATCH
from kblam.vllm.past import Past
from tests.generation.asking import EMBEDDING_DIM, FACTS, QuestionEncoder, byte_bpe
from tests.serve.contract import CHAT, TRIPLES, chunks

PROMPT = "<q>{question}</q>"
EVIDENCE = {"name": "France", "property": "currency", "value": "Euro", "mass": 0.123456789}


class Workers:
    """vLLM's client, as far as the engine uses it.

    Args:
        bases: by the engine's name.
    """

    def __init__(self, bases: dict[str, Base]) -> None:
        self.bases, self.errored, self.trouble, self.calls = bases, False, 0, []
        self.served = {name: self._now(name) for name in bases}

    def _now(self, name: str) -> dict[str, Any]:
        base = self.bases[name].knowledge_base
        return {"revision": base.revision, "triples": len(base), "bytes": 100}

    async def collective_rpc(self, method: str, args: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        self.calls.append(method)
        if method == "kblam_update":
            if self.trouble:
                self.trouble -= 1
                raise Exception("Call to collective_rpc method failed: no room for 64 rows of knowledge")
            self.served[args[0]] = self._now(args[0])
        return [dict(self.served), {}]

    def shutdown(self, timeout: float) -> None:
        self.errored = True


class Behind:
    """An application that answers like vLLM's.

    Attributes:
        got: the newest request's headers and body.
        answers: makes the response, of the body.
    """

    def __init__(self) -> None:
        self.got: tuple[dict[str, str], dict[str, Any]] = {}, {}
        self.answers: Callable[[dict[str, Any]], Response] = self.said
        self.app = Starlette(routes=[Route(path, self._take, methods=["POST"]) for path in (CHAT, "/v1/completions")])

    async def _take(self, request: Request) -> Response:
        self.got = dict(request.headers), await request.json()
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

    def ask(self, base: str | None = "facts", **more: Any) -> httpx.Response:
        model = "tiny" if base is None else f"tiny@{base}"
        return self.send(CHAT, {"model": model, "messages": [{"role": "user", "content": "Who?"}], **more})


def test_a_question_with_a_base_goes_on_as_its_adapter_is_asked_it() -> None:
    served = Served(question_head=True)
    assert served.ask("hr", logprobs=True, vllm_xargs={"kblam_evidence": False, "mine": 1}).status_code == 200
    headers, body = served.behind.got
    assert body["model"] == "tiny"
    assert body["messages"] == [{"role": "user", "content": "<q>Who?</q>"}]
    assert body["chat_template"] == "{{ messages[0]['content'] }}"
    assert body["add_special_tokens"] is True
    assert body["vllm_xargs"] == {"kblam_evidence": False, "mine": 1, "kblam_kb": "hr", "kblam_question": "Who?"}
    assert (body["temperature"], body["max_completion_tokens"], body["logprobs"]) == (0, 100, True)
    assert "authorization" not in headers


def test_without_a_question_head_the_question_does_not_go_on() -> None:
    served = Served()
    served.ask(temperature=0.5, max_tokens=7)
    body = served.behind.got[1]
    assert body["vllm_xargs"] == {"kblam_kb": "facts"}
    assert (body["temperature"], body["max_tokens"]) == (0.5, 7)
    assert "max_completion_tokens" not in body


def test_a_prompt_of_the_client_goes_on_as_it_is() -> None:
    served = Served(question_head=True)
    sent = {"model": "tiny@facts", "prompt": "a b", "vllm_xargs": {"kblam_question": "Who?"}}
    assert served.send("/v1/completions", sent).status_code == 200
    body = served.behind.got[1]
    assert (body["prompt"], body["model"]) == ("a b", "tiny")
    assert body["vllm_xargs"] == {"kblam_kb": "facts", "kblam_question": "Who?"}
    several = served.send("/v1/completions", {"model": "tiny@facts", "prompt": ["a", "b"]})
    assert (several.status_code, several.json()["error"]["param"]) == (400, "prompt")


def test_what_the_engine_says_of_its_knowledge_is_told_in_one_form() -> None:
    served = Served()
    body = served.ask().json()
    assert body["model"] == "tiny@facts"
    assert body["kblam"] == {
        "knowledge_base": "facts",
        "revision": 7,
        "refused": False,
        "known": None,
        "confidence": None,
        "evidence": [{**EVIDENCE, "mass": 0.123457, "changed": False}],
        "copied": [],
    }
    assert "kv_transfer_params" not in body
    parts = chunks(served.ask(stream=True).text.replace(": keep-alive\n\n", ""))
    assert [part["model"] for part in parts] == ["tiny@facts"] * 3
    assert [part.get("kblam") for part in parts] == [None, None, body["kblam"]]
    assert "kblam" not in served.ask(None).json()


def test_of_several_answers_each_says_what_it_rests_on() -> None:
    served = Served()
    choices: list[dict[str, Any]] = [
        {"index": at, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        for at, text in enumerate(("It is.", "It is cut"))
    ]
    choices[1]["stop_reason"] = "!"

    def see() -> None:
        watch = WATCH.get()
        assert watch is not None
        for at, one in enumerate(choices):
            answer = watch.answers[at]
            answer.text = one["message"]["content"]
            copied = [{"start": 0, "end": 5, "field": "name"}, {"start": 6, "end": 20}, {"start": 9, "end": 10}]
            answer.knowledge = {"revision": 7 + at, "text": "It is, to the letter!", "evidence": [], "copied": copied}

    def several(body: dict[str, Any]) -> Response:
        see()
        assert body["n"] == 2
        return JSONResponse({"model": "tiny", "choices": choices, "kv_transfer_params": {"kblam": {}}})

    async def pieces() -> AsyncIterator[str]:
        see()
        for one in reversed(choices):
            delta = {**one, "delta": one["message"]}
            yield f"data: {json.dumps({'model': 'tiny', 'choices': [delta]})}\n\n"
        yield "data: [DONE]\n\n"

    served.behind.answers = several
    body = served.ask(n=2, temperature=1).json()
    assert "kblam" not in body
    assert "kv_transfer_params" not in body
    assert [choice["kblam"]["revision"] for choice in body["choices"]] == [7, 8]
    # To the letter where no stop string has cut it.
    assert [one["message"]["content"] for one in body["choices"]] == ["It is, to the letter!", "It is cut"]
    cut = [{"start": 0, "end": 5, "field": "name"}, {"start": 6, "end": 9}]
    assert [len(body["choices"][0]["kblam"]["copied"]), body["choices"][1]["kblam"]["copied"]] == [3, cut]
    served.behind.answers = lambda _: StreamingResponse(pieces(), media_type="text/event-stream")
    parts = chunks(served.ask(n=2, temperature=1, stream=True).text)
    assert [part["choices"][0]["kblam"]["revision"] for part in parts] == [8, 7]
    assert [part["choices"][0]["kblam"].get("text") for part in parts] == [None, "It is, to the letter!"]
    assert parts[0]["choices"][0]["kblam"]["copied"] == cut
    assert not [part for part in parts if "kblam" in part]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"n": 17, "temperature": 1}, "n"),
        ({"n": "2", "temperature": 1}, "n"),
        ({"n": 1, "best_of": 3}, "best_of"),
    ],
    ids=str,
)
def test_several_answers_that_cannot_be_are_refused_with_a_base_alone(more: dict[str, Any], param: str) -> None:
    served = Served()
    response = served.ask(**more)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert served.ask(None, **more).status_code == 200


def test_what_was_decided_is_told_to_the_letter() -> None:
    served = Served()
    said = {"revision": 7, "refused": False, "known": True, "confidence": 0.9, "text": "It is Łucja.", "evidence": []}
    as_it_was = served.behind.said

    def decided(body: dict[str, Any]) -> Response:
        response = as_it_was(body)
        watch = WATCH.get()
        assert watch is not None
        watch.answers[0].knowledge = said
        return response

    served.behind.answers = decided
    body = served.ask().json()
    assert body["choices"][0]["message"]["content"] == "It is Łucja."
    assert (body["kblam"]["known"], body["kblam"]["confidence"]) == (True, 0.9)
    assert "text" not in body["kblam"]
    assert chunks(served.ask(stream=True).text.replace(": keep-alive\n\n", ""))[-1]["kblam"]["text"] == "It is Łucja."
    said["text"] = "It is."  # as it was sent
    assert "text" not in chunks(served.ask(stream=True).text.replace(": keep-alive\n\n", ""))[-1]["kblam"]


def test_what_vllm_refuses_is_told_as_all_errors_are() -> None:
    served = Served()
    error = {"message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}
    served.behind.answers = lambda _: JSONResponse({"error": error}, 400)
    response = served.ask()
    expected = {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "bad_parameter"}
    assert (response.status_code, response.json()["error"]) == (400, expected)

    async def stream() -> AsyncIterator[str]:
        yield f"data: {json.dumps({'error': error})}\n\n"
        yield "data: [DONE]\n\n"

    served.behind.answers = lambda _: StreamingResponse(stream(), media_type="text/event-stream")
    response = served.ask(stream=True)
    assert (response.status_code, response.json()["error"]) == (400, expected)


def test_what_only_the_server_can_mend_is_not_told() -> None:
    served = Served()
    served.behind.answers = lambda _: JSONResponse({"error": {"message": "secret /path", "code": 500}}, 500)
    response = served.ask()
    assert (response.status_code, response.json()["error"]["code"]) == (500, "server_failed")
    assert "secret" not in response.text

    async def stream() -> AsyncIterator[str]:
        yield f"data: {json.dumps({'model': 'tiny', 'choices': []})}\n\n"
        yield f"data: {json.dumps({'error': {'message': 'secret /path', 'code': 500}})}\n\n"

    served.behind.answers = lambda _: StreamingResponse(stream(), media_type="text/event-stream")
    text = served.ask(stream=True).text
    assert "server_failed" in text
    assert "secret" not in text


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("of_request", [True, False])
def test_what_the_scheduler_refuses_is_told_if_another_request_could_be_answered(
    of_request: bool, is_stream: bool
) -> None:
    """vLLM calls both a failure of its own."""
    served = Served()
    failed = {"error": {"message": "Internal server error", "code": 500}}
    one = SimpleNamespace(index=0, text="", token_ids=[], finish_reason="error")
    knowledge = {"error": "a part of the question takes 900 tokens", "of_request": of_request}
    output = SimpleNamespace(
        outputs=[one], kv_transfer_params={"kblam": knowledge}, prompt_token_ids=[1], finished=True
    )

    async def stream() -> AsyncIterator[str]:
        yield f"data: {json.dumps(failed)}\n\n"
        yield "data: [DONE]\n\n"

    def refused(_: object) -> Response:
        watch = WATCH.get()
        assert watch is not None
        watch.see(output)
        return StreamingResponse(stream(), media_type="text/event-stream") if is_stream else JSONResponse(failed, 500)

    served.behind.answers = refused
    response = served.ask(stream=is_stream)
    expected = (400, "cannot_answer") if of_request else (500, "server_failed")
    assert (response.status_code, response.json()["error"]["code"]) == expected
    assert ("900 tokens" in response.text) == of_request


def test_what_only_servers_tell_each_other_is_not_taken_by_another_name() -> None:
    served = Served()
    for base in ("facts", None):
        for field in ("kv_transfer_params", "ec_transfer_params"):
            response = served.ask(base, vllm_xargs={field: "x"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, f"vllm_xargs.{field}")


@pytest.mark.parametrize("more", [{"a": 2**64}, {"a": [{"b": [-(2**63) - 1]}]}])
def test_a_whole_number_that_no_other_process_can_be_told_is_400(more: dict[str, Any]) -> None:
    served = Served()
    response = served.ask(None, **more)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_parameter")
    assert "64 bits" in response.json()["error"]["message"]
    assert served.ask(None, a=2**64 - 1, b=-(2**63)).status_code == 200


def test_words_are_kept_before_they_are_changed() -> None:
    served = Served()
    base = next(iter(served.bases)).knowledge_base
    fact = FACTS[0]
    path = {"name": fact.name, "property": fact.property}
    assert served.send(TRIPLES, {**path, "value": "Franc"}, "PUT").status_code == 200
    assert served.send(TRIPLES, [{**path, "value": "Mark"}]).status_code == 200
    query = str(httpx.QueryParams(path))
    assert served.send(f"{TRIPLES}?{query}", None, "DELETE").status_code == 200
    past = Past(served.folder)
    assert [past.words(base, [1], at)[1].value for at in (1, 2, 3)] == [fact.value, "Franc", "Mark"]


def test_more_requests_than_may_wait_are_429() -> None:
    served = Served(most=0)
    response = served.ask()
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")


def test_a_change_is_served_when_it_is_answered() -> None:
    served = Served()
    done = served.send(TRIPLES, {"name": "France", "property": "currency", "value": "Franc"}, "PUT").json()
    assert served.workers.served["facts"]["revision"] == done["revision"] == 2
    assert served.workers.served["hr"]["revision"] == 1


def test_room_that_answers_in_progress_keep_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PAUSE", 0.01)
    served = Served()
    served.workers.trouble = 3
    assert served.send(TRIPLES, {"name": "a", "property": "b", "value": "c"}, "PUT").status_code == 200
    assert served.workers.served["facts"]["revision"] == 2


def test_a_change_that_cannot_be_served_says_so_and_the_next_request_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(engine_module, "_AGAIN", 0.0)
    served = Served()
    served.workers.trouble = 2
    response = served.send(TRIPLES, {"name": "a", "property": "b", "value": "c"}, "PUT")
    error = response.json()["error"]
    assert (response.status_code, error["code"], response.headers["Retry-After"]) == (503, "not_served_yet", "1")
    assert "as revision 2" in error["message"]
    assert "answers come from revision 1, since no room for 64 rows" in error["message"]
    assert served.ask().status_code == 200  # from what is served
    assert served.workers.served["facts"]["revision"] == 1
    assert served.ask().status_code == 200
    assert served.workers.served["facts"]["revision"] == 2


def test_what_another_program_has_changed_is_seen_by_the_next_request() -> None:
    served = Served()
    base = next(iter(served.bases)).knowledge_base
    base.add(Triple("a", "b", "c"))
    served.ask("hr")
    assert served.workers.served["facts"]["revision"] == 1
    served.ask("facts")
    assert served.workers.served["facts"]["revision"] == 2


def test_a_base_larger_than_the_pool_is_refused_before_anything_is_written() -> None:
    served = Served()
    many = [{"name": f"n{number}", "property": "p", "value": "v"} for number in range(1000)]
    response = served.send(TRIPLES, many)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")
    assert "--capacity" in response.json()["error"]["message"]
    assert served.workers.served["facts"]["triples"] == len(next(iter(served.bases)).knowledge_base) == 5
    again = [{"name": fact.name, "property": fact.property, "value": "v"} for fact in FACTS] * 1
    assert served.send(TRIPLES, again).status_code == 200


def test_room_is_counted_with_the_copy_that_a_change_makes() -> None:
    served = Served(names=("facts",))
    base = next(iter(served.bases))
    most = 1000 - 2 * span_of(5)
    fits = [Triple(f"n{number}", "p", "v") for number in range(most * 8 // 9 - 5)]
    served.engine.check_room(base, fits)
    with pytest.raises(NoRoomError):
        served.engine.check_room(base, [*fits, *(Triple(f"m{number}", "p", "v") for number in range(20))])


def test_an_engine_that_has_died_is_told_by_health() -> None:
    served = Served()
    assert served.send("/health", None, "GET").json()["status"] == "ok"
    served.workers.errored = True
    response = served.send("/health", None, "GET")
    assert (response.status_code, response.json()["status"]) == (503, "dead")
