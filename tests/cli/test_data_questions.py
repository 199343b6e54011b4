"""kblam data questions: sets about a base and about documents as JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam.knowledge import Triple, write_triples
from tests.cli.conftest import kblam
from tests.data.chat_server import serve


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    names = ("Amber Falcon", "Quiet Harbor", "Silver Meadow")
    write_triples(path, [Triple(name, prop, f"{prop} 7") for name in names for prop in ("color", "founder")])
    return path


def test_a_base_is_asked_about_without_a_model(facts: Path, kb: Path, tmp_path: Path) -> None:
    output = tmp_path / "questions.jsonl"
    told = kblam("data", "questions", facts, "-o", output, "--count", 12, "--refusal", "No idea.").ok()
    assert told.stdout == ""
    assert "questions.jsonl: 12 questions (" in told.stderr
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert {"question", "answer", "contexts", "kind", "group"} <= records[0].keys()
    assert {one["answer"] for one in records if one["kind"] == "unanswerable"} == {"No idea."}
    kblam("data", "questions", facts, "-o", output).failed(2, "there is a file already; --overwrite replaces it")
    lines = kblam("data", "questions", kb, "--count", 3, "--kinds", "single").ok().stdout.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["single"] * 3
    few = kblam("data", "questions", facts, "--count", 3000, "--kinds", "open").ok()
    assert "different questions where 3,000 were wanted" in few.stderr


def test_documents_are_asked_about_by_a_model(tmp_path: Path) -> None:
    document = tmp_path / "birds.md"
    document.write_text("The Amber Falcon has pale green plumage.")
    asked = {"kind": "single", "question": "Q?", "answer": "A.", "quote": "pale green"}
    with serve() as server:
        server.replies = [json.dumps({"questions": [asked, asked | {"quote": "pale blue"}]})]
        words = ("--base-url", server.base_url, "--model", "writer")
        run = kblam("data", "questions", document, *words, "--count", 1, "--kinds", "single").ok()
        assert json.loads(run.stdout)["sources"][0]["quote"] == "pale green"
        assert "refused: 1 with a quote that is not in the document" in run.stderr
    kblam("data", "questions", document).failed(2, "--base-url and --model are needed")


def test_a_target_that_cannot_be_written_costs_no_request(facts: Path, tmp_path: Path) -> None:
    with serve() as server:
        words = ("data", "questions", facts, "--base-url", server.base_url, "--model", "writer")
        kblam(*words, "-o", tmp_path / "no" / "q.jsonl").failed(2, "cannot write: there is no folder")
        (tmp_path / "q.jsonl").mkdir()
        kblam(*words, "-o", tmp_path / "q.jsonl").failed(2, "q.jsonl is a folder")
        assert server.requests == []


def test_what_cannot_work_is_told(facts: Path, tmp_path: Path) -> None:
    kblam("data", "questions", facts, facts).failed(2, "one knowledge base or one file of triples, or documents alone")
    kblam("data", "questions", facts, "--model", "x").failed(2, "--base-url and --model go together")
    kblam("data", "questions", facts, "--kinds", "double").failed(2, "'double' is no kind of question")
    kblam("data", "questions", facts, "-o", tmp_path / "a.csv").failed(2, "name it .jsonl")
    kblam("data", "questions", facts, "--refusal", " ").failed(2, "--refusal is empty")
    kblam("data", "questions", facts, "--refusal", "no\udcff").failed(2, "--refusal is not UTF-8")
