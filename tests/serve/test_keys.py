"""Keys and tenants: each sees its own bases, and nothing tells one that is another's from one that is not there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from kblam.errors import ServingError
from kblam.serve.bases import Bases, Place
from kblam.serve.failures import ApiError
from kblam.serve.keys import Keys, check_places
from tests.serve.conftest import Counting
from tests.serve.served import MODEL, Served, base_of, serving

ACME, OTHER, GLOBEX, SCRAPE = (
    "acme-key-0123456789",
    "acme-key-2-0123456",
    "globex-key-0123456789",
    "metrics-key-0123456789",
)


@pytest.fixture(scope="module")
def keyed() -> Iterator[Served]:
    """Two tenants; both have facts, and one has more."""
    bases = Bases([base_of("facts", "acme"), base_of("hr", "acme"), base_of("facts", "globex", [])])
    keys = Keys([("acme", ACME), ("acme", OTHER), ("globex", GLOBEX)], SCRAPE)
    with serving(bases, Counting(), keys) as served:
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "path", ["/v1/models", f"/v1/models/{MODEL}", "/v1/knowledge", "/v1/knowledge/facts", "/v1/knowledge/no/triples"]
)
@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer wrong-0123456789abc", f"Basic {ACME}", ACME, f"Bearer {ACME[:-1]}"]
)
def test_without_the_right_key_nothing_is_told(keyed: Served, path: str, header: str) -> None:
    response = keyed.client.get(path, headers={"Authorization": header} if header else {})
    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert response.json()["error"]["type"] == "authentication_error"
    assert "facts" not in response.text


def test_a_wrong_key_is_told_before_the_body_is_read(keyed: Served) -> None:
    assert keyed.client.post("/v1/chat/completions", content=b"{").status_code == 401
    assert keyed.client.post("/v1/knowledge/facts/triples", content=b"{").status_code == 401


@pytest.mark.parametrize(
    ("key", "names"),
    [(ACME, ["facts", "hr"]), (OTHER, ["facts", "hr"]), (GLOBEX, ["facts"])],
    ids=["acme", "second", "globex"],
)
def test_a_key_sees_the_bases_of_its_tenant(keyed: Served, key: str, names: list[str]) -> None:
    listed = keyed.client.get("/v1/knowledge", headers=bearer(key)).json()["data"]
    assert [one["id"] for one in listed] == names
    models = keyed.client.get("/v1/models", headers=bearer(key)).json()["data"]
    assert [one["id"] for one in models] == [MODEL, *[f"{MODEL}@{name}" for name in names]]


def test_bases_of_one_name_are_kept_apart(keyed: Served) -> None:
    triples = [keyed.client.get("/v1/knowledge/facts", headers=bearer(key)).json()["triples"] for key in (ACME, GLOBEX)]
    assert triples == [5, 0]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/knowledge/{}", None),
        ("GET", "/v1/knowledge/{}/triples", None),
        ("PUT", "/v1/knowledge/{}/triples", {"name": "a", "property": "b", "value": "c"}),
        ("POST", "/v1/knowledge/{}/triples", []),
        ("DELETE", "/v1/knowledge/{}/triples?name=a&property=b", None),
        ("POST", "/v1/chat/completions", {"model": MODEL + "@{}", "messages": [{"role": "user", "content": "x"}]}),
        ("GET", f"/v1/models/{MODEL}@{{}}", None),
    ],
)
def test_a_foreign_base_is_answered_as_one_that_is_not_there(
    keyed: Served, method: str, path: str, body: object
) -> None:
    def ask(name: str) -> tuple[int, str]:
        sent = None if body is None else json.loads(json.dumps(body).replace("{}", name))
        response = keyed.client.request(method, path.replace("{}", name), json=sent, headers=bearer(GLOBEX))
        return response.status_code, response.text.replace(name, "NAME")

    assert ask("hr") == ask("zz")
    assert ask("hr")[0] == 404


def test_metrics_need_a_key_of_their_own(keyed: Served) -> None:
    for headers in ({}, bearer(ACME)):
        assert keyed.client.get("/metrics", headers=headers).status_code == 401
    assert "acme/hr" in keyed.client.get("/metrics", headers=bearer(SCRAPE)).text
    assert keyed.client.get("/v1/models", headers=bearer(SCRAPE)).status_code == 401


def test_health_and_the_page_need_none(keyed: Served) -> None:
    assert keyed.client.get("/health").json()["status"] == "ok"
    assert keyed.client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("acme", "entry 1"),
        (f"acme:{ACME},{GLOBEX}", "entry 2"),
        ("acme:short", "shorter than 16"),
        ("acme:" + "ü" * 20, "ASCII"),
        (f"acme:{ACME},globex:{ACME}", "two tenants"),
        (f"a/b:{ACME}", "entry 1"),
    ],
)
def test_keys_that_cannot_be_are_refused_and_not_shown(value: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_API_KEYS", value)
    with pytest.raises(ServingError, match=word) as error:
        Keys.from_environment()
    for key in (ACME, GLOBEX, "short", "ü"):
        assert not re.search(rf"(?<!\w){key}(?!\w)", str(error.value).replace("shorter", ""))


def test_keys_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_API_KEYS", f" acme:{ACME}, globex:{GLOBEX}:with=signs ,")
    keys = Keys.from_environment()
    assert keys.tenants == ["acme", "globex"]
    assert keys.tenant_of(f"bearer {GLOBEX}:with=signs") == "globex"
    with pytest.raises(ApiError):
        keys.tenant_of(f"Bearer {GLOBEX}")
    assert ACME not in repr(vars(keys))
    monkeypatch.delenv("KBLAM_API_KEYS")
    assert not Keys.from_environment()
    assert Keys.from_environment().tenant_of(None) is None


@pytest.mark.parametrize(
    ("keys", "text", "word"),
    [
        (Keys([("acme", ACME)]), "facts=facts.kb", "belongs to nobody"),
        (Keys([("acme", ACME)]), "globex/facts=facts.kb", "has no key"),
        (Keys(), "acme/facts=facts.kb", "has no key"),
    ],
)
def test_a_base_that_nobody_could_ask_is_refused(keys: Keys, text: str, word: str) -> None:
    with pytest.raises(ServingError, match=word):
        check_places(keys, [Place.parse(text)])


@pytest.mark.parametrize("text", ["=x.kb", "a b=x.kb", "a/b/c=x.kb", "/a=x.kb", "a=", "a@b=x.kb", "-a=x.kb", ".=x.kb"])
def test_names_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ServingError):
        Place.parse(text)


def test_a_file_alone_is_called_as_it_is() -> None:
    place = Place.parse("some/where/facts.kb")
    assert (place.tenant, place.name, str(place.file)) == (None, "facts", "some/where/facts.kb")
    with pytest.raises(ServingError, match="two knowledge bases"):
        Bases([base_of(), base_of()])
