"""Models, bases and keys: nothing tells a base that is another's from one that is not there."""

from __future__ import annotations

import json

import pytest

from tests.serve.contract.common import (
    ACME,
    CHAT,
    GLOBEX,
    OTHER,
    SCRAPE,
    TRIPLES,
    bearer,
)
from tests.serve.served import Served


def test_models_are_listed_and_found(server: Served) -> None:
    listed = server.client.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == [server.model, f"{server.model}@facts", f"{server.model}@hr"]
    assert server.client.get(f"/v1/models/{server.model}@facts").json() == listed[1]
    assert server.client.get("/v1/models/other").status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/x", "/v1/knowledge", "/v1/knowledge/facts", "/v1/knowledge/no/triples"]
)
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong-0123456789abc", f"Basic {ACME}", ACME, f"Bearer {ACME[:-1]}"]
)
def test_without_the_right_key_nothing_is_told(keyed: Served, path: str, header: str) -> None:
    response = keyed.client.get(path, headers={"Authorization": header} if header else {})
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert response.json()["error"]["type"] == "authentication_error"
    assert "facts" not in response.text


@pytest.mark.parametrize(
    ("method", "query"),
    [("GET", "limit=x"), ("GET", "offset=-1"), ("GET", "other=1"), ("DELETE", "name=a"), ("DELETE", "other=1")],
)
def test_a_wrong_key_is_told_before_the_query_is_read(keyed: Served, method: str, query: str) -> None:
    for headers in ({}, bearer("wrong-0123456789abc")):
        response = keyed.client.request(method, f"{TRIPLES}?{query}", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    assert keyed.client.request(method, f"{TRIPLES}?{query}", headers=bearer(ACME)).status_code == 400


def test_a_wrong_key_is_told_before_the_body_is_read(keyed: Served) -> None:
    for path in (CHAT, TRIPLES):
        assert keyed.client.post(path, content=b"{").status_code == 401


@pytest.mark.parametrize(
    ("key", "names"),
    [(ACME, ["facts", "hr"]), (OTHER, ["facts", "hr"]), (GLOBEX, ["facts"])],
    ids=["acme", "second", "globex"],
)
def test_a_key_sees_the_bases_of_its_tenant(keyed: Served, key: str, names: list[str]) -> None:
    listed = keyed.client.get("/v1/knowledge", headers=bearer(key)).json()["data"]
    assert [one["id"] for one in listed] == names
    models = keyed.client.get("/v1/models", headers=bearer(key)).json()["data"]
    assert [one["id"] for one in models] == [keyed.model, *[f"{keyed.model}@{name}" for name in names]]


def test_bases_of_one_name_are_kept_apart(keyed: Served) -> None:
    acme, globex = (keyed.client.get("/v1/knowledge/facts", headers=bearer(key)).json() for key in (ACME, GLOBEX))
    assert acme["triples"] > globex["triples"] == 0


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/knowledge/{}", None),
        ("GET", "/v1/knowledge/{}/triples", None),
        ("PUT", "/v1/knowledge/{}/triples", {"name": "a", "property": "b", "value": "c"}),
        ("POST", "/v1/knowledge/{}/triples", []),
        ("DELETE", "/v1/knowledge/{}/triples?name=a&property=b", None),
        ("POST", CHAT, {"model": "MODEL@{}", "messages": [{"role": "user", "content": "x"}]}),
        (
            "POST",
            CHAT,
            {"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "vllm_xargs": {"kblam_kb": "{}"}},
        ),
        (
            "POST",
            CHAT,
            {"model": "MODEL", "messages": [{"role": "user", "content": "x"}], "vllm_xargs": {"kblam_kb": "acme/{}"}},
        ),
        ("GET", "/v1/models/MODEL@{}", None),
    ],
)
def test_a_foreign_base_is_answered_as_one_that_is_not_there(
    keyed: Served, method: str, path: str, body: object
) -> None:
    def ask(name: str) -> tuple[int, str]:
        def named(text: str) -> str:
            return text.replace("{}", name).replace("MODEL", keyed.model)

        sent = None if body is None else json.loads(named(json.dumps(body)))
        response = keyed.client.request(method, named(path), json=sent, headers=bearer(GLOBEX))
        return response.status_code, response.text.replace(name, "NAME")

    assert ask("hr") == ask("zz")
    assert ask("hr")[0] == 404


def test_metrics_need_a_key_of_their_own(keyed: Served) -> None:
    for headers in ({}, bearer(ACME)):
        assert keyed.client.get("/metrics", headers=headers).status_code == 401
    assert "acme/hr" in keyed.client.get("/metrics", headers=bearer(SCRAPE)).text
    assert keyed.client.get("/v1/models", headers=bearer(SCRAPE)).status_code == 401


def test_health_and_the_page_need_none(keyed: Served) -> None:
    health = keyed.client.get("/health").json()
    assert (health["status"], health["engine"]) == ("ok", keyed.service.engine.name)
    assert keyed.client.get("/").status_code == 200
