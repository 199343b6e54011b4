"""Which of vLLM's options are passed on."""

from __future__ import annotations

import pytest

from kblam.errors import ServingError
from kblam.serve.vllm import options
from tests.cli.conftest import kblam


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("host=0.0.0.0", "--host"),
        ("--port=1", "--port"),
        ("served_model_name=x", "--name"),
        ("api-server-count=2", "one API server process"),
        ("data-parallel-size=2", "several servers behind a proxy"),
        ("distributed-executor-backend=ray", "one machine.* start a server on each.* one of uni, mp"),
        ("nnodes=2", "one machine"),
        ("node_rank=1", "one machine"),
        ("master-addr=10.0.0.1", "one machine"),
        ("additional-config.kblam.capacity=5", "--capacity"),
        ("ssl-keyfile=x", "proxy"),
        ("enable-lora", "an adapter knows the base model's weights"),
        ("trust-request-chat-template", "tenants"),
        ("no-trust-request-chat-template", "tenants"),
        ("disable-uvicorn-access-log", "the HTTP server is kblam's own"),
        ("disable-access-log-for-endpoints=/health", "the HTTP server is kblam's own"),
        ("enable-ssl-refresh", "proxy"),
        ("enable-tokenizer-info-endpoint", "a path that is not served"),
        ("enable-server-load-tracking", "a path that is not served"),
        ("cohere-format=cmd4", "a path that is not served"),
        ("anthropic-disabled-thinking-effort=x", "a path that is not served"),
        ("no-enable-flash-late-interaction", "a path that is not served"),
        ("=5", "write KEY=VALUE"),
    ],
)
def test_an_option_that_is_not_the_user_s_to_pass_is_refused_with_the_reason(text: str, word: str) -> None:
    with pytest.raises(ServingError, match=word):
        options._word(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("tensor-parallel-size=2", "--tensor-parallel-size=2"),
        ("distributed-executor-backend=mp", "--distributed-executor-backend=mp"),
        ("--enforce-eager", "--enforce-eager"),
        ("enable_auto_tool_choice", "--enable_auto_tool_choice"),
        ('compilation-config={"mode": 3}', '--compilation-config={"mode": 3}'),
    ],
)
def test_others_are_passed_on_as_they_are(text: str, word: str) -> None:
    assert options._word(text) == word


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--engine", "embedded", "--vllm", "enforce-eager"], "--vllm is for vLLM"),
        (["--engine", "embedded", "--capacity", "5"], "--capacity is for vLLM"),
    ],
)
def test_options_of_the_other_engine_are_refused(arguments: list[str], word: str) -> None:
    kblam("serve", "tiny", "--kb", "facts=none.kb", *arguments).failed(2, word)
