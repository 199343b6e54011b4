"""Triples out of documents, through an endpoint that does what endpoints do: rate limits, refusals, lies about JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kblam.data.asking.replies import Replies
from kblam.data.documents import Document, Piece, pieces_of
from kblam.data.endpoint import Endpoint, Pause, json_in
from kblam.data.extracting import Extraction, Prices, extract, merge
from kblam.data.extracting.journal import Journal
from kblam.data.extracting.merging import spelling
from kblam.errors import DataError, DataServerError
from kblam.knowledge import Source, Triple
from tests.data.chat_server import ChatServer, said, serve

FALCON = "The Amber Falcon has pale green plumage."
TEXT = f"{FALCON}\n\nQuiet Harbor was founded by Ann Lee in 1911."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("kblam.knowledge.encoders.posting.backoff", lambda attempt: 0.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve() as running:
        yield running


def fact(name: str, prop: str, value: str, quote: str) -> dict[str, str]:
    return {"name": name, "property": prop, "value": value, "quote": quote}


def facts(*found: object) -> str:
    return json.dumps({"triples": found})


PASSAGES = "\n\n".join(f"Passage number {number} says nothing, as all others." for number in range(8))
COLOR = fact("Amber Falcon", "color", "pale green.", "has pale green  plumage")
FOUNDER = fact("Quiet Harbor", "founder", "Ann Lee", "founded by Ann Lee")


def pieces(text: str = TEXT, size: int = 50) -> list[Piece]:
    return list(pieces_of(Document("birds.pdf", text, (0,)), size))


def by_passage(request: dict[str, Any]) -> str:
    """The fact of a passage."""
    return facts(COLOR if "Falcon" in request["messages"][1]["content"] else FOUNDER)


def run(server: ChatServer, folder: Path, parts: list[Piece] | None = None, **options: Any) -> Extraction:
    endpoint = Endpoint(server.base_url, "reader", timeout=options.pop("timeout", 20.0))
    with Journal(folder / "a.extract") as journal:
        return extract(pieces() if parts is None else parts, endpoint, journal, **options)


def test_each_triple_has_its_document_page_place_and_words(server: ChatServer, tmp_path: Path) -> None:
    server.answer = lambda request: said(by_passage(request), tokens=(100, 20))
    done = run(server, tmp_path)
    color, founder = done.merged.triples
    assert color == Triple("Amber Falcon", "color", "pale green", sources=color.sources)
    assert color.sources == (Source("birds.pdf", "has pale green plumage", 1, TEXT.index("has pale")),)
    assert founder.sources[0].offset == TEXT.index("founded by Ann Lee")
    assert (done.pieces, done.asked, done.prompt_tokens, done.reply_tokens) == (2, 2, 200, 40)
    assert done.cost(Prices(1.0, 10.0)) == pytest.approx(0.0006)
    request = server.requests[0]
    assert request["response_format"]["json_schema"]["schema"]["required"] == ["triples"]
    assert "Document: birds.pdf" in request["messages"][1]["content"]


def test_what_is_in_no_document_is_refused(server: ChatServer, tmp_path: Path) -> None:
    server.replies = [
        facts(
            COLOR,
            fact("Amber Falcon", "weight", "2 kg", "weighs 2 kg"),
            fact("", "color", "pale green", "pale green"),
            fact("Amber Falcon", "color", "x" * 401, "pale green"),
            {"name": "Amber Falcon"},
            "text",
        )
    ]
    done = run(server, tmp_path, pieces(FALCON))
    assert [triple.value for triple in done.merged.triples] == ["pale green"]
    assert done.refused == {
        "a quote that is not in the document": 1,
        "no text where a fact needs it": 3,
        "too long": 1,
    }


def test_a_second_run_asks_only_for_what_is_missing(server: ChatServer, tmp_path: Path) -> None:
    def first(request: dict[str, Any]) -> Any:
        return by_passage(request) if "Falcon" in request["messages"][1]["content"] else 401

    server.answer = first
    with pytest.raises(DataError, match="refused the key"):
        run(server, tmp_path, concurrency=1)
    with (tmp_path / "a.extract").open("ab") as torn:  # a process that was killed while it wrote
        torn.write(b'{"piece": "ab')
    server.answer, server.requests = by_passage, []
    done = run(server, tmp_path)
    assert (len(server.requests), done.asked, len(done.merged.triples)) == (1, 1, 2)
    assert run(server, tmp_path).asked == 0
    # Another text is another piece.
    assert run(server, tmp_path, pieces(FALCON + " It sings.")).asked == 1


def test_a_journal_belongs_to_one_process_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.extract"
    with Journal(path), pytest.raises(DataError, match="is in use by another extraction"):
        Journal(path)
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"a\.extract:1: no journal of an extraction"):
        Journal(path)
    path.write_text('[{"name": "Oak"}]')  # somebody's own, whose last line has no end
    with pytest.raises(DataError, match=r"a\.extract:1: no journal of an extraction"):
        Journal(path)
    assert path.read_text() == '[{"name": "Oak"}]'
    with pytest.raises(DataError, match="cannot write"):
        Journal(tmp_path / "none" / "a.extract")


EMPTY = b'{"piece": "a", "triples": [], "refused": {}, "tokens": null}\n'


def test_a_journal_that_ends_in_zeros_keeps_what_is_before_them(tmp_path: Path) -> None:
    """As file systems leave it where the machine stopped."""
    path = tmp_path / "a.extract"
    for torn in (b"\0" * 99, b'{"piece": "b", "tri' + b"\0" * 99):
        path.write_bytes(EMPTY + torn)
        with Journal(path) as journal:
            assert len(journal) == 1
        assert path.read_bytes() == EMPTY


@pytest.mark.parametrize(
    "line",
    [
        b'{"piece": "b", "triples": [{"name": "Oak"}], "refused": {}, "tokens": null}\n',
        b'{"piece": "b", "triples": [], "refused": {"too long": "2"}, "tokens": null}\n',
        b'{"piece": "b", "triples": [], "refused": {}, "tokens": ["1", "2"]}\n',
        b"\0\0\n",
    ],
)
def test_a_bad_line_of_a_journal_is_named_and_costs_no_other(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.extract"
    path.write_bytes(EMPTY + line + EMPTY)
    with pytest.raises(
        DataError, match=r"a\.extract:2: no journal of an extraction .*; remove this line, and what is in"
    ):
        Journal(path)


def test_a_full_disk_is_an_error_of_ours(tmp_path: Path) -> None:
    limited = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from kblam.data.asking.replies import Replies\n"
        "from kblam.errors import DataError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with Replies(Path(sys.argv[1])) as replies:\n"
        "        for number in range(99):\n"
        "            replies.put(str(number), 'x' * 999)\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "a.questions"
    run = subprocess.run([sys.executable, "-c", limited, path], capture_output=True, text=True, timeout=120)
    assert "cannot write: File too large; make room and run the same command again" in run.stdout, run.stderr
    with Replies(path) as replies:
        assert len(replies) == 3


def test_all_wait_where_the_server_asks_for_quiet(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those whose own requests were answered meanwhile."""
    asked: list[float] = []
    lock, three, told = threading.Lock(), threading.Barrier(3), threading.Event()
    ask_for = Pause.ask_for

    def heard(pause: Pause, seconds: float) -> None:
        ask_for(pause, seconds)
        told.set()

    def limited(request: dict[str, Any]) -> Any:
        with lock:
            asked.append(time.monotonic())
            place = len(asked)
        if place <= 3:
            three.wait(20)
            if place == 1:
                return 429, {"Retry-After": "0.4"}
            assert told.wait(20)
        return facts()

    monkeypatch.setattr(Pause, "ask_for", heard)
    server.answer = limited
    parts = pieces("\n\n".join(f"Passage number {number} says nothing." for number in range(6)), 40)
    done = run(server, tmp_path, parts, concurrency=3)
    assert (done.asked, done.failed) == (6, [])
    assert len(asked) == 7
    assert asked[3] - asked[2] >= 0.4


def test_no_more_requests_at_a_time_than_allowed(server: ChatServer, tmp_path: Path) -> None:
    def slow(request: dict[str, Any]) -> str:
        time.sleep(0.05)
        return facts()

    server.answer = slow
    parts = pieces("\n\n".join(f"Passage number {number} says nothing." for number in range(12)), 40)
    assert run(server, tmp_path, parts, concurrency=3).asked == 12
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("I would say that it is green.", "no list of triples in the reply: 'I would say"),
        ('{"triples": [{"name": "Amber', "no list of triples in the reply"),
        (
            said(facts(COLOR), finish="length"),
            "the reply was cut at its length limit; choose a higher most_tokens, or a smaller size of the pieces",
        ),
        (said(None, refusal="I cannot help with birds."), "the model refused: I cannot help with birds."),
        (said("", finish="content_filter"), "the model refused: no reason"),
    ],
)
def test_a_piece_without_a_usable_reply_is_told_and_asked_again_next_time(
    server: ChatServer, tmp_path: Path, reply: Any, why: str
) -> None:
    server.answer = lambda request: reply if "Falcon" in request["messages"][1]["content"] else by_passage(request)
    done = run(server, tmp_path)
    ((piece, told),) = done.failed
    assert piece.text == FALCON
    assert told.startswith(why)
    assert [triple.name for triple in done.merged.triples] == ["Quiet Harbor"]
    server.answer = by_passage
    assert len(run(server, tmp_path).merged.triples) == 2


def test_a_reply_that_is_no_json_is_asked_for_again(server: ChatServer, tmp_path: Path) -> None:
    server.replies = ["Sure! Here they are:", f"```json\n{facts(COLOR)}\n```"]
    assert len(run(server, tmp_path, pieces(FALCON)).merged.triples) == 1


def test_what_a_model_would_say_again_is_not_asked_for_again(server: ChatServer, tmp_path: Path) -> None:
    server.replies = [said(facts(COLOR)[:-9], finish="length")]
    assert run(server, tmp_path, pieces(FALCON), concurrency=1).failed
    assert len(server.requests) == 1
    server.replies, server.requests = ["no"], []
    assert run(server, tmp_path, pieces(FALCON), concurrency=1).failed
    assert [request["temperature"] for request in server.requests] == [0.0, 0.7, 0.7]


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (b'{"choices": [', DataServerError, "did not answer with a chat completion"),
        (b"<html>busy</html>", DataServerError, "did not answer with a chat completion"),
        ({"choices": []}, DataServerError, "did not answer with a chat completion"),
        (503, DataServerError, "failed 4 times, the last time with HTTP 503"),
        (401, DataError, "refused the key"),
    ],
)
def test_a_server_that_fails_ends_the_run_and_keeps_what_was_there(
    server: ChatServer, tmp_path: Path, reply: Any, kind: type[Exception], message: str
) -> None:
    server.answer = lambda request: by_passage(request) if "Falcon" in request["messages"][1]["content"] else reply
    with pytest.raises(kind, match=message):
        run(server, tmp_path, pieces(f"{TEXT}\n\n{PASSAGES}"), concurrency=1)
    with Journal(tmp_path / "a.extract") as journal:
        assert len(journal) == 1


@pytest.mark.parametrize("failed", ["Amber", "Quiet", "number 7"], ids=["first", "second", "last"])
@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (
            (400, {}, b'{"error": {"message": "context length"}}'),
            "refused the request for model 'reader': HTTP 400: context",
        ),
        (413, "HTTP 413"),
        (500, "failed 4 times, the last time with HTTP 500"),
        ({"choices": []}, "did not answer with a chat completion"),
        ({"error": {"message": "the provider is down"}}, "answered with an error: the provider is down"),
    ],
)
def test_a_piece_that_the_server_fails_at_stops_no_other(
    server: ChatServer, tmp_path: Path, reply: Any, why: str, failed: str
) -> None:
    server.answer = lambda request: reply if failed in request["messages"][1]["content"] else by_passage(request)
    parts = pieces(f"{TEXT}\n\n{PASSAGES}")
    done = run(server, tmp_path, parts, concurrency=1)
    ((piece, told),) = done.failed
    assert failed in piece.text
    assert why in told
    assert done.asked == len(parts)
    # The journal has all others, so nothing is answered now.
    with pytest.raises(DataServerError, match=re.escape(why)):
        run(server, tmp_path, parts, concurrency=1)


def test_a_server_that_refuses_all_is_told_soon(server: ChatServer, tmp_path: Path) -> None:
    server.replies = [400]
    with pytest.raises(DataServerError, match="HTTP 400"):
        run(server, tmp_path, pieces(PASSAGES), concurrency=1)
    assert 5 <= len(server.requests) <= 6


def test_a_limit_that_lets_others_through_is_waited_out(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, limited = threading.Semaphore(0), 0

    def answer(request: dict[str, Any]) -> Any:
        nonlocal limited
        if "Quiet" not in request["messages"][1]["content"]:
            answered.release()
            return facts()
        limited += 1
        if limited <= 7:
            assert answered.acquire(timeout=20)
            return 429
        return facts(FOUNDER)

    monkeypatch.setattr("kblam.data.endpoint.FIRST_WAIT", 0.0)
    server.answer = answer
    done = run(server, tmp_path, pieces(f"Quiet Harbor was founded by Ann Lee.\n\n{PASSAGES}"), concurrency=2)
    assert (limited, done.failed, len(done.merged.triples)) == (8, [], 1)


@pytest.mark.parametrize("reply", ["Your key secret-123 is old", said(None, refusal="not with secret-123")])
def test_a_key_that_a_model_says_is_not_shown(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-123")
    server.answer = lambda request: reply
    ((_, told),) = run(server, tmp_path, pieces(FALCON)).failed
    assert "***" in told
    assert "secret" not in told


@pytest.mark.parametrize("usage", [[7], "much", {"prompt_tokens": "7"}])
def test_a_reply_whose_tokens_cannot_be_counted_is_used(server: ChatServer, tmp_path: Path, usage: Any) -> None:
    body = json.dumps({**said(facts(COLOR)), "usage": usage})
    server.answer = lambda request: b"\xef\xbb\xbf" + body.encode()
    done = run(server, tmp_path, pieces(FALCON))
    assert (len(done.merged.triples), done.is_counted) == (1, False)


def test_a_reply_that_takes_for_ever_is_given_up(server: ChatServer, tmp_path: Path) -> None:
    over = threading.Event()
    server.answer = lambda request: str(over.wait(20))
    try:
        with pytest.raises(DataServerError, match=r"failed 4 times, the last time with (ReadTimeout|no whole answer)"):
            run(server, tmp_path, pieces(FALCON), timeout=0.1)
    finally:
        over.set()


def test_a_model_that_cannot_do_it_is_told_soon(server: ChatServer, tmp_path: Path) -> None:
    server.replies = ["no"]
    parts = pieces("\n\n".join(f"Passage number {number} says nothing." for number in range(12)), 40)
    with pytest.raises(DataServerError, match=r"gave nothing that can be used for 5 pieces; .* use a larger model"):
        run(server, tmp_path, parts, concurrency=1)
    assert 15 <= len(server.requests) <= 18  # one piece more may be under way when the five are counted


def source(document: str, quote: str = "words") -> Source:
    return Source(document, quote)


def test_one_fact_of_several_places_has_all_their_sources() -> None:
    found = [
        Triple("The Amber Falcon", "Nesting place", "Zirconia", sources=(source("a"),)),
        Triple("Amber falcon", "nesting place", "zirconia.", sources=(source("b"),)),
        Triple("Amber Falcon", "nesting place", "Beryl", sources=(source("c"),)),
        Triple("Amber Falcon", "color", "green", sources=(source("a"),)),
        Triple("Amber Falcon", "color", "green", sources=(source("a"),)),
    ]
    merged = merge(found)
    place, color = merged.triples
    assert place.to_record() == {
        "name": "Amber Falcon",
        "property": "nesting place",
        "value": "Zirconia, Beryl",
        "sources": [{"document": name, "quote": "words"} for name in "abc"],
    }
    assert color.sources == (source("a"),)
    assert merged.names == {"Amber Falcon": ["The Amber Falcon", "Amber falcon"]}
    assert merged.properties == {"nesting place": ["Nesting place"]}
    assert merged.joined == {("Amber Falcon", "nesting place"): 2}
    assert merged.repeated == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("U.S.A.", "USA", True),
        ("Apollo-11", "apollo 11", True),
        ("O’Brien", "O'Brien", True),
        ("A Tale of Two Cities", "Tale of Two Cities", True),
        ("C++", "C", False),
        ("Python 3.1", "Python 31", False),
        ("Ångström", "Angstrom", False),
        ("The", "the", True),
        ("...", "…", True),
    ],
)
def test_spellings_of_one_name(one: str, other: str, same: bool) -> None:
    assert (spelling(one) == spelling(other)) is same


def test_more_sources_than_a_triple_has_are_counted() -> None:
    found = [Triple("a", "b", "c", sources=(source(f"d{number}"),)) for number in range(1003)]
    merged = merge(found)
    assert (len(merged.triples[0].sources), merged.dropped_sources) == (1000, 3)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("As [1] says: " + facts(COLOR), {"triples": [COLOR]}),
        ("nothing: []", []),
        ('[[1], {"a": 1}]', [[1], {"a": 1}]),
        ("{[" * 5, None),
        (facts() + " or rather " + facts(COLOR) + ", by [1]", {"triples": [COLOR]}),
        ("<think>\n" + facts(FOUNDER) + "? No.</think>" + facts(COLOR), {"triples": [COLOR]}),
        ("First " + facts(FOUNDER) + "? No.\n</think>\n" + facts(COLOR), {"triples": [COLOR]}),
        ("<think>{" * 2000 + "</think>" + facts(COLOR), {"triples": [COLOR]}),
        ("<think>" + facts(FOUNDER) + "</think> There are none.", None),
        ("\n<thinking>" + facts(FOUNDER), None),
        ("By <think> it means thought. " + facts(COLOR), {"triples": [COLOR]}),
        (facts({"quote": "between <think> and </think>"}), {"triples": [{"quote": "between <think> and </think>"}]}),
    ],
)
def test_json_is_found_in_a_reply(reply: str, found: object) -> None:
    assert json_in(reply) == found


def test_a_reply_of_brackets_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json_in("{[" * 200_000) is None  # a minute and more, where each is tried
    assert json_in("[1] " * 2000 + facts(COLOR)) == {"triples": [COLOR]}
    monkeypatch.setattr("kblam.data.endpoint._MOST_TRIES", 1)
    assert json_in("{[" + facts(COLOR)) is None
