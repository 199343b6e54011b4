"""kblam data questions: sets about a base and about documents as JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kblam.data.asking.replies import Replies
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
    run = kblam("data", "questions", kb, "--count", 3, "--kinds", "single").ok()
    assert "kept nowhere" not in run.stderr, "templates cost nothing"
    lines = run.stdout.splitlines()
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
        lost = "warning: without --output the model's replies are kept nowhere: a run that is stopped or fails asks"
        assert run.stderr.startswith(lost), "before a model is paid for"
        server.replies = [json.dumps({"questions": [asked]})]
        options = ("--count", 1, "--kinds", "single", "-o", tmp_path / "q.jsonl")
        assert "kept nowhere" not in kblam("data", "questions", document, *words, *options).ok().stderr
    kblam("data", "questions", document).failed(2, "--base-url and --model are needed")


def test_a_target_that_cannot_be_written_costs_no_request(facts: Path, tmp_path: Path) -> None:
    with serve() as server:
        words = ("data", "questions", facts, "--base-url", server.base_url, "--model", "writer")
        kblam(*words, "-o", tmp_path / "no" / "q.jsonl").failed(2, "cannot write: there is no folder")
        (tmp_path / "q.jsonl").mkdir()
        kblam(*words, "-o", tmp_path / "q.jsonl").failed(2, "q.jsonl is a folder")
        assert server.requests == []


def test_what_a_model_was_paid_for_is_kept_until_the_file_is_written(facts: Path, tmp_path: Path) -> None:
    output, journal = tmp_path / "q.jsonl", tmp_path / "q.jsonl.questions"
    words = ("data", "questions", facts, "-o", output, "--model", "writer", "--count", 30, "--concurrency", 1)

    def answer(request: dict[str, Any]) -> str | int:
        if len(server.requests) == 3:
            return 405
        lines = [line.split(". ", 1) for line in request["messages"][1]["content"].splitlines()]
        return json.dumps({"questions": [{"number": int(at), "question": f"Say: {text}"} for at, text in lines]})

    with serve() as server:
        server.answer = answer
        kblam(*words, "--base-url", server.base_url).failed(1, "refused the request")
        assert (output.exists(), journal.exists()) == (False, True)
        kblam(*words, "--base-url", server.base_url).ok()
        assert len(server.requests) == 4
    assert all(json.loads(line)["question"].startswith("Say: ") for line in output.read_text().splitlines())
    assert not journal.exists()


def test_an_interruption_says_where_the_replies_are(
    facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, replies: Replies, **__: object) -> None:
        replies.put("a request", "its reply")
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam.data.asking.rephrased", stopped)
    words = ("--base-url", "http://127.0.0.1:9/v1", "--model", "writer")
    run = kblam("data", "questions", facts, "-o", tmp_path / "q.jsonl", *words)
    run.failed(130, "interrupted; 1 reply is in", "q.jsonl.questions: run the same command again to go on")


def test_a_workbook_of_triples_is_a_source(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (("name", "property", "value"), ("Amber Falcon", "color", "green"), ("Quiet Harbor", "color", "blue")):
        book.active.append(row)
    book.save(tmp_path / "facts.xlsx")
    shown = kblam("data", "questions", tmp_path / "facts.xlsx", "--count", 2, "--kinds", "single").ok().stdout
    assert len(shown.splitlines()) == 2
    (tmp_path / "a.md").write_text("Text.")
    kblam("data", "questions", tmp_path / "a.md").failed(2, "are needed", "make a base of it with kblam kb build")


def test_what_cannot_work_is_told(facts: Path, tmp_path: Path) -> None:
    kblam("data", "questions", facts, facts).failed(2, "one knowledge base or one file of triples, or documents alone")
    kblam("data", "questions", facts, "--model", "x").failed(2, "--base-url and --model go together")
    kblam("data", "questions", facts, "--kinds", "double").failed(2, "'double' is no kind of question")
    kblam("data", "questions", facts, "-o", tmp_path / "a.csv").failed(2, "name it .jsonl")
    kblam("data", "questions", facts, "--refusal", " ").failed(2, "--refusal is empty")
    kblam("data", "questions", facts, "--refusal", "no\udcff").failed(2, "--refusal is not UTF-8")
