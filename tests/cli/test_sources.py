"""What a command reads is never replaced by what it writes, whatever it is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kblam.knowledge import Triple, write_triples
from tests.cli.conftest import kblam

TOLD = "is what is read, and would be replaced; name another file to write"
COMMANDS = {
    "data questions": ["data", "questions", "facts.jsonl", "-o", "facts.jsonl"],
    "data questions, through a link": ["data", "questions", "facts.jsonl", "-o", "link.jsonl"],
    "data import": ["data", "import", "facts.csv", "-o", "facts.csv"],
    "data import of several": ["data", "import", "other.csv", "facts.csv", "-o", "./facts.csv"],
    "data export": ["data", "export", "facts.kb.nt", "-o", "facts.kb.nt"],
    "data export of questions": ["data", "export", "set.jsonl", "-o", "set.jsonl", "--as", "alpaca"],
    "data export of a split": [
        *("data", "export", "set-train.jsonl", "-o", "set.jsonl", "--as", "plain", "--splits", "train=0.5,test=0.5")
    ],
    "data extract": ["data", "extract", "notes.jsonl", "-o", "notes.jsonl", "--base-url", "http://127.0.0.1:9"],
    "kb export": ["kb", "export", "base.jsonl", "-o", "base.jsonl"],
}


@pytest.fixture
def folder(kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    triples = [Triple(f"Item {n}", prop, f"{prop} {n}") for n in range(6) for prop in ("colour", "maker")]
    for name in ("facts.jsonl", "facts.csv", "other.csv"):
        write_triples(name, triples)
    records = [{"question": f"q{n}?", "answer": "a", "group": str(n)} for n in range(20)]
    for name in ("set.jsonl", "set-train.jsonl"):
        Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    Path("notes.jsonl").write_text('{"text": "The Amber Falcon is green."}\n')
    Path("link.jsonl").symlink_to("facts.jsonl")
    shutil.copy(kb, "base.jsonl")
    shutil.copy(kb, "facts.kb.nt")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_source_is_never_replaced(command: str, folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    kblam(*COMMANDS[command], "--overwrite").failed(2, TOLD)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before


def test_splits_are_written_beside_their_source(folder: Path) -> None:
    before = Path("set.jsonl").read_bytes()
    asked = ["data", "export", "set.jsonl", "-o", "set.jsonl", "--as", "plain", "--splits", "dev=0.5,test=0.5"]
    kblam(*asked).ok()
    assert Path("set.jsonl").read_bytes() == before
    assert Path("set-dev.jsonl").read_text().count("\n") + Path("set-test.jsonl").read_text().count("\n") == 20
