"""Question-answer sets: from templates about a base that stays whole, in a model's words, and about documents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kblam.adapter.config import REFUSAL
from kblam.data.asking import UNANSWERABLE, about_base, about_documents, parse_shares, rephrased
from kblam.data.documents import Document, pieces_of
from kblam.data.endpoint import Endpoint
from kblam.data.exporting import export_splits, read_questions
from kblam.errors import DataError, DataServerError
from kblam.knowledge import Source, Triple
from kblam.knowledge.mention import says
from tests.data.chat_server import ChatServer, said, serve

SOURCE = Source("birds.md", "it is green")
BASE = [
    Triple(f"Amber {bird}", prop, f"{prop} {number}", sources=(SOURCE,) if prop == "color" else ())
    for number, bird in enumerate(("Falcon", "Heron", "Wren", "Finch", "Kestrel", "Plover"))
    for prop in ("color", "founder", "melting point")
]
NAMES = {triple.name for triple in BASE}
TEXT = "The Amber Falcon has pale green plumage.\n\nQuiet Harbor was founded by Ann Lee in 1911."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("kblam.knowledge.encoders.posting.backoff", lambda attempt: 0.0)
    with serve() as running:
        yield running


def test_questions_from_templates_are_answered_by_the_base() -> None:
    found = about_base(BASE, 60)
    assert Counter(one.kind for one in found) == {"single": 33, "pair": 6, "open": 6, UNANSWERABLE: 15}
    assert len({one.question.casefold() for one in found}) == 60
    assert found == about_base(BASE, 60)
    assert found != about_base(BASE, 60, seed=1)
    facts = {(triple.name, triple.property): triple.value for triple in BASE}
    sentences = {f"the {prop} of {name} is {value}" for (name, prop), value in facts.items()}
    for one in found:
        assert all(says(one.question, name) for name in one.names)
        assert len(one.names) == (2 if one.kind == "pair" else 1)
        if one.kind == UNANSWERABLE:
            assert (one.answer, one.contexts, one.sources) == (REFUSAL, (), ())
            # An invented thing, or a property that a thing of the base does not have.
            assert one.names[0] not in NAMES or not any(says(one.question, prop) for _, prop in facts)
        else:
            assert set(one.contexts) <= sentences
            assert len(one.contexts) == {"single": 1, "pair": 2, "open": 3}[one.kind]
            assert all(context.rpartition(" is ")[2] in one.answer for context in one.contexts)
            assert (SOURCE in one.sources) is any(context.startswith("the color") for context in one.contexts)
    strangers = [one for one in found if one.kind == UNANSWERABLE and one.names[0] not in NAMES]
    assert 4 <= len(strangers) <= 11


def test_a_small_base_has_only_so_many_questions() -> None:
    found = about_base(BASE[:4], 50, shares=parse_shares("open"))
    assert 2 < len(found) <= 50
    assert len({one.question.casefold() for one in found}) == len(found)
    with pytest.raises(DataError, match="at least 2 names; this one has 1"):
        about_base(BASE[:3], 5)


def test_shares_are_parsed() -> None:
    assert parse_shares("single=3, pair=1") == {"single": 0.75, "pair": 0.25}
    assert parse_shares("open,unanswerable") == {"open": 0.5, UNANSWERABLE: 0.5}
    for text in ("", "double", "single=0", "single=x", "single,single", "pair=nan"):
        with pytest.raises(DataError, match="is no kind of question with its share"):
            parse_shares(text)


def test_a_model_puts_questions_into_its_own_words(server: ChatServer) -> None:
    given = about_base(BASE, 24)

    def answer(request: dict[str, Any]) -> str:
        made = []
        for number, text in re.findall(r"^(\d+)\. (.*)$", request["messages"][1]["content"], re.MULTILINE):
            names = " and ".join(given[int(number)].names)
            texts = {
                0: "What of it?",  # no name
                1: f"{names} has {given[int(number)].answer}",  # says the answer
                2: text,  # the same again
            }
            made.append({"number": int(number), "question": texts.get(int(number), f"Say of {names} number {number}.")})
        return json.dumps({"questions": made})

    server.answer = answer
    done = rephrased(given, Endpoint(server.base_url, "writer"), concurrency=2)
    same = [at for at, (one, before) in enumerate(zip(done.questions, given, strict=True)) if one == before]
    assert {0, 2} <= set(same)
    assert done.kept == len(same) <= 3
    assert done.questions[5].question == f"Say of {' and '.join(given[5].names)} number 5."
    assert [one.answer for one in done.questions] == [one.answer for one in given]
    assert len(server.requests) == 3
    server.answer = lambda request: 400 if "\n10. " in f"\n{request['messages'][1]['content']}" else answer(request)
    done = rephrased(given, Endpoint(server.base_url, "writer"), concurrency=1)
    assert [(number, "HTTP 400" in why) for why, number in done.unanswered.items()] == [(10, True)]
    assert done.kept == 10 + len([at for at in same if not 10 <= at < 20])
    server.answer, server.replies = None, ["no"]
    with pytest.raises(DataServerError, match="wrote no question that can be used for any of 24; use a larger model"):
        rephrased(given, Endpoint(server.base_url, "writer"))
    server.replies = [said('{"questions": [', finish="length")]
    with pytest.raises(DataServerError, match=r"of 24 \(a reply that was cut .*\); use a server with a higher limit"):
        rephrased(given, Endpoint(server.base_url, "writer"))


def test_what_a_test_split_asks_about_no_other_split_does(tmp_path: Path) -> None:
    birds = [Triple(f"Bird {number}", prop, f"{prop} {number}") for number in range(80) for prop in ("color", "age")]
    asked = about_base(birds, 200, shares=parse_shares("single=0.9,pair=0.1"))
    lines = [json.dumps(one.to_record()) + "\n" for one in asked]
    (tmp_path / "all.jsonl").write_text("".join(lines))
    shares = {"train": 0.8, "test": 0.2}
    counts = export_splits(tmp_path / "set.jsonl", read_questions(tmp_path / "all.jsonl"), shares)
    assert counts["test"] > 20
    about = {one.question: set(one.names) for one in asked}
    train, test = (
        set().union(*(about[one.question] for one in read_questions(tmp_path / f"set-{name}.jsonl"))) for name in shares
    )
    assert not train & test


def test_a_question_that_says_two_names_is_about_the_same_one_in_every_process() -> None:
    code = (
        "from kblam.data.asking.from_base import about_base\n"
        "from kblam.knowledge import Triple\n"
        "names = [word for one in ('Oak', 'Elm', 'Ash', 'Fir', 'Yew') for word in (one, one.upper())]\n"
        "triples = [Triple(name, prop, 'old') for name in names for prop in ('age', 'use')]\n"
        "print([one.names for one in about_base(triples, 120, shares={'unanswerable': 1.0})])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(said) == 1


def test_questions_about_documents_rest_on_their_words(server: ChatServer) -> None:
    document = Document("birds.pdf", TEXT, (0,))
    pieces = list(pieces_of(document))
    whole = {
        "kind": "single",
        "question": "Whose plumage is green?",
        "answer": "The Amber Falcon's.",
        "quote": "Falcon has pale green",
    }
    other = {"kind": "open", "question": "What of Quiet Harbor?", "answer": "Ann Lee founded it.", "quote": "Ann Lee"}
    missing = {"kind": UNANSWERABLE, "question": "What does the Amber Falcon eat?", "answer": "", "quote": ""}
    bad = [
        whole | {"quote": "eats mice"},
        whole | {"answer": ""},
        whole | {"kind": "quiz"},
        {"question": "x"},
        whole | {"question": "x" * 401},
    ]

    server.replies = [json.dumps({"questions": [whole, whole, missing, *bad, other]})]
    written = about_documents(
        pieces, 6, Endpoint(server.base_url, "writer"), shares=parse_shares("single,open,unanswerable"), refusal="No."
    )
    by_kind = {one.kind: one for one in written.questions}
    assert by_kind["single"].sources == (Source("birds.pdf", "Falcon has pale green", 1, TEXT.index("Falcon has")),)
    assert by_kind["open"].contexts == ("Ann Lee",)
    assert "Write: " in str(server.requests[0]["messages"])
    assert by_kind["single"].to_record()["contexts"] == ["Falcon has pale green"]
    assert by_kind[UNANSWERABLE].answer == "No."
    assert written.refused["a quote that is not in the document"] == 1
    assert written.refused["no text where a question needs it"] == 3
    assert written.refused["too long"] == 1
    pieces = list(pieces_of(document, 50))
    server.answer = lambda request: 400 if "Quiet" in str(request) else json.dumps({"questions": [whole]})
    written = about_documents(pieces, 6, Endpoint(server.base_url, "writer"), shares={"single": 1.0}, concurrency=1)
    assert len(written.questions) == 1
    assert [why.partition(": ")[0] for why in written.refused] == ["no answer"]
    server.answer, server.replies = None, ["no"]
    with pytest.raises(DataServerError, match=r"for any of 2 pieces \(a reply without a list of questions\)"):
        about_documents(pieces, 6, Endpoint(server.base_url, "writer"))
    server.replies = [said('{"questions": [', finish="length"), said(None, refusal="Not of birds.")]
    with pytest.raises(
        DataServerError, match=r"\(a reply that .* limit, a reply that refuses: Not of birds\.\); use a"
    ):
        about_documents(pieces, 6, Endpoint(server.base_url, "writer"), concurrency=1)
    server.replies = [said('{"questions": [', finish="length")]
    with pytest.raises(DataServerError, match=r"length limit\); choose a smaller size of the pieces"):
        about_documents(pieces, 6, Endpoint(server.base_url, "writer"))
    with pytest.raises(DataError, match="have no text but headings"):
        about_documents([], 6, Endpoint(server.base_url, "writer"))
