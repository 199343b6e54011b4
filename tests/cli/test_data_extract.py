"""kblam data extract: from a document to an answer that shows its quote, and what it refuses before it asks."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kblam import KnowledgeBase
from kblam.knowledge import Source, read_triples
from tests.cli.conftest import ENCODER, command_line, kblam
from tests.data.chat_server import ChatServer, said, serve
from tests.fakes import HashingEncoder

TEXT = "# Birds\n\nThe Amber Falcon lives in Zirconia, its capital.\n"
FACT = {"name": "Amber Falcon", "property": "capital", "value": "Zirconia", "quote": "lives in Zirconia, its capital"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("kblam.knowledge.encoders.posting.backoff", lambda attempt: 0.0)
    with serve() as running:
        running.replies = [said(json.dumps({"triples": [FACT]}), tokens=(200, 50))]
        yield running


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "birds.md"
    path.write_text(TEXT)
    return path


def words(server: ChatServer, *more: object) -> list[object]:
    return ["data", "extract", *more, "--base-url", server.base_url, "--model", "reader"]


def test_from_a_document_to_an_answer_with_its_quote(
    hashing: HashingEncoder, server: ChatServer, document: Path, tmp_path: Path, model_folder: Path
) -> None:
    facts, base = tmp_path / "facts.jsonl", tmp_path / "birds.kb"
    told = kblam(*words(server, document, "-o", facts, "--prices", "1,10")).ok().stderr
    assert "facts.jsonl: 1 triple of 1 entity from 1 document (1 piece, 1 asked now)" in told
    assert "tokens: 200 of prompts, 50 of replies; cost 0.0007" in told
    kblam("kb", "build", facts, "-o", base).ok()
    asked = ("ask", "what is the capital of amber falcon ?", "--model", model_folder, "--max-new-tokens", 4)
    shown = kblam(*asked, "--kb", base).ok().stdout
    assert 'birds.md: "lives in Zirconia, its capital"' in shown


def test_a_length_limit_goes_with_each_request(server: ChatServer, document: Path, tmp_path: Path) -> None:
    kblam(*words(server, document, "-o", tmp_path / "a.jsonl")).ok()
    kblam(*words(server, document, "-o", tmp_path / "b.jsonl", "--max-tokens", 77)).ok()
    assert [request.get("max_tokens") for request in server.requests] == [None, 77]


def test_a_second_run_asks_nothing_and_replaces_its_own_file(
    server: ChatServer, document: Path, tmp_path: Path
) -> None:
    facts = tmp_path / "facts.jsonl"
    first = kblam(*words(server, document, "-o", facts, "--json")).ok().json
    again = kblam(*words(server, document, "-o", facts, "--json")).ok().json
    assert (first["asked"], again["asked"], again["prompt_tokens"], again["cost"]) == (1, 0, 200, None)
    assert len(server.requests) == 1
    (triple,) = read_triples(facts)
    assert triple.sources == (Source("birds.md", FACT["quote"], offset=TEXT.index("lives")),)


def test_a_killed_run_goes_on_where_it_was(server: ChatServer, document: Path, tmp_path: Path) -> None:
    document.write_text(
        "The Amber Falcon lives in Zirconia, its capital. " * 6 + "\n\n" + "Nothing is said here. " * 12
    )
    facts, second = tmp_path / "facts.jsonl", threading.Event()
    reply = json.dumps({"triples": [FACT]})

    def answer(request: dict[str, Any]) -> str:
        if "Falcon" in request["messages"][1]["content"]:
            return reply
        second.wait(60)
        return '{"triples": []}'

    server.answer = answer
    arguments = [*words(server, document, "-o", facts, "--piece", 300, "--concurrency", 1)]
    journal = tmp_path / "facts.jsonl.extract"
    running = subprocess.Popen([*command_line(), *map(str, arguments)], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while not (journal.exists() and journal.read_bytes().endswith(b"\n")):
            assert time.monotonic() < end
            assert running.poll() is None
            time.sleep(0.02)
    finally:
        running.kill()
        running.wait()
        second.set()
    assert not facts.exists()
    done = kblam(*arguments, "--json").ok().json
    assert (done["pieces"], done["asked"], done["triples"]) == (2, 1, 1)


def test_into_a_knowledge_base_sources_of_other_documents_stay(
    hashing: HashingEncoder, server: ChatServer, document: Path, tmp_path: Path
) -> None:
    base, other = tmp_path / "birds.kb", tmp_path / "other.txt"
    other.write_text("Amber Falcon lives in Zirconia, its capital, too.")
    kblam(*words(server, document, "-o", base)).ok()
    assert "said otherwise" not in kblam(*words(server, other, "-o", base)).ok().stderr
    with KnowledgeBase.open(base, ENCODER) as kb:
        (triple,) = kb.triples()
    assert [source.document for source in triple.sources] == ["birds.md", "other.txt"]
    third = tmp_path / "third.txt"
    third.write_text("Amber Falcon lives in Zurich.")
    changed = {**FACT, "value": "Zurich", "quote": "lives in Zurich"}
    server.replies = [said(json.dumps({"triples": [changed]}), tokens=(200, 50))]
    told = kblam(*words(server, third, "-o", base)).ok().stderr
    assert "replaced: the capital of Amber Falcon, 'Zirconia', is 'Zurich' now" in told


def test_pieces_that_gave_nothing_are_told_and_the_rest_is_written(
    server: ChatServer, document: Path, tmp_path: Path
) -> None:
    document.write_text(TEXT + "\n# Trees\n\nOaks grow.\n" * 40)
    facts = tmp_path / "facts.jsonl"

    def answer(request: dict[str, Any]) -> Any:
        is_first = "Falcon" in request["messages"][1]["content"]
        return json.dumps({"triples": [FACT]}) if is_first else said(None, refusal="no trees")

    server.answer = answer
    run = kblam(*words(server, document, "-o", facts, "--piece", 600))
    assert run.status == 1
    assert "tokens: the server does not count them" in run.stderr
    assert "failed: birds.md, character" in run.stderr
    assert "the model refused: no trees" in run.stderr
    assert "pieces gave nothing: run the same command again" in run.stderr
    assert len(list(read_triples(facts))) == 1


def test_where_every_piece_gave_nothing_what_is_there_stays(server: ChatServer, document: Path, tmp_path: Path) -> None:
    facts, journal = tmp_path / "facts.jsonl", tmp_path / "facts.jsonl.extract"
    server.replies = ["I am sorry"]
    kblam(*words(server, document, "-o", facts)).failed(1, "used for the only piece, so", "was not written")
    assert not facts.exists()
    assert not journal.exists()
    facts.write_text("somebody's\n")
    kblam(*words(server, document, "-o", facts)).failed(2, "there is a file already")
    kblam(*words(server, document, "-o", facts, "--overwrite")).failed(1, "no list of triples in the reply")
    document.write_text(TEXT + "\n# Trees\n\nOaks grow.\n" * 40)
    server.replies = [said(None, refusal="no birds")]
    several = words(server, document, "-o", facts, "--overwrite", "--piece", 600)
    kblam(*several).failed(1, "used for any of 3 pieces, so", "the model refused: no birds")
    assert facts.read_text() == "somebody's\n"


def test_what_cannot_work_is_told_before_anything_is_asked(server: ChatServer, document: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.jsonl"
    kblam("data", "extract", document, "-o", facts).failed(2, "--base-url and --model are needed")
    kblam(*words(server, tmp_path / "none.md", "-o", facts)).failed(2, "none.md: cannot read: No such file")
    (tmp_path / "empty.md").write_text("")
    several = words(server, tmp_path / "none.md", document, tmp_path / "empty.md", "-o", facts)
    told = kblam(*several).failed(2, "2 of 3 documents cannot be read: ").stderr
    assert "none.md: cannot read: No such file" in told
    assert "empty.md: no text" in told
    kblam(*words(server, document, "-o", facts, "--prices", "free")).failed(2, "'free' is not two prices")
    kblam(*words(server, document, "-o", facts, "--max-megabytes", 1)).ok()
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    kblam(*words(server, document, "-o", other)).failed(2, "there is a file already; --overwrite replaces it")
    kblam(*words(server, document, "-o", document)).failed(2, "is what is read, and would be replaced")
    (tmp_path / "note.md").write_text("# Birds")
    to_note = kblam(*words(server, document, "-o", tmp_path / "note.md"))
    to_note.failed(2, "is not a knowledge base (it begins with b'# Birds")
    kblam(*words(server, document, "-o", tmp_path / "facts.xlsx")).failed(2, ".xlsx is read, not written")
    kblam(*words(server, document, "-o", tmp_path / "no" / "facts.kb")).failed(1, "there is no folder")
    kblam(*words(server, document, "-o", document / "facts.kb")).failed(1, "there is no folder")
    assert len(server.requests) == 1
    assert document.read_text() == TEXT


def test_a_dry_run_counts_requests(document: Path, tmp_path: Path) -> None:
    plan = kblam("data", "extract", document, "-o", tmp_path / "a.jsonl", "--dry-run", "--json").ok().json
    assert plan == {"documents": 1, "characters": len(TEXT), "requests": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds.md"]


def test_one_document_is_read_once(server: ChatServer, document: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.md").write_text(TEXT)
    run = kblam(*words(server, document, document, tmp_path / "copy.md", "-o", tmp_path / "a.jsonl")).ok()
    assert "1 of the documents is given twice" in run.stderr
    assert "copy.md holds the same text as birds.md and is left out" in run.stderr
    assert len(server.requests) == 1
