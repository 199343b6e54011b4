"""What cannot be asked is refused by name, and the server goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serve.contract.common import (
    CHAT,
    JSON,
    TRIPLES,
    raw,
)
from tests.serve.served import Served


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"vllm_xargs": {"kblam_other": 1}},
        {"vllm_xargs": {"kblam_kb": ["facts"]}},
        {"vllm_xargs": "facts"},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"chat_template": "{{ messages }}"}},
        {"kv_transfer_params": {"do_remote_prefill": True}},
        {"vllm_xargs": {"kv_transfer_params": "x"}},
        {"vllm_xargs": {"kblam_kb": "facts", "ec_transfer_params": ["x"]}},
        {"stream_interval": 2**64},
        {"seed": -(2**63) - 1},
        {"use_beam_search": True},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"reasoning_effort": "high"},
        {"verbosity": "low"},
        {"web_search_options": {"search_context_size": "low"}},
        {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["text", "audio"]},
        {"modalities": ["audio"]},
        {"store": True},
        {"add_generation_prompt": False},
        {"add_special_tokens": True},
        {"n": 1000, "temperature": 1},
        {"n": 0, "temperature": 1},
        {"n": "2", "temperature": 1},
        {"n": True, "temperature": 1},
        {"temperature": 3},
        {"temperature": "hot"},
        {"top_p": 0},
        {"max_tokens": 100_000},
        {"max_tokens": -1},
        {"stop": 5},
        {"seed": "x"},
        {"stream_options": {"include_usage": True}},
        {"response_format": {"type": "none"}},
        {"model": ["a"]},
        {"model": None},
        {"messages": []},
        {"messages": None},
        {"messages": "hello"},
        {"messages": [5]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": " \n"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]},
        {"messages": [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]},
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_asked_of_a_base_is_400(server: Served, more: dict[str, Any], stream: bool) -> None:
    given = {"stream": True, **more} if stream and "stream_options" not in more else more
    response = server.ask(**given)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert len(response.text) < 3000
    assert server.client.get("/health").json()["status"] == "ok"


@pytest.mark.parametrize("base", ["facts", None])
def test_two_limits_of_an_answer_that_differ_are_both_named(server: Served, base: str | None) -> None:
    response = server.ask("Who?", base=base, max_tokens=3, max_completion_tokens=40)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "max_tokens is 3 and max_completion_tokens 40" in message
    assert server.ask(base=base, max_tokens=3, max_completion_tokens=3).status_code == 200


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"model": "a", "model": "b"}', "stands twice"),
        (b'{"model": "\xff\xfe"}', "not UTF-8"),
        (b"[" * 900, "not JSON"),
        (b"null", "the body"),
        (b"[]", "the body"),
        (b'{"temperature": NaN, "model": "x", "messages": [{"role": "user", "content": "x"}]}', ""),
        (b'{"model": "x", "messages": [{"role": "user", "content": "x"}], "seed": 1e400}', ""),
    ],
    ids=str,
)
def test_bodies_that_cannot_be_read_are_400(small: Served, body: bytes, word: str) -> None:
    response = small.client.post(CHAT, content=body, headers=JSON)
    assert response.status_code == 400
    assert word in response.json()["error"]["message"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("POST", TRIPLES), ("PUT", TRIPLES)])
def test_what_a_page_of_another_site_could_send_is_refused(
    small: Served, kind: str | None, method: str, path: str
) -> None:
    response = small.client.request(method, path, content=b"{}", headers={"Content-Type": kind} if kind else {})
    assert (response.status_code, response.json()["error"]["code"]) == (415, "bad_content_type")
    asked = small.client.options(
        path, headers={"Origin": "http://evil.example", "Access-Control-Request-Method": method}
    )
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_body_that_is_too_large_is_413(small: Served) -> None:
    body = {"model": small.model, "messages": [{"role": "user", "content": "x" * 2000}]}
    response = small.send(body)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


def test_a_body_that_says_it_is_too_large_is_refused_unread(small: Served) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    answer = raw(small, f"{head}Content-Length: 100000000\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_a_body_of_no_stated_length_is_refused_when_it_is_too_large(small: Served) -> None:
    head = f"POST {TRIPLES} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunk = b"3e8\r\n" + b" " * 1000 + b"\r\n"
    answer = raw(small, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(), *[chunk] * 6)
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("name", ["gpt-4", "{}@none", "@facts", "../../etc/passwd", "\ud800", "x" * 500])
def test_a_model_or_base_that_is_not_there_is_404(server: Served, name: str) -> None:
    response = server.send({"model": name.replace("{}", server.model), "messages": [{"role": "user", "content": "x"}]})
    if "\ud800" in name and response.status_code == 400:  # told to be no UTF-8 before anything is looked for
        return
    assert response.status_code == 404
    assert response.json()["error"]["code"] in ("model_not_found", "knowledge_base_not_found")
    assert len(response.text) < 500


@pytest.mark.parametrize("path", [CHAT, TRIPLES, "/v1/knowledge", "/v1/knowledge/facts", "/health", "/page.css"])
def test_a_path_with_a_slash_at_its_end_is_404_and_the_right_one_is_named(server: Served, path: str) -> None:
    for given in (f"{path}/", f"{path}//"):
        for response in (server.send({}, given), server.client.get(given)):
            assert (response.status_code, response.json()["error"]["code"]) == (404, "no_such_path")
            assert f"write {path}, without the slash at its end" in response.json()["error"]["message"]
    assert "without the slash" not in server.client.get("/no/such/").json()["error"]["message"]
    assert server.client.get("/v1/models/").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/inference/v1/generate",
        "/invocations",
        "/pause",
        "/scale_elastic_ep",
        "/v1/load_lora_adapter",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/render",
        "/collective_rpc",
        "/docs",
        "/openapi.json",
    ],
)
def test_other_paths_are_404(server: Served, path: str) -> None:
    for response in (server.send({"model": server.model, "input": "x"}, path), server.client.get(path)):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "no_such_path")
