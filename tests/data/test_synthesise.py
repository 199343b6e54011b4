"""Data written by a language model behind an endpoint: asked for, checked, and refused where it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kblam.data.endpoint import Endpoint
from kblam.data.synthesise import synthesise
from kblam.errors import DataError, DataServerError, EncoderError
from tests.data.chat_server import ChatServer, said, serve

MODEL = "writer"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("kblam.knowledge.encoders.posting.backoff", lambda attempt: 0.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve() as running:
        yield running


def reply(*entities: object) -> str:
    return json.dumps({"entities": entities})


def entity(name: str, **facts: object) -> dict[str, object]:
    return {"name": name, "facts": facts or {"color": "red", "founder": "Ann Lee"}}


def test_entities_become_triples_one_at_a_time(server: ChatServer) -> None:
    server.replies = [reply(entity("Amber Falcon", color="pale  red.", weight=12.5)), reply(entity("Zorblax"))]
    written = list(synthesise(Endpoint(server.base_url, MODEL), 2, topic="ships"))
    assert [triple.to_record() for triple in written[0]] == [
        {"name": "Amber Falcon", "property": "color", "value": "pale red"},
        {"name": "Amber Falcon", "property": "weight", "value": "12.5"},
    ]
    first, second = (str(request["messages"]) for request in server.requests)
    assert "ships" in first
    assert "Amber Falcon" not in first
    assert "Amber Falcon" in second
    assert server.requests[0]["model"] == MODEL
    assert server.keys == [None, None]


@pytest.mark.parametrize("wrapping", ["{}", "Here it is:\n```json\n{}\n```\nDone.", "See [1]. {}"])
def test_json_is_found_in_whatever_surrounds_it(server: ChatServer, wrapping: str) -> None:
    server.replies = [wrapping.replace("{}", reply(entity("Zorblax")))]
    assert len(list(synthesise(Endpoint(server.base_url, MODEL), 1))) == 1


def test_after_a_reply_that_was_cut_fewer_are_asked_for(server: ChatServer) -> None:
    cut = said(reply(entity("Zorblax"), entity("Quell"))[:-9], finish="length")
    server.replies = [cut, cut, reply(entity("Zorblax"), entity("Quell"))]
    assert len(list(synthesise(Endpoint(server.base_url, MODEL), 2))) == 2
    asked = [str(request["messages"]) for request in server.requests]
    assert [text.count("Invent 2 entities") for text in asked] == [1, 0, 0]
    assert "Invent 1 entities" in asked[1]
    server.replies = [cut]
    with pytest.raises(DataServerError, match="the last one: the reply was cut at its length limit; use a server with"):
        list(synthesise(Endpoint(server.base_url, MODEL), 2))


def test_what_cannot_be_used_is_left_out(server: ChatServer) -> None:
    server.replies = [
        reply(
            "text",
            {"name": "A"},
            {"name": 3, "facts": {"a": "b", "c": "d"}},
            entity("Too few", color="red"),
            entity("n" * 200),
            entity("Taken"),
            entity("Good", price="3 euros", cost="4 euros", color="red", story="x" * 500, alive=True, empty=" "),
            entity("good"),
            entity("Not asked for any more"),
        )
    ]
    written = list(synthesise(Endpoint(server.base_url, MODEL), 1, taken=["taken"]))
    assert [[(triple.property, triple.value) for triple in one] for one in written] == [
        [("price", "3 euros"), ("color", "red")]
    ]


def test_what_is_no_number_is_no_value(server: ChatServer) -> None:
    facts = '{"price": 3, "weight": 0.5, "depth": NaN, "height": Infinity, "age": 1e999}'
    server.replies = [f'{{"entities": [{{"name": "Zorblax", "facts": {facts}}}]}}']
    (written,) = synthesise(Endpoint(server.base_url, MODEL), 1)
    assert [(triple.property, triple.value) for triple in written] == [("price", "3"), ("weight", "0.5")]


def test_the_key_is_sent_and_never_shown(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1")
    server.replies = [reply(entity("Zorblax")), 401]
    endpoint = Endpoint(server.base_url, MODEL, "MY_KEY")
    list(synthesise(endpoint, 1))
    assert server.keys == ["Bearer secret-1"]
    with pytest.raises(DataError, match=r"refused the key .* MY_KEY") as caught:
        list(synthesise(endpoint, 1))
    assert "secret-1" not in str(caught.value)
    server.replies = ["Is secret-1 yours?"]
    with pytest.raises(DataServerError, match=r"no list of entities in 'Is \*\*\* yours\?'"):
        list(synthesise(endpoint, 1))
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(DataError, match="MY_KEY holds white space"):
        list(synthesise(endpoint, 1))


def test_passing_trouble_is_waited_out(server: ChatServer) -> None:
    server.replies = [503, 429, reply(entity("Zorblax"))]
    assert len(list(synthesise(Endpoint(server.base_url, MODEL), 1))) == 1


@pytest.mark.parametrize(
    ("replies", "kind", "message"),
    [
        ([503], DataServerError, "failed 4 times, the last time with HTTP 503; run the same command again"),
        ([400], DataServerError, "refused the request for model 'writer': HTTP 400"),
        ([404], DataError, "does not know the model 'writer'"),
        (
            [(429, {}, b'{"error": {"code": "insufficient_quota"}}')],
            DataError,
            "the account has no quota left: HTTP 429",
        ),
        ([{"answer": 1}], DataServerError, "did not answer with a chat completion"),
        (["I cannot."], DataServerError, "no new entity in 5 replies; the last one: no list of entities in 'I cannot"),
        ([reply()], DataServerError, "no entity with a name and 2 facts"),
        ([reply(entity("Taken"))], DataServerError, "every entity was there already"),
    ],
)
def test_lasting_trouble_names_what_to_do(server: ChatServer, replies: list, kind: type, message: str) -> None:
    server.replies = replies
    with pytest.raises(kind, match=message):
        list(synthesise(Endpoint(server.base_url, MODEL), 1, taken=["taken"]))


def test_a_model_without_a_name_is_refused() -> None:
    for name in ("", " "):
        with pytest.raises(DataError, match="name of the model at the endpoint is empty"):
            Endpoint("http://127.0.0.1:9/v1", name)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(DataServerError, match="ConnectError"):
        list(synthesise(Endpoint("http://127.0.0.1:9/v1", MODEL, max_attempts=1), 1))
    with pytest.raises(EncoderError, match="must look like"):
        list(synthesise(Endpoint("localhost", MODEL), 1))
