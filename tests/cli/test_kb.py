"""`kblam kb`: build, add, remove, list, info."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from kblam import KnowledgeBase, Triple
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, FACTS
from tests.knowledge.embeddings_server import serve


def test_build_says_what_it_did(hashing: HashingEncoder, facts_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "made.kb"
    first = kblam("kb", "build", facts_file, "-o", output).ok()
    assert f"{output}: 3 triples (3 added, 0 updated, 0 unchanged)" in first.stdout
    with KnowledgeBase.open(output) as made:
        assert list(made.triples()) == FACTS
    again = kblam("kb", "build", facts_file, "-o", output, "--json").ok().json
    assert {key: again[key] for key in ("triples", "added", "updated", "unchanged")} == {
        "triples": 3,
        "added": 0,
        "updated": 0,
        "unchanged": 3,
    }


class InterruptedEncoder(HashingEncoder):
    """Ctrl-C arrives in the batch after `batches`."""

    batches = 2

    def encode(self, texts: Sequence[str], **options: object) -> object:  # type: ignore[override]
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        return super().encode(texts)


def test_an_interrupted_build_goes_on_where_it_stopped(
    hashing: HashingEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, output = tmp_path / "many.jsonl", tmp_path / "made.kb"
    facts = [Triple(f"Name {i}", "capital", f"Value {i}") for i in range(50)]
    file.write_text("".join(json.dumps(fact.to_record()) + "\n" for fact in facts))
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda *_, **__: InterruptedEncoder(EMBEDDING_DIM))
    stopped = kblam("kb", "build", file, "-o", output, "--batch-size", 10)
    stopped.failed(130, "interrupted", str(output), "run the same command again")
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda *_, **__: hashing)
    done = kblam("kb", "build", file, "-o", output, "--batch-size", 10, "--json").ok().json
    assert (done["unchanged"], done["added"], done["triples"]) == (20, 30, 50)
    assert len(hashing.calls) == 60, "a key and a value for each of the 30 that were missing"


def test_build_takes_the_encoder_of_an_existing_knowledge_base(
    monkeypatch: pytest.MonkeyPatch, kb: Path, facts_file: Path
) -> None:
    asked: list[str] = []

    def recorded(spec: str, device: str | None) -> HashingEncoder:
        asked.append(spec)
        return HashingEncoder(EMBEDDING_DIM)

    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", recorded)
    kblam("kb", "build", facts_file, "-o", kb).ok()
    assert asked == ["hashing:0"]


def test_build_passes_the_name_of_the_key_variable(
    monkeypatch: pytest.MonkeyPatch, facts_file: Path, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def load(spec: str, *, api_key_env: str) -> HashingEncoder:
        asked.append((spec, api_key_env))
        return HashingEncoder(EMBEDDING_DIM)

    monkeypatch.setattr("kblam.knowledge.load_encoder", load)
    options = ["-o", tmp_path / "made.kb", "--encoder", "openai:x", "--api-key-env", "MY_KEY"]
    kblam("kb", "build", facts_file, *options).ok()
    assert asked == [("openai:x", "MY_KEY")]


def test_the_key_of_an_existing_knowledge_base_is_the_one_that_is_named(
    facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "key-of-this-server")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made, more = tmp_path / "made.kb", tmp_path / "more.csv"
    more.write_text("name,value\nOak,tall\n")
    key = ("--api-key-env", "MY_KEY")
    with serve() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        kblam("kb", "build", facts_file, "-o", made, "-e", "openai:x", *key).ok()
        kblam("kb", "build", more, "-o", made, *key).ok()
        kblam("kb", "add", made, "-n", "Elm", "-v", "old", *key).ok()
        kblam("kb", "add", made, "-n", "Elm", "-v", "older", "-e", "openai:x", *key).ok()
        more.write_text("name,property,value\nOak,height,20 m\n")
        kblam("data", "import", more, "-o", made, *key).ok()
        kblam("kb", "doctor", made, *key).ok()
    assert set(server.keys) == {"Bearer key-of-this-server"}


def test_a_key_that_no_encoder_needs_is_told(hashing: HashingEncoder, facts_file: Path, kb: Path) -> None:
    key = ("--api-key-env", "MY_KEY")
    kblam("kb", "build", facts_file, "-o", kb, *key).failed(2, "--api-key-env MY_KEY", "hashing:0 needs no key")
    kblam("kb", "build", facts_file, "-o", kb.with_name("new.kb"), *key).failed(2, "minilm needs no key")
    kblam("kb", "add", kb, "-n", "Elm", "-v", "old", "-e", "minilm", *key).failed(2, "minilm needs no key")
    kblam("kb", "doctor", kb, *key).failed(2, "hashing:0 needs no key")
    new = facts_file.with_name("new.jsonl")
    kblam("data", "import", facts_file, "-o", new, *key).failed(2, "--api-key-env is for a knowledge base")


def test_build_refuses_bad_input(hashing: HashingEncoder, facts_file: Path, tmp_path: Path, kb: Path) -> None:
    output = tmp_path / "made.kb"
    kblam("kb", "build", tmp_path / "none.jsonl", "-o", output).failed(2, "there is no file", "none.jsonl")
    kblam("kb", "build", tmp_path, "-o", output).failed(2, "is a folder; give a file of triples (.json, ", ".parquet)")
    for name, text in (("none.json", "[]"), ("head.csv", "name,property,value\n")):
        (tmp_path / name).write_text(text)
        kblam("kb", "build", tmp_path / name, "-o", output).failed(2, f"{name}: it has no records; there is nothing")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"name": "a", "value": "b"}\n{"name": "a"}\n')
    kblam("kb", "build", bad, "-o", output).failed(2, "bad.jsonl:2:", 'missing field "value"')
    twice = tmp_path / "twice.csv"
    twice.write_text("name,value\na,1\na,2\n")
    kblam("kb", "build", twice, "-o", output).failed(2, "twice.csv:3:", "line 2 too")
    assert not output.exists(), "nothing is made of bad input"
    kblam("kb", "build", twice, "-o", output, "--duplicates", "last").ok()
    kblam("kb", "build", facts_file, "-o", facts_file).failed(2, "is a file of triples")
    assert len(facts_file.read_text().splitlines()) == 3


def test_build_refuses_an_unknown_encoder(facts_file: Path, tmp_path: Path) -> None:
    kblam("kb", "build", facts_file, "-o", tmp_path / "x.kb", "-e", "mini").failed(2, "no encoder or folder 'mini'")


def test_build_refuses_another_encoder_than_before(monkeypatch: pytest.MonkeyPatch, kb: Path, facts_file: Path) -> None:
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda *_, **__: HashingEncoder(EMBEDDING_DIM, seed=7))
    before = kb.read_bytes()
    kblam("kb", "build", facts_file, "-o", kb, "-e", "hashing:7").failed(2, "was built with hashing:0", "hashing:7")
    assert kb.read_bytes() == before


def test_build_into_a_place_that_cannot_be_written(hashing: HashingEncoder, facts_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "no" / "such" / "folder.kb"
    kblam("kb", "build", facts_file, "-o", output).failed(1, str(output), "check that the folder exists")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_build_into_a_read_only_folder(hashing: HashingEncoder, facts_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    kblam("kb", "build", facts_file, "-o", folder / "x.kb").failed(1, "x.kb")


def test_add_one_and_change_it(hashing: HashingEncoder, kb: Path) -> None:
    added = kblam("kb", "add", kb, "--name", "New Tower", "--property", "height", "--value", "333 m").ok()
    assert "4 triples (1 added, 0 updated, 0 unchanged)" in added.stdout
    changed = kblam("kb", "add", kb, "-n", "New Tower", "-p", "height", "-v", "334 m", "--json").ok().json
    assert (changed["added"], changed["updated"], changed["triples"]) == (0, 1, 4)
    with KnowledgeBase.open(kb) as opened:
        assert [triple.value for triple in opened.find("New Tower")] == ["334 m"]


def test_the_property_of_an_added_triple_is_description_by_default(hashing: HashingEncoder, kb: Path) -> None:
    kblam("kb", "add", kb, "--name", "New Tower", "--value", "tall").ok()
    with KnowledgeBase.open(kb) as opened:
        assert opened.find("New Tower")[0].property == "description"


def test_add_a_file(hashing: HashingEncoder, kb: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.csv"
    file.write_text("name,property,value\nNew Tower,height,333 m\nAmber Falcon,capital,Beryl\n")
    result = kblam("kb", "add", kb, file, "--json").ok().json
    assert (result["added"], result["updated"], result["triples"]) == (1, 1, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a FILE of triples, or one triple"),
        (["more.csv", "--name", "x", "--value", "y"], "give either"),
        (["--name", "x"], "--value is missing"),
        (["--value", "x"], "--name is missing"),
        (["--name", " ", "--value", "x"], "name is empty"),
        (["none.csv"], "there is no file none.csv; give a file of triples"),
    ],
)
def test_add_refuses_bad_input(hashing: HashingEncoder, kb: Path, arguments: list[str], words: str) -> None:
    kblam("kb", "add", kb, *arguments).failed(2, words)
    with KnowledgeBase.open(kb) as opened:
        assert len(opened) == 3


def test_remove_a_fact_and_a_name(hashing: HashingEncoder, kb: Path) -> None:
    kblam("kb", "add", kb, "--name", "Amber Falcon", "--property", "motto", "--value", "Onward").ok()
    one = kblam("kb", "remove", kb, "Amber Falcon", "--property", "motto").ok()
    assert "removed 1 triple; 3 triples left" in one.stdout
    rest = kblam("kb", "remove", kb, "Amber Falcon", "--json").ok().json
    assert (rest["removed"], rest["triples"]) == (1, 2)


def test_of_many_names_none_is_compared(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million would take half a minute."""
    monkeypatch.setattr("kblam.cli.kb.changing._MOST_COMPARED", 2)
    kblam("kb", "remove", kb, "ambr Falcn").failed(2, "there is no 'ambr Falcn'", "kblam kb list")


def test_remove_of_what_is_not_there_helps(kb: Path) -> None:
    kblam("kb", "remove", kb, "falcon").failed(2, "there is no 'falcon'", "close names: Amber Falcon")
    kblam("kb", "remove", kb, "ambr Falcn").failed(2, "there is no 'ambr Falcn'", "close names: Amber Falcon")
    kblam("kb", "remove", kb, "Nobody").failed(2, "there is no 'Nobody'", "kblam kb list")
    kblam("kb", "remove", kb, "Amber Falcon", "-p", "motto").failed(2, "has no 'motto'; it has: capital")


def test_list_shows_all_some_and_what_was_searched(kb: Path) -> None:
    everything = kblam("kb", "list", kb).ok().stdout
    assert all(fact.name in everything and fact.value in everything for fact in FACTS)
    assert "3 shown, 3 triples in all" in everything
    assert "1 found by 'HARBOR', 3 triples in all" in kblam("kb", "list", kb, "--search", "HARBOR").ok().stdout
    assert kblam("kb", "list", kb, "--limit", 1, "--json").ok().json["triples"] == [FACTS[0].to_record()]
    assert len(kblam("kb", "list", kb, "--limit", 0, "--json").ok().json["triples"]) == 3
    found = kblam("kb", "list", kb, "--search", "HARBOR", "--json").ok().json
    assert (found["total"], found["triples"]) == (3, [FACTS[1].to_record()])
    assert kblam("kb", "list", kb, "--search", "nobody", "--json").ok().json["triples"] == []


def test_brackets_in_a_triple_are_no_markup(hashing: HashingEncoder, kb: Path) -> None:
    kblam("kb", "add", kb, "--name", "[red]X[/red]", "--value", "[/] [bold]").ok()
    assert "[red]X[/red]" in kblam("kb", "list", kb).ok().stdout
    assert "[/] [bold]" in kblam("kb", "list", kb).ok().stdout
    kblam("kb", "remove", kb, "[/bold]").failed(2, "'[/bold]'")


def test_info(kb: Path) -> None:
    facts = kblam("kb", "info", kb, "--json").ok().json
    assert (facts["triples"], facts["encoder"], facts["dimension"]) == (3, "hashing:0", EMBEDDING_DIM)
    assert facts["bytes"] == kb.stat().st_size
    shown = kblam("kb", "info", kb).ok().stdout
    assert "hashing:0" in shown
    assert "fingerprint" in shown


@pytest.mark.parametrize("command", [["list"], ["info"], ["remove", "x"], ["add", "--name", "x", "--value", "y"]])
def test_a_missing_or_foreign_file_is_told(command: list[str], tmp_path: Path) -> None:
    kblam("kb", command[0], tmp_path / "none.kb", *command[1:]).failed(2, "there is no knowledge base")
    text = tmp_path / "text.kb"
    text.write_text("not a database, but long enough to be read as a header of one hundred bytes; " * 3)
    kblam("kb", command[0], text, *command[1:]).failed(2, "is not a knowledge base")
    kblam("kb", command[0], tmp_path, *command[1:]).failed(2, "is a folder", "did you mean", "text.kb?")


def test_a_model_folder_stands_for_its_knowledge_base(hashing: HashingEncoder, model_folder: Path) -> None:
    kblam("kb", "add", model_folder, "--name", "New Tower", "--value", "tall").ok()
    assert kblam("kb", "info", model_folder, "--json").ok().json["triples"] == 4


def test_check_says_whether_a_file_is_whole(kb: Path) -> None:
    assert f"{kb}: 3 triples, all as written" in kblam("kb", "check", kb).ok().stdout
    assert kblam("kb", "check", kb, "--json").ok().json["checksums"] is True
    other = sqlite3.connect(kb)
    other.execute("UPDATE triples SET value = 'another' WHERE id = 2")
    other.commit()
    other.close()
    kblam("kb", "check", kb).failed(2, "the texts of triple 2 have a wrong checksum", "restore it from a copy")
