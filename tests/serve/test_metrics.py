"""Metrics count what happened, by names that the server was started with."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kblam.serve.bases import Bases
from tests.serve.served import MODEL, Served, base_of, serving


def values(served: Served) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels, which are in alphabetical order."""
    response = served.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_requests_refusals_tokens_bytes_and_seconds_are_counted() -> None:
    with serving(Bases([base_of()])) as served:
        usage = [served.ask(stream=False).json()["usage"], served.ask("who are you").json()["usage"]]
        served.ask(base=None, max_tokens=3)
        served.ask(base="evil\n{}")
        served.ask(base=None, tools=[])
        triple = {"name": "a", "property": "b", "value": "c"}
        served.client.put("/v1/knowledge/facts/triples", json=triple)
        served.client.get(f"/v1/models/{MODEL}@evil")
        served.client.get("/evil")
        found = values(served)
    chat = ("kblam_requests_total", "/v1/chat/completions")
    assert (found[(*chat, "facts", "200")], found[(*chat, "", "200")]) == (2, 1)
    assert (found[(*chat, "", "404")], found[(*chat, "", "400")]) == (1, 1)
    assert found["kblam_requests_total", "other", "", "404"] == 1
    assert found["kblam_refusals_total", "facts"] == 1
    for kind, name in (("prompt", "prompt_tokens"), ("answer", "completion_tokens")):
        assert found["kblam_tokens_total", kind, "facts"] == sum(one[name] for one in usage)
    assert found["kblam_knowledge_bytes", "facts"] > 0
    assert found["kblam_update_seconds_count", "facts"] == 1
    assert found["kblam_request_seconds_count", "/v1/chat/completions", "facts"] == 2
    assert found["kblam_waiting_requests",] == 0
    assert not [key for key in found if "evil" in "".join(key)]


def test_a_stream_counts_until_its_last_byte(server: Served) -> None:
    before = values(server).get(("kblam_request_seconds_count", "/v1/chat/completions", "facts"), 0)
    assert server.ask(stream=True).text.endswith("[DONE]\n\n")
    assert values(server)["kblam_request_seconds_count", "/v1/chat/completions", "facts"] == pytest.approx(before + 1)
