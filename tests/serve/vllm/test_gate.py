"""What stands in front of vLLM, with something that answers like vLLM behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from copy import copy
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from kblam.adapter import AdapterConfig
from kblam.errors import GenerationError
from kblam.models import chat_template
from kblam.serve.failures import QueueFullError
from kblam.serve.vllm.prompts import Prompts
from kblam.serve.vllm.watch import WATCH
from tests.generation.asking import EMBEDDING_DIM, byte_bpe
from tests.serve.contract import CHAT, chunks
from tests.serve.vllm.standing_in import EVIDENCE, PROMPT, Served


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


def test_more_requests_than_may_wait_are_429() -> None:
    served = Served(most=0)
    response = served.ask()
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")


def test_an_engine_that_has_died_is_told_by_health() -> None:
    served = Served()
    assert served.send("/health", None, "GET").json()["status"] == "ok"
    served.workers.errored = True
    response = served.send("/health", None, "GET")
    assert (response.status_code, response.json()["status"]) == (503, "dead")


def test_a_tenant_s_requests_take_no_place_of_another_s() -> None:
    engine = Served(most=6).engine  # 4 of them are answered
    with ExitStack() as stack:
        for tenant in ("acme", "globex"):
            for _ in range(6):
                stack.enter_context(engine.taken(tenant))
            with pytest.raises(QueueFullError):
                stack.enter_context(engine.taken(tenant))
        assert engine.waiting() == 8
        # All together have no more than these, and who has none one more.
        stack.enter_context(engine.taken("third"))
        with pytest.raises(QueueFullError):
            stack.enter_context(engine.taken("third"))
        assert engine.waiting() == 9
    assert engine.waiting() == 0


def test_a_request_takes_a_place_of_its_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    served, tenants = Served(), list[str | None]()
    taken = served.engine.taken
    monkeypatch.setattr(served.service, "tenant_of", lambda _: "acme")
    monkeypatch.setattr(served.engine, "taken", lambda tenant: (tenants.append(tenant), taken(tenant))[1])
    assert served.ask(None).status_code == 200
    assert tenants == ["acme"]


def test_the_chat_template_is_rendered_before_the_first_question() -> None:
    tokenizer = copy(byte_bpe())
    tokenizer.chat_template = "{{ messages[0].content }} made ready"
    for prompt in (PROMPT, None):
        assert not chat_template.is_ready(tokenizer, ["user"])
        config = AdapterConfig(EMBEDDING_DIM, 8, 2, 2, 4, prompt=prompt)
        prompts = Prompts(tokenizer, config, "other", has_chat_template=True)
        prompts.make_ready()
    assert chat_template.is_ready(tokenizer, ["user"])
    assert prompts.question("Who?") == ("Who? made ready", False)
    tokenizer.chat_template = "{{ raise_exception('no user may speak') }}"
    prompts.make_ready()
    with pytest.raises(GenerationError, match="no user may speak"):
        prompts.question("Who?")


@pytest.mark.parametrize("param", ["input_tokens", "input_text"])
def test_a_prompt_that_is_too_long_for_vllm_has_the_code_that_clients_look_for(param: str) -> None:
    served = Served()
    error = {"message": "This model's maximum context length is 192 tokens.", "param": param, "code": 400}
    served.behind.answers = lambda _: JSONResponse({"error": error}, 400)
    response = served.ask()
    expected = {"message": error["message"], "type": "invalid_request_error", "param": None}
    assert (response.status_code, response.json()["error"]) == (400, {**expected, "code": "context_length_exceeded"})


def test_a_stream_that_fails_or_is_left_in_the_middle_is_counted_so() -> None:
    async def pieces(end: str) -> AsyncIterator[str]:
        yield 'data: {"model": "tiny", "choices": []}\n\n'
        yield end

    async def endless() -> AsyncIterator[str]:
        while True:
            yield 'data: {"model": "tiny", "choices": []}\n\n'
            await asyncio.sleep(0.01)

    served = Served()
    failed = 'data: {"error": {"message": "x", "code": 500}}\n\n'
    for end, status in (("data: [DONE]\n\n", 200), (failed, 500)):
        served.behind.answers = lambda _, end=end: StreamingResponse(pieces(end), media_type="text/event-stream")
        assert served.ask(stream=True).status_code == 200
        assert count_of(served, status) == 1
    served.behind.answers = lambda _: StreamingResponse(endless(), media_type="text/event-stream")
    served.leave({"model": "tiny@facts", "messages": [{"role": "user", "content": "Who?"}], "stream": True})
    assert [count_of(served, status) for status in (200, 499, 500)] == [1, 1, 1]


def count_of(served: Served, status: int) -> float:
    """How many requests to the base "facts" have ended so."""
    labels = {"endpoint": CHAT, "knowledge_base": "facts", "status": str(status)}
    return served.service.metrics.registry.get_sample_value("kblam_requests_total", labels) or 0
