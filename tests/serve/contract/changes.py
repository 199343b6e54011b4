"""Knowledge over HTTP: every change whole or not at all, and seen by the next answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.contract.common import (
    JSON,
    NEW,
    TRIPLES,
)
from tests.serve.served import Served, meanwhile

GOOD = json.dumps(NEW)
BAD = {
    "no triple": (json.dumps([NEW, 5]), "triple 2 is no object"),
    "no value": (json.dumps([NEW, {"name": "a", "property": "b"}]), "triple 2 has no 'value'"),
    "a number": (json.dumps([NEW, NEW | {"name": "a", "value": 5}]), "triple 2: value must be text, got a number"),
    "an unknown field": (json.dumps([NEW, NEW | {"note": "x"}]), "triple 2 has a field 'note'"),
    "half a surrogate pair": (json.dumps([NEW, NEW | {"name": "\ud800"}]), "surrogate"),
    "a NUL": (json.dumps([NEW, NEW | {"name": "a\0"}]), "NUL"),
    "too long": (json.dumps([NEW, NEW | {"name": "a", "value": "x" * 100_001}]), "characters"),
    "a contradiction": (json.dumps([NEW, NEW | {"value": "sun"}]), "triple 2: ('Zorblax', 'weather') was said before"),
    "a key twice": ('{"triples": [], "triples": [' + GOOD + "]}", "stands twice"),
    "no JSON": ("[" + GOOD, "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "NaN": ('[{"name": NaN}]', "triple 1"),
    "a number of a million digits": ("[" + "9" * 1_000_000 + "]", "not JSON"),
    "no list": ('{"other": []}', "send"),
    "nothing": ("[]", "no triple"),
    "empty": ("", "not JSON"),
}


@pytest.mark.parametrize(("body", "word"), BAD.values(), ids=BAD)
def test_a_bad_triple_changes_nothing(server: Served, body: str, word: str) -> None:
    before = server.client.get(TRIPLES).json()
    response = server.client.post(TRIPLES, content=body, headers=JSON)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert word in response.json()["error"]["message"]
    assert server.client.get(TRIPLES).json() == before


def test_one_triple_is_added_changed_and_removed(changing: Served) -> None:
    now = changing.client.get("/v1/knowledge/facts").json()
    count, first = now["triples"], now["revision"]
    put = changing.client.put
    added = put(TRIPLES, json=NEW).json()
    assert added.items() >= {"added": 1, "updated": 0, "triples": count + 1, "revision": first + 1}.items()
    assert put(TRIPLES, json=NEW).json().items() >= {"added": 0, "unchanged": 1, "revision": first + 1}.items()
    assert put(TRIPLES, json=NEW | {"value": "sun"}).json().items() >= {"updated": 1, "revision": first + 2}.items()
    gone = {"name": "Zorblax", "property": "weather"}
    removed = {"removed": 1, "triples": count, "revision": first + 3}
    assert changing.client.delete(TRIPLES, params=gone).json() == removed
    again = changing.client.delete(TRIPLES, params=gone)
    assert (again.status_code, again.json()["error"]["code"]) == (404, "triple_not_found")
    assert changing.client.delete(TRIPLES, params={"name": "Zorblax"}).status_code == 400


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "serach=x"),
        ("GET", "limit=1&limit=2"),
        ("DELETE", "name=Zorblax&property=weather&name=other"),
        ("DELETE", "name=Zorblax&property=weather&all=1"),
    ],
)
def test_a_query_with_a_parameter_twice_or_an_unknown_one_is_refused(server: Served, method: str, query: str) -> None:
    response = server.client.request(method, f"{TRIPLES}?{query}")
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert response.json()["error"]["param"] in ("serach", "limit", "name", "all")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/{}", "/v1/knowledge", "/v1/knowledge/facts"])
def test_a_path_without_parameters_refuses_one(server: Served, path: str) -> None:
    response = server.client.get(f"{path.format(server.model)}?limit=5")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "limit")
    assert response.json()["error"]["message"] == "limit: no parameter of this path; there are none"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_change_with_a_parameter_changes_nothing(server: Served, method: str) -> None:
    before = server.client.get(TRIPLES).json()
    response = server.client.request(method, f"{TRIPLES}?dry_run=true", json=NEW if method == "PUT" else [NEW])
    assert (response.status_code, response.json()["error"]["param"]) == (400, "dry_run")
    assert server.client.get(TRIPLES).json() == before


def test_evidence_has_the_documents_that_say_it(changing: Served) -> None:
    assert changing.ask().json()["kblam"]["evidence"][0]["sources"] == []
    source = {"document": "handbook.pdf", "page": 2, "offset": 0, "quote": "As everyone knows."}
    record = changing.fact.to_record()
    told = record | {"sources": [source]}
    assert changing.send(told, TRIPLES, "PUT").json()["updated"] == 1
    assert changing.ask().json()["kblam"]["evidence"][0]["sources"] == [source]
    assert changing.client.get(TRIPLES, params={"search": changing.fact.name}).json()["data"][0] == told
    for bad in ("handbook.pdf", [{"document": "handbook.pdf"}], [source | {"page": 0}]):
        assert changing.send(told | {"sources": bad}, TRIPLES, "PUT").status_code == 400
    assert changing.send(record, TRIPLES, "PUT").json()["updated"] == 1


def test_the_answer_is_of_the_revision_it_names(changing: Served) -> None:
    record = changing.fact.to_record()
    for value in (changing.other_value, changing.fact.value):
        sent = changing.client.put(TRIPLES, json=record | {"value": value})
        body = changing.ask().json()
        assert value in body["choices"][0]["message"]["content"]
        assert body["kblam"]["evidence"][0]["value"] == value
        assert body["kblam"]["revision"] == sent.json()["revision"]


def test_what_another_program_changes_the_next_answer_sees(changing: Served) -> None:
    (base,) = [one for one in changing.service.bases.of(None) if one.name == "facts"]
    record = changing.fact.to_record()
    for value in (changing.other_value, changing.fact.value):
        base.knowledge_base.add(record | {"value": value})  # not by way of the server
        assert changing.ask().json()["kblam"]["evidence"][0]["value"] == value


def test_answers_about_a_fact_that_changes_meanwhile_are_of_the_revision_they_name(changing: Served) -> None:
    record, values = changing.fact.to_record(), (changing.other_value, changing.fact.value)
    said: dict[int, str] = {changing.client.get("/v1/knowledge/facts").json()["revision"]: changing.fact.value}
    gone = {key: record[key] for key in ("name", "property")}

    def change(number: int) -> None:
        response = changing.client.put(TRIPLES, json=record | {"value": values[number % 2]})
        assert response.status_code == 200, response.text
        said[response.json()["revision"]] = values[number % 2]
        if number % 5 == 0:
            removed = changing.client.delete(TRIPLES, params=gone).json()
            said[removed["revision"]] = ""

    def ask(_: int) -> tuple[int, list[str | None]]:
        body = changing.ask().json()
        return body["kblam"]["revision"], [one["value"] for one in body["kblam"]["evidence"][:1]]

    with meanwhile(change), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(32)))
    assert changing.send(record, TRIPLES, "PUT").status_code == 200
    assert len({revision for revision, _ in answers}) > 1
    for revision, evidence in answers:
        if said[revision]:
            assert evidence == [said[revision]]
        else:
            assert not set(values).intersection(evidence)


def test_many_requests_at_once_while_bases_change(changing: Served) -> None:
    alone = {name: changing.ask(base=name).json() for name in ("facts", "hr")}
    revisions: list[int] = []

    def change(number: int) -> None:
        response = changing.client.put(TRIPLES, json=NEW | {"value": f"rain {number}"})
        assert response.status_code == 200, response.text
        revisions.append(response.json()["revision"])

    def ask(number: int) -> None:
        name = ("facts", "hr")[number % 2]
        body = changing.ask(base=name).json()
        assert body["choices"][0]["message"]["content"] == alone[name]["choices"][0]["message"]["content"]
        assert body["kblam"]["evidence"][0]["value"] == alone[name]["kblam"]["evidence"][0]["value"]

    with meanwhile(change), ThreadPoolExecutor(32) as pool:
        list(pool.map(ask, range(32)))
    changing.client.delete(TRIPLES, params={"name": "Zorblax", "property": "weather"})
    assert len(revisions) > 1
    assert revisions == sorted(revisions)
