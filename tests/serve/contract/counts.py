"""Metrics count what happened, by names that the server was started with."""

from __future__ import annotations

from tests.serve.contract.common import (
    CHAT,
    NEW,
    TRIPLES,
    chunks,
    values,
)
from tests.serve.served import Served


def test_requests_refusals_tokens_bytes_and_seconds_are_counted(changing: Served) -> None:
    before = values(changing)
    usage = changing.ask().json()["usage"]
    assert chunks(changing.ask(stream=True).text)
    changing.ask(base=None, max_tokens=3)
    changing.ask(base="evil\n{}")
    changing.ask(base=None, temperature=9)
    changing.client.put(TRIPLES, json=NEW)
    changing.client.delete(TRIPLES, params={"name": "Zorblax", "property": "weather"})
    changing.client.get(f"/v1/models/{changing.model}@evil")
    changing.client.get("/evil")
    found = values(changing)

    def rise(*key: str) -> float:
        return found.get(key, 0) - before.get(key, 0)

    requests = ("kblam_requests_total", CHAT)
    assert (rise(*requests, "facts", "200"), rise(*requests, "", "200")) == (2, 1)
    assert (rise(*requests, "", "404"), rise(*requests, "", "400")) == (1, 1)
    assert rise("kblam_requests_total", "other", "", "404") == 1
    for kind, name in (("prompt", "prompt_tokens"), ("answer", "completion_tokens")):
        assert rise("kblam_tokens_total", kind, "facts") == 2 * usage[name]
    assert rise("kblam_tokens_total", "answer", "") == 3
    assert found["kblam_knowledge_bytes", "facts"] > 0
    assert rise("kblam_update_seconds_count", "facts") == 2
    assert rise("kblam_request_seconds_count", CHAT, "facts") == 2
    assert found["kblam_waiting_requests",] == 0
    assert not [key for key in found if "evil" in "".join(key)]


def test_of_several_answers_the_prompt_counts_once(server: Served) -> None:
    before = values(server)
    usage = server.ask(n=2, temperature=1, seed=4).json()["usage"]
    found = values(server)
    for kind, name in (("prompt", "prompt_tokens"), ("answer", "completion_tokens")):
        key = "kblam_tokens_total", kind, "facts"
        assert found[key] - before.get(key, 0) == usage[name]
