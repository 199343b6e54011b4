"""Answers, with their evidence, whole and in a stream."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from tests.serve.contract.common import (
    BASIS,
    chunks,
    said_in,
)
from tests.serve.served import Served

SEVERAL: dict[str, Any] = {"temperature": 1.5, "max_tokens": 12}


def assert_said(choice: dict[str, Any], alone: dict[str, Any]) -> None:
    """One of several answers is that of a request of its own."""
    (expected,) = alone["choices"]
    assert choice["message"]["content"] == expected["message"]["content"]
    assert choice["finish_reason"] == expected["finish_reason"]
    found, basis = dict(choice["kblam"]), dict(alone["kblam"])
    masses = [{one["value"]: one["mass"] for one in each.pop("evidence")} for each in (found, basis)]
    assert masses[0] == pytest.approx(masses[1], abs=1e-4)  # the batch is another
    assert found.pop("confidence") == pytest.approx(basis.pop("confidence"), abs=1e-4)
    assert found == basis


def test_an_answer_has_its_evidence(server: Served) -> None:
    body = server.ask().json()
    assert body["choices"][0]["finish_reason"] == "stop"
    assert server.fact.value in body["choices"][0]["message"]["content"]
    assert (body["object"], body["model"]) == ("chat.completion", f"{server.model}@facts")
    said = body["kblam"]
    assert said.keys() == BASIS
    assert (said["knowledge_base"], said["refused"]) == ("facts", False)
    assert said["revision"] == server.client.get("/v1/knowledge/facts").json()["revision"]
    best = said["evidence"][0]
    assert best.keys() >= {"name", "property", "value", "mass", "changed", "sources"}
    assert best.items() >= server.fact.to_record().items()
    assert 0.6 < best["mass"] <= 1
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert "kv_transfer_params" not in body


def test_a_stream_says_the_same_and_ends_with_the_evidence(server: Served) -> None:
    whole = server.ask().json()
    response = server.ask(stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = chunks(response.text)
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert said_in(parts) == whole["choices"][0]["message"]["content"]
    assert {part["model"] for part in parts} == {f"{server.model}@facts"}
    assert parts[-2]["choices"][0]["finish_reason"] == "stop"
    assert parts[-2]["kblam"] == whole["kblam"]
    usage = parts[-1]["usage"]
    assert parts[-1]["choices"] == []
    assert usage.items() <= whole["usage"].items()
    assert all("kblam" not in part for part in [*parts[:-2], parts[-1]])


def test_the_base_is_named_in_the_model_or_in_vllm_xargs(server: Served) -> None:
    named = server.ask(base=None, vllm_xargs={"kblam_kb": "facts"}).json()
    assert named["kblam"] == server.ask().json()["kblam"]
    both = server.ask(vllm_xargs={"kblam_kb": "others"})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "model")


def test_each_base_answers_for_itself(server: Served) -> None:
    assert server.ask(base="hr").json()["kblam"]["knowledge_base"] == "hr"
    assert server.ask(base="hr").json()["kblam"]["evidence"][0]["value"] != server.fact.value


def test_without_a_base_the_model_answers_alone(server: Served) -> None:
    body = server.ask(base=None, max_tokens=3, temperature=0).json()
    assert "kblam" not in body
    assert body["model"] == server.model
    assert server.fact.value not in body["choices"][0]["message"]["content"]
    assert (body["choices"][0]["finish_reason"], body["usage"]["completion_tokens"]) == ("length", 3)


def test_a_stop_string_ends_an_answer_and_is_not_said(server: Served) -> None:
    word = server.fact.value.split()[0]
    whole = server.ask(stop=word).json()
    assert word not in whole["choices"][0]["message"]["content"]
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["kblam"]["evidence"]
    parts = chunks(server.ask(stream=True, stop=[word]).text)
    assert word not in said_in(parts)
    assert parts[-1]["kblam"]["knowledge_base"] == "facts"


def test_several_answers_are_those_of_single_requests_each_with_what_it_rests_on(server: Served) -> None:
    whole = server.ask(**SEVERAL, n=3, seed=11).json()
    alone = [server.ask(**SEVERAL, n=1, seed=11 + at).json() for at in range(3)]
    assert "kblam" not in whole
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    for choice, one in zip(whole["choices"], alone, strict=True):
        assert_said(choice, one)
    assert whole["usage"]["prompt_tokens"] == alone[0]["usage"]["prompt_tokens"]
    assert whole["usage"]["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)


@pytest.mark.parametrize("stop", [None, " "], ids=["whole", "to a stop string"])
def test_a_stream_of_several_answers_ends_each_with_what_it_rests_on(server: Served, stop: str | None) -> None:
    more = SEVERAL if stop is None else {**SEVERAL, "stop": stop}
    alone = [server.ask(**more, n=1, seed=11 + at).json() for at in range(3)]
    *parts, last = chunks(server.ask(**more, n=3, seed=11, stream=True, stream_options={"include_usage": True}).text)
    assert last["usage"]["completion_tokens"] == sum(one["usage"]["completion_tokens"] for one in alone)
    assert not [part for part in [*parts, last] if "kblam" in part]
    for at, one in enumerate(alone):
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == at]
        text = "".join(choice["delta"].get("content") or "" for choice in own)
        assert_said({**own[-1], "message": {"content": text}}, one)
        assert not [choice for choice in own[:-1] if "kblam" in choice]


def test_several_greedy_answers_would_be_alike(server: Served) -> None:
    for more in ({}, {"temperature": 0}, {"top_p": 1}):
        response = server.ask(n=2, **more)
        assert response.status_code == 400
        assert "n > 1 needs a temperature above 0" in response.json()["error"]["message"]


def test_openai_s_own_client_is_served(server: Served) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked: dict[str, Any] = {
        "model": f"{server.model}@facts",
        "messages": [{"role": "user", "content": server.question}],
    }
    answer = client.chat.completions.create(**asked)
    assert answer.model_extra is not None
    assert answer.model_extra["kblam"]["evidence"][0]["value"] == server.fact.value
    stream = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in stream) == answer.choices[0].message.content
    assert stream[-1].model_extra is not None
    assert stream[-1].model_extra["kblam"]["refused"] is False
    assert [model.id for model in client.models.list()][:2] == [server.model, f"{server.model}@facts"]
    with pytest.raises(openai.NotFoundError, match="no knowledge base"):
        client.chat.completions.create(**asked | {"model": f"{server.model}@none"})


def test_a_question_near_the_end_of_the_context_is_answered_in_the_room_that_is_left(server: Served) -> None:
    """Where the client leaves the length to the server, it asks for no more than there is."""

    def asked(words: int, **more: Any) -> httpx.Response:
        return server.ask(server.question + " and" * words, **more)

    least, more = (asked(words, max_tokens=1).json()["usage"]["prompt_tokens"] for words in (1, 2))
    assert more == least + 1
    for left in (5, 1):
        response = asked(server.room - left - least + 1)
        assert response.status_code == 200, response.text
        assert response.json()["usage"]["prompt_tokens"] == server.room - left
        assert response.json()["usage"]["completion_tokens"] <= left
    too_long = asked(server.room - least + 2)
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
