"""What is refused in front of vLLM, and how it tells what fails behind it and in itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response, StreamingResponse

from kblam.errors import EncoderError, KblamError, StoreReplacedError
from kblam.serve.vllm.watch import WATCH, watched
from tests.serve.contract import CHAT
from tests.serve.vllm.standing_in import Served


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
@pytest.mark.parametrize(
    ("more", "status", "code"),
    [
        ({"of_request": True}, 400, "cannot_answer"),
        ({"of_request": False}, 500, "server_failed"),
        ({"of_request": False, "replaced": True}, 503, "knowledge_base_replaced"),
    ],
    ids=["of the request", "of the server", "replaced"],
)
def test_what_the_scheduler_refuses_is_told_as_what_it_is(
    more: dict[str, bool], status: int, code: str, is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """vLLM calls all of it a failure of its own."""
    served = Served()
    failed = {"error": {"message": "Internal server error", "code": 500}}
    one = SimpleNamespace(index=0, text="", token_ids=[], finish_reason="error")
    knowledge = {"error": "a part of the question takes 900 tokens", **more}
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
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    # What only the server can mend is in its log.
    assert ("900 tokens" in response.text, "900 tokens" in caplog.text) == (status == 400, status != 400)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreReplacedError("/srv/facts.kb was removed"), "knowledge_base_replaced"),
        (EncoderError("x"), "encoder_failed"),
    ],
)
def test_what_fails_in_the_front_end_is_told_as_what_it_is(error: KblamError, code: str) -> None:
    """vLLM raises its own error from it, whose message says nothing."""

    async def outputs() -> AsyncIterator[Any]:
        raise RuntimeError from error
        yield

    def failed(_: object) -> Response:
        watch = WATCH.get()
        assert watch is not None
        with pytest.raises(RuntimeError), ThreadPoolExecutor(1) as pool:  # a loop runs in this thread
            pool.submit(asyncio.run, anext(watched(outputs(), watch))).result(60)  # type: ignore[arg-type]
        return JSONResponse({"error": {"message": "Internal server error", "code": 500}}, 500)

    served = Served()
    served.behind.answers = failed
    response = served.ask()
    assert response.json()["error"]["code"] == code
    assert "/srv" not in response.text


def test_what_nobody_foresaw_in_the_front_end_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """vLLM makes one error of all of it, and logs nothing."""

    class EngineGenerateError(Exception):
        """As vLLM's."""

    async def outputs(error: Exception, of: type[Exception]) -> AsyncIterator[Any]:
        raise of from error
        yield

    def asked(error: Exception, of: type[Exception]) -> httpx.Response:
        def failed(_: object) -> Response:
            watch = WATCH.get()
            assert watch is not None
            with pytest.raises(of), ThreadPoolExecutor(1) as pool:  # a loop runs in this thread
                pool.submit(asyncio.run, anext(watched(outputs(error, of), watch))).result(60)  # type: ignore[arg-type]
            return JSONResponse({"error": {"message": "", "code": 500}}, 500)

        served.behind.answers = failed
        return served.ask()

    served = Served()
    for error, status in ((OSError(24, "Too many open files", "/srv/secret"), 500), (MemoryError(), 503)):
        response = asked(error, EngineGenerateError)
        assert response.status_code == status
        assert "secret" not in response.text
    assert "Too many open files: '/srv/secret'" in caplog.text
    assert "out of memory" in caplog.text
    caplog.clear()
    asked(KeyError("of a grammar"), ValueError)  # what vLLM refuses
    assert not caplog.text


@pytest.mark.parametrize("more", [{"add_generation_prompt": False}, {"reasoning_effort": "high"}, {"store": True}])
def test_what_would_be_ignored_with_a_base_is_refused_by_name(more: dict[str, Any]) -> None:
    served = Served()
    (name,) = more
    response = served.ask(**more)
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert served.ask(None, **more).status_code == 200
    assert served.ask(modalities=["text"], store=False).status_code == 200
    if name != "add_generation_prompt":
        sent = {"model": "tiny@facts", "prompt": "a b", **more}
        assert served.send("/v1/completions", sent).json()["error"]["param"] == name


@pytest.mark.parametrize("replaced", [True, False])
def test_evidence_whose_words_cannot_be_read_names_no_file(replaced: bool, caplog: pytest.LogCaptureFixture) -> None:
    served = Served()
    said = {"knowledge_base": "x", "revision": 7, "error": "/srv/facts.kb was removed"}
    as_it_was = served.behind.said

    def unread(body: dict[str, Any]) -> Response:
        response = as_it_was(body)
        watch = WATCH.get()
        assert watch is not None
        watch.answers[0].knowledge = said | ({"replaced": True} if replaced else {})
        return response

    served.behind.answers = unread
    body = served.ask().json()
    assert body["kblam"]["evidence"] == []
    assert ("replaced while the server ran" in body["kblam"]["error"]) == replaced
    assert "replaced" not in body["kblam"]
    assert "/srv" not in json.dumps(body)
    assert caplog.text.count("facts: /srv/facts.kb was removed") == 1


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


@pytest.mark.parametrize("base", ["facts", None])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_two_limits_that_differ_are_refused_and_both_named(path: str, base: str | None) -> None:
    """vLLM would take one of them in silence."""
    served = Served()
    model = "tiny" if base is None else f"tiny@{base}"
    asked = {"model": model, "messages": [{"role": "user", "content": "Who?"}], "prompt": "Who?"}
    response = served.send(path, {**asked, "max_tokens": 3, "max_completion_tokens": 40})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, "max_tokens", "bad_parameter")
    assert "max_tokens is 3 and max_completion_tokens 40" in error["message"]
    assert served.send(path, {**asked, "max_tokens": 3, "max_completion_tokens": 3}).status_code == 200


@pytest.mark.parametrize("base", ["facts", None])
def test_completions_have_one_name_for_the_limit_of_an_answer(base: str | None) -> None:
    """vLLM would ignore the name that chats have, and take its default of 16 tokens."""
    served = Served()
    asked = {"model": "tiny" if base is None else f"tiny@{base}", "prompt": "Who?"}
    response = served.send("/v1/completions", {**asked, "max_completion_tokens": 40})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "max_completion_tokens")
    assert error["code"] == "unsupported_parameter"
    assert "max_tokens; write that" in error["message"]
    served.send("/v1/completions", {**asked, "max_tokens": 40, "max_completion_tokens": None})
    assert served.behind.got[1]["max_tokens"] == 40
