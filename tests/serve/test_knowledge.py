"""Knowledge bases over HTTP: listed, searched, changed; every change whole or not at all."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from kblam import KnowledgeBase
from kblam.errors import DeviceFullError, EncoderError, StoreBusyError, StoreWriteError, TripleFormatError
from kblam.serve import triples
from kblam.serve.bases import Base, Bases, Place
from tests.generation.asking import FACTS
from tests.serve.conftest import Counting
from tests.serve.contract import GOOD, NEW, TRIPLES
from tests.serve.served import ANSWER, ENCODER, Served, base_of, serving
from tests.timing import is_done_within


def identities(served: Served) -> list[tuple[str, str]]:
    return [(one["name"], one["value"]) for one in served.client.get(TRIPLES).json()["data"]]


def test_bases_are_listed_with_their_numbers(server: Served) -> None:
    one, _ = server.client.get("/v1/knowledge").json()["data"]
    assert one.items() >= {"id": "facts", "model": "tiny-model@facts", "triples": 5, "revision": 1}.items()
    stats = server.client.get("/v1/knowledge/facts").json()
    assert stats.items() >= {"names": 4, "properties": 5, "encoder": "hashing:0", "read_only": False}.items()
    assert stats["bytes_on_device"] > 0


def test_triples_are_listed_in_parts_and_searched(server: Served) -> None:
    whole = server.client.get(TRIPLES).json()
    assert [one["name"] for one in whole["data"]] == [fact.name for fact in FACTS]
    assert (whole["has_more"], whole["triples"]) == (False, 5)
    part = server.client.get(TRIPLES, params={"limit": 2, "offset": 1}).json()
    assert (part["data"], part["has_more"]) == (whole["data"][1:3], True)
    found = server.client.get(TRIPLES, params={"search": "nightjar crowns"}).json()["data"]
    assert [one["property"] for one in found] == ["budget"]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 10**6}, {"offset": -1}, {"limit": "x"}], ids=str)
def test_a_part_that_cannot_be_is_refused(server: Served, query: dict[str, Any]) -> None:
    response = server.client.get(TRIPLES, params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, next(iter(query)))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", json.dumps({"triples": [NEW, NEW]})),
        ("application/json; charset=utf-8", json.dumps([NEW])),
        ("application/jsonl", json.dumps(NEW) + "\r\n\n" + json.dumps(NEW)),
        ("application/x-ndjson", json.dumps(NEW)),
    ],
)
def test_triples_are_uploaded_as_json_or_lines(changing: Served, kind: str, body: str) -> None:
    done = changing.client.post(TRIPLES, content=body, headers={"Content-Type": kind}).json()
    assert done.items() >= {"added": 1, "triples": 6, "revision": 2}.items()


def test_a_bad_line_is_named(server: Served) -> None:
    body = f"{GOOD}\n\n{{".encode() + b"\xff"
    response = server.client.post(TRIPLES, content=body, headers={"Content-Type": "application/jsonl"})
    assert response.status_code == 400
    assert "line 3 is not UTF-8" in response.json()["error"]["message"]


def test_lines_of_nothing_cost_nothing(server: Served) -> None:

    def reads_nothing() -> None:
        with pytest.raises(TripleFormatError, match="no triple"):
            triples.triples_in(b" \r\n" * 5_000_000, "application/jsonl")

    assert is_done_within(1, reads_nothing)
    body = b"\n \n" + GOOD.encode() + b"\n" * 5 + b"{"
    response = server.client.post(TRIPLES, content=body, headers={"Content-Type": "application/jsonl"})
    assert "line 8: not JSON" in response.json()["error"]["message"]


def test_too_many_triples_are_413(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triples, "MOST", 2)
    body = [NEW | {"name": str(number)} for number in range(3)]
    assert server.client.post(TRIPLES, json=body).status_code == 413


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
@pytest.mark.parametrize("name", ["other", "..%2f..%2fetc", "%00", "x" * 500])
def test_a_base_that_is_not_there_is_404(server: Served, method: str, name: str) -> None:
    query = {"name": "a", "property": "b"} if method == "DELETE" else None
    response = server.client.request(method, f"/v1/knowledge/{name}/triples", params=query)
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_a_server_that_reads_only_refuses_changes() -> None:
    with serving(Bases([base_of()]), Counting(), read_only=True) as served:
        for response in (
            served.client.put(TRIPLES, json=NEW),
            served.client.post(TRIPLES, json=[NEW]),
            served.client.delete(TRIPLES, params={"name": "France", "property": "currency"}),
        ):
            assert (response.status_code, response.json()["error"]["code"]) == (403, "read_only")
        assert len(identities(served)) == 5


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StoreBusyError("/secret/x.kb: locked"), 503, "knowledge_base_busy"),
        (StoreWriteError("/secret/x.kb: the disk is full"), 500, "write_failed"),
        (EncoderError("http://secret failed"), 500, "encoder_failed"),
        (MemoryError(), 503, "out_of_memory"),
        (DeviceFullError("no room on secret"), 503, "out_of_memory"),
        (ZeroDivisionError("secret"), 500, "server_failed"),
    ],
    ids=str,
)
def test_what_only_the_server_can_mend_is_told_without_its_paths(
    error: Exception, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of()
    with serving(Bases([base]), Counting()) as served:

        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(base.knowledge_base, "add", fail)
        response = served.client.put(TRIPLES, json=NEW)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert "secret" not in response.text
        assert len(identities(served)) == 5


def test_more_changes_than_may_wait_are_429(monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_of()
    with serving(Bases([base]), Counting()) as served:
        monkeypatch.setattr(served.service.updates._line, "_most", -1)
        response = served.client.put(TRIPLES, json=NEW)
        assert (response.status_code, response.headers["Retry-After"]) == (429, "1")


def test_a_text_that_would_command_a_terminal_or_a_page_comes_back_as_it_is(changing: Served) -> None:
    evil = {"name": "\x1b[2J<script>alert(1)</script>", "property": "\u202etfel", "value": "a\r\nSet-Cookie: x=1"}
    assert changing.client.put(TRIPLES, json=evil).status_code == 200
    response = changing.client.get(TRIPLES, params={"search": "script"})
    assert response.json()["data"] == [evil]
    assert b"\x1b" not in response.content
    assert response.headers["content-type"] == "application/json"
    gone = changing.client.delete(TRIPLES, params={key: evil[key] for key in ("name", "property")})
    assert isinstance(gone, httpx.Response)
    assert gone.json()["removed"] == 1


def test_answers_go_on_while_another_program_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "facts.kb"
    with (
        KnowledgeBase.create(path, ENCODER) as kb,
        KnowledgeBase.open(path, ENCODER) as other,
        ThreadPoolExecutor() as pool,
        serving(Bases([Base(Place(None, "facts", path), kb)])) as served,
    ):
        kb.add(FACTS)
        assert served.ask().json()["choices"][0]["message"]["content"] == ANSWER
        with other._store._transactions.writing():
            change = pool.submit(served.client.post, TRIPLES, json={"triples": [NEW]})
            time.sleep(0.3)  # for it to wait
            assert served.ask().json()["choices"][0]["message"]["content"] == ANSWER
            assert not change.done()
        assert change.result(timeout=30).json()["added"] == 1


def test_a_file_that_was_replaced_takes_its_base_away_and_no_other(tmp_path: Path) -> None:
    """What is there now is another base, of which nothing was checked: it is served after a restart."""
    paths = {name: tmp_path / f"{name}.kb" for name in ("facts", "hr", "new")}
    for path in paths.values():
        with KnowledgeBase.create(path, ENCODER) as made:
            made.add(FACTS)
    with KnowledgeBase.open(paths["facts"], ENCODER) as facts, KnowledgeBase.open(paths["hr"], ENCODER) as hr:
        bases = Bases(Base(Place(None, name, paths[name]), kb) for name, kb in (("facts", facts), ("hr", hr)))
        with serving(bases) as served:
            paths["new"].replace(paths["facts"])
            refused = (
                served.ask(),
                served.ask(stream=True),
                served.client.get("/v1/knowledge/facts"),
                served.client.get(TRIPLES),
                served.client.put(TRIPLES, json=NEW),
            )
            for response in refused:
                error = response.json()["error"]
                assert (response.status_code, error["code"]) == (503, "knowledge_base_replaced")
                assert str(tmp_path) not in response.text
            one, other = served.client.get("/v1/knowledge").json()["data"]
            assert (one["id"], one["triples"], one["error"]) == ("facts", None, error)
            assert other.items() >= {"id": "hr", "triples": 5}.items()
            assert "error" not in other
            assert served.ask(base="hr").json()["choices"][0]["message"]["content"] == ANSWER
            assert served.client.get("/metrics").status_code == 200
