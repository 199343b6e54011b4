"""Chat completions: OpenAI's form, answers as `Session` gives them, and what is not done is refused by name."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion

from kblam.errors import GenerationError, GenerationFailedError, RenderingError
from kblam.generation import Answer, Session
from kblam.generation.speaking import Speaker
from kblam.serve.bases import Bases
from tests.generation.asking import FACTS
from tests.serve.conftest import Counting
from tests.serve.contract import chunks
from tests.serve.served import ANSWER, MODEL, QUESTION, Served, base_of, embedded, serving


def test_an_answer_says_what_was_copied(server: Served) -> None:
    body = server.ask().json()
    assert body["choices"][0]["message"] == {"role": "assistant", "content": ANSWER}
    (value,) = [one for one in body["kblam"]["copied"] if one["field"] == "value"]
    assert ANSWER[value["start"] : value["end"]] == "Euro"
    assert body["usage"]["completion_tokens"] > 3


def test_a_question_that_nothing_answers_is_refused(server: Served) -> None:
    said = server.ask("who are you").json()["kblam"]
    assert said["refused"]
    assert said["known"] is False


def test_without_a_base_a_conversation_is_read_whole(server: Served) -> None:
    turns = [("system", "be kind"), ("user", "hello"), ("assistant", "hello"), ("user", "what is the budget")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    sent = {"model": MODEL, "messages": messages, "max_completion_tokens": 4}
    long = server.client.post("/v1/chat/completions", json=sent).json()
    short = server.client.post("/v1/chat/completions", json={**sent, "messages": messages[-1:]}).json()
    assert long["usage"]["prompt_tokens"] > short["usage"]["prompt_tokens"] + 5


def test_a_stop_string_ends_an_answer_and_is_not_said(server: Served) -> None:
    for more in ({"stop": "France"}, {"stop": ["nothing", "Fra"]}):
        body = server.ask(**more).json()
        assert body["choices"][0]["message"]["content"] == "The currency of"
        assert body["choices"][0]["finish_reason"] == "stop"
        parts = chunks(server.ask(stream=True, **more).text)
        assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == "The currency of"


def test_several_answers_are_drawn_with_seeds_of_their_own(server: Served) -> None:
    more = {"base": None, "n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 8}
    first, again, other = (server.ask(**more | {"seed": seed}).json() for seed in (7, 7, 99))
    texts = [choice["message"]["content"] for choice in first["choices"]]
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice["message"]["content"] for choice in again["choices"]]
    assert texts != [choice["message"]["content"] for choice in other["choices"]]
    parts = chunks(server.ask(stream=True, **more).text)
    said = ["", "", ""]
    for part in parts:
        said[part["choices"][0]["index"]] += part["choices"][0]["delta"].get("content", "")
    assert said == texts


def test_a_top_p_that_keeps_one_token_is_greedy(server: Served) -> None:
    greedy = server.ask(base=None, max_tokens=8).json()["choices"][0]["message"]
    assert server.ask(base=None, max_tokens=8, top_p=1e-6).json()["choices"][0]["message"] == greedy
    assert server.ask(base=None, max_tokens=8, temperature=0).json()["choices"][0]["message"] == greedy


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"vllm_xargs": {"other": 1}}, "other"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"n": 2}, "temperature"),
        ({"n": 1000}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": 1e-9}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens is 3 and max_completion_tokens 4"),
        ({"max_tokens": 100_000}, "room"),
        ({"max_tokens": "3"}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"seed": -1}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "include_obfuscation"),
        ({"model": ["a"]}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]}, "stands alone"),
    ],
    ids=str,
)
def test_what_is_not_done_is_refused_by_name(server: Served, more: dict[str, Any], word: str) -> None:
    response = server.ask(**more)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error"), error
    assert word in error["message"]


def test_what_clients_send_without_meaning_it_is_taken(server: Served) -> None:
    more: dict[str, Any] = {"frequency_penalty": 0.0, "presence_penalty": 0, "logprobs": False, "n": 1, "user": "me"}
    more |= {"top_p": 1, "tools": [], "tool_choice": "none", "logit_bias": {}}
    assert server.ask(**more, response_format={"type": "text"}).json()["choices"][0]["message"]["content"] == ANSWER


@pytest.mark.parametrize(
    "more",
    [{"stream": None}, {"n": None}, {"stream": None, "n": None, "stop": None}, {"tools": None, "functions": None}],
    ids=str,
)
def test_null_is_the_default(server: Served, more: dict[str, Any]) -> None:
    assert server.ask(**more).json()["choices"][0]["message"]["content"] == ANSWER


def test_an_answer_is_sent_back_as_openai_has_it(server: Served) -> None:
    asked = {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "hello", "name": None}]}
    answer = ChatCompletion.model_validate(server.send(asked).json()).choices[0].message.model_dump()
    assert answer["refusal"] is answer["tool_calls"] is None
    for earlier in (answer, {**answer, "annotations": [], "tool_calls": []}):
        body = {**asked, "messages": [*asked["messages"], earlier, {"role": "user", "content": "and?"}]}
        assert server.send(body).status_code == 200
    calls = {**answer, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]}
    refused = server.send({**asked, "messages": [*asked["messages"], calls, *asked["messages"]]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages.1.tool_calls")


def test_only_the_last_message_must_say_something(server: Served) -> None:
    turns = [("system", ""), ("user", "hello"), ("assistant", ""), ("user", "and?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    asked = {"model": MODEL, "max_tokens": 3}
    assert server.send({**asked, "messages": messages}).status_code == 200
    for place, text, word in ((3, "", "empty"), (0, "\ud800", "a message holds half a character")):
        given = [*messages[:place], {**messages[place], "content": text}, *messages[place + 1 :]]
        refused = server.send({**asked, "messages": given})
        assert refused.status_code == 400
        assert word in refused.json()["error"]["message"]


@pytest.mark.parametrize("options", [None, {"include_usage": None}, {"include_obfuscation": False}], ids=str)
def test_null_is_the_default_of_a_stream_too(server: Served, options: dict[str, Any] | None) -> None:
    parts = chunks(server.ask(stream=True, n=None, stream_options=options).text)
    assert "".join(part["choices"][0]["delta"].get("content", "") for part in parts) == ANSWER
    assert not any("usage" in part for part in parts)


@pytest.mark.parametrize("base", [None, "facts"])
def test_a_stream_ends_with_the_text_where_its_pieces_differ(
    server: Served, base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "text" not in chunks(server.ask(base=base, stream=True, max_tokens=3).text)[-1].get("kblam", {})
    finish = Speaker.finish
    monkeypatch.setattr(Speaker, "finish", lambda self, answer: replace(finish(self, answer), text="rock , paper"))
    assert chunks(server.ask(base=base, stream=True, max_tokens=3).text)[-1]["kblam"]["text"] == "rock , paper"


@pytest.mark.parametrize("base", [None, "facts"])
def test_an_answer_of_no_stated_length_has_what_room_is_left(server: Served, base: str | None) -> None:
    least = server.ask(base=base, max_tokens=1).json()["usage"]["prompt_tokens"]
    longer = f"{QUESTION} {'?' * (508 - least)}"  # each of them is a token
    usage = server.ask(longer, base).json()["usage"]
    assert 500 < usage["prompt_tokens"] < 512
    assert usage["total_tokens"] <= 512
    for question, more, end in (
        (longer, {"max_tokens": 20}, "shorten the messages or lower max_tokens"),
        (longer + "?" * 20, {}, "shorten the messages"),
    ):
        refused = server.ask(question, base, **more)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
        assert "the model has room for 512" in error["message"]
        assert error["message"].endswith(end)


def test_other_endpoints_of_openai_are_404_by_name(server: Served) -> None:
    response = server.client.post("/v1/completions", json={"model": MODEL, "prompt": "x"})
    assert response.status_code == 404
    assert "/v1/completions" in response.json()["error"]["message"]


def until(is_so: Any) -> None:
    """Waits, for five seconds at most."""
    end = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_stops_its_answer(stream: bool) -> None:
    engine = Counting()
    with serving(Bases([]), engine) as served:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": stream}
        if stream:
            with served.client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()  # kept: an iterator that goes closes the connection
                next(lines)
        else:
            with pytest.raises(Exception, match="timed out"):
                served.client.post("/v1/chat/completions", json=body, timeout=0.3)
        until(lambda: engine.closed == engine.began == 1)


@contextmanager
def in_answer() -> Iterator[tuple[Served, httpx.Response]]:
    """A server without a queue, in the middle of an answer; and that answer, which halts."""
    bases = Bases([base_of()])
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 450}
    with (
        serving(bases, embedded(bases, queue=0)) as served,
        served.client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.iter_lines()  # kept: an iterator that goes closes the connection
        next(lines)
        yield served, response


@pytest.mark.usefixtures("held")
def test_a_client_that_leaves_frees_the_embedded_engine() -> None:
    with in_answer() as (served, response):
        assert served.ask(base=None, max_tokens=1).status_code == 429
        response.close()
        until(lambda: served.ask(base=None, max_tokens=1).status_code == 200)


@pytest.mark.usefixtures("held")
def test_a_full_queue_is_429_and_says_when_to_come_again() -> None:
    with in_answer() as (served, _):
        full = served.ask()
    assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
    assert int(full.headers["Retry-After"]) > 0


def test_an_engine_that_fails_in_the_middle_ends_the_stream_with_an_error() -> None:
    with serving(Bases([]), Counting(RuntimeError("secret /path"), after=2)) as served:
        text = served.ask(base=None, stream=True).text
        assert "0 " in text
        assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "server_failed"
        assert "secret" not in text
        failed = served.ask(base=None)
        assert (failed.status_code, failed.json()["error"]["type"]) == (500, "server_error")
        assert "secret" not in failed.text
        assert served.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (GenerationError("not in this order"), 400, "cannot_answer"),
        (GenerationFailedError("another model's tokenizer at /srv/secret"), 500, "server_failed"),
        (RenderingError("the process cannot be started (/srv/secret: Cannot allocate memory)"), 503, "template_failed"),
    ],
    ids=["the question's", "the server's", "the machine's"],
)
def test_who_is_at_fault_is_told_from_the_error(
    error: Exception, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(Bases([base_of()]), Counting(error)) as served:
        response = served.ask()
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert ("Retry-After" in response.headers) == (status == 503)
    assert "secret" not in response.text
    assert ("secret" in caplog.text) == (status >= 500)


def test_an_answer_that_would_end_the_engines_thread_is_500_and_the_next_one_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bases = Bases([base_of()])
    engine = embedded(bases)
    answered, failures = engine._answered, [SystemExit(1)]

    def ends_once(job: Any) -> Any:
        if failures:
            raise failures.pop()
        return answered(job)

    monkeypatch.setattr(engine, "_answered", ends_once)
    with serving(bases, engine) as served:
        served.client.timeout = httpx.Timeout(20)
        assert (failed := served.ask()).status_code == 500
        assert failed.json()["error"]["code"] == "server_failed"
        assert served.ask().json()["choices"][0]["message"]["content"] == ANSWER


def test_an_answer_is_of_the_revision_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may change the file after the engine has begun."""
    base, ask = base_of(facts=FACTS[1:]), Session.ask

    def once_it_has_changed(self: Session, question: str, **options: Any) -> Answer:
        base.knowledge_base.add(FACTS[0])
        return ask(self, question, **options)

    monkeypatch.setattr(Session, "ask", once_it_has_changed)
    with serving(Bases([base])) as served:
        first, second = (served.ask(content=QUESTION).json() for _ in range(2))
    assert (first["kblam"]["revision"], second["kblam"]["revision"]) == (1, 2)
    assert FACTS[0].value not in first["choices"][0]["message"]["content"]
    assert second["choices"][0]["message"]["content"] == ANSWER
