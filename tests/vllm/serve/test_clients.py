"""What careless clients do to a server on vLLM: it stays as it was, and goes on."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serve.contract import CHAT, TRIPLES, values
from tests.serve.served import Served
from tests.vllm.serve.running import CAPACITY, Running

ENDLESS = {"max_tokens": 170, "min_tokens": 170}  # as long as the model can


def until(is_so: Callable[[], bool]) -> None:
    """Waits, for a minute at most."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("more", [{}, {"n": 3, "temperature": 1}], ids=["one", "several"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("base", ["", "@facts"], ids=["alone", "with a base"])
def test_a_client_that_leaves_ends_its_answers(
    server: Served, running: Running, base: str, stream: bool, more: dict[str, Any]
) -> None:
    core = running.engine._llm.output_processor

    async def unfinished() -> int:
        return int(core.get_num_unfinished_requests())

    def count() -> int:
        return asyncio.run_coroutine_threadsafe(unfinished(), running.loop).result(60)

    label = base.removeprefix("@")
    key = "kblam_tokens_total", "answer", label
    messages = [{"role": "user", "content": server.question}]
    sent = {"model": f"{server.model}{base}", "messages": messages, "stream": stream, **ENDLESS, **more}
    body, address = json.dumps(sent).encode(), urlsplit(server.url)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    before = values(server).get(key, 0)
    assert count() == 0
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: count() == more.get("n", 1))
    until(lambda: count() == 0)
    assert values(server).get(key, 0) == before  # it was not answered to its end
    assert server.ask().status_code == 200


def test_a_base_larger_than_the_pool_is_507_and_nothing_is_changed(changing: Served) -> None:
    before = changing.client.get(TRIPLES).json()
    many = [{"name": f"n{number}", "property": "p", "value": "v"} for number in range(CAPACITY)]
    response = changing.send(many, TRIPLES)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert changing.client.get(TRIPLES).json() == before
    assert changing.ask().json()["kblam"]["evidence"][0]["value"] == changing.fact.value
