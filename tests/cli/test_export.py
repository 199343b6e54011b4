"""kblam data export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam import KnowledgeBase, Triple
from kblam.data.exporting import BASE_SUFFIXES, FORMS
from tests.cli.conftest import ENCODER, kblam


def test_a_base_is_written_for_others(
    kb: Path, facts_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kblam("data", "export", kb, "-o", tmp_path / "a.ttl").ok()
    assert run.stdout == ""
    assert "a.ttl: 3 triples" in run.stderr
    kblam("data", "export", kb, "-o", tmp_path / "a.ttl").failed(2, "--overwrite replaces it")
    kblam("data", "export", facts_file, "-o", tmp_path / "a.ttl", "--overwrite").ok()
    kblam("data", "export", kb, "-o", tmp_path / "a.xyz").failed(2, "cannot tell the format")
    monkeypatch.setattr("kblam.knowledge.TripleFile", None)  # nothing is read for what cannot be written
    for name, told in (
        ("a.xyz", "cannot tell the format"),
        ("a.ttl", "--overwrite"),
        ("no/a.md", "there is no folder"),
    ):
        kblam("data", "export", facts_file, "-o", tmp_path / name).failed(2, told)
    kblam("data", "export", kb, "-o", tmp_path / "b.ttl", "--splits", "a=1").failed(2, "choose their form with --as")


def test_what_ids_in_rdf_begin_with_is_chosen(kb: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.nt"
    kblam("data", "export", kb, "-o", file, "--base-iri", "https://data.example/").ok()
    lines = file.read_text().splitlines()
    assert [line for line in lines if line.startswith("<https://data.example/thing/")]
    assert all(line.startswith("<https://data.example/") for line in lines)
    kblam("data", "export", kb, "-o", tmp_path / "b.nt", "--base-iri", "data").failed(2, "'data' cannot be what IRIs")


def test_a_base_without_example_questions_says_where_questions_come_from(kb: Path, tmp_path: Path) -> None:
    asked = kblam("data", "export", kb, "-o", tmp_path / "set.jsonl", "--as", "ragas")
    asked.failed(2, "has an example question; kblam data questions", "-o questions.jsonl asks about any base")
    assert not (tmp_path / "set.jsonl").exists()


def test_example_questions_become_a_set_with_splits(tmp_path: Path) -> None:
    with KnowledgeBase.create(tmp_path / "q.kb", ENCODER) as made:
        made.add([Triple(f"n{at}", "p", "v", question=f"q{at}?", answer="v") for at in range(20)])
    out = tmp_path / "set.jsonl"
    told = kblam(
        "data", "export", tmp_path / "q.kb", "-o", out, "--as", "alpaca", "--splits", "train=0.5,test=0.5"
    ).ok()
    assert "set-train.jsonl: " in told.stderr
    lines = [line for name in ("train", "test") for line in (tmp_path / f"set-{name}.jsonl").read_text().splitlines()]
    assert len(lines) == 20
    assert json.loads(lines[0])["output"] == "v"
    told = (
        kblam("data", "export", tmp_path / "set-train.jsonl", "-o", tmp_path / "m.json", "--as", "messages").ok().stderr
    )
    assert (
        "not written: contexts (--with-contexts writes them), kind, group, sources and names, for which messages"
        in told
    )
    assert "messages" in json.loads((tmp_path / "m.json").read_text())[0]
    kblam("data", "export", tmp_path / "q.kb", "-o", out, "--as", "plain", "--splits", "a").failed(2, "is no split")


EMPTY = {"e.jsonl": "", "e.json": "[]", "e.csv": "name,property,value\n", "blank.csv": "", "blank.json": " \n"}


@pytest.mark.parametrize("name", EMPTY)
def test_a_file_without_records_is_refused_by_name_whatever_is_to_be_written(tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    source.write_text(EMPTY[name])
    for suffix in BASE_SUFFIXES:
        kblam("data", "export", source, "-o", tmp_path / f"out{suffix}").failed(2, str(source), "record")
    for form in FORMS:
        kblam("data", "export", source, "-o", tmp_path / "out.json", "--as", form).failed(2, str(source), "record")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_base_without_triples_is_an_empty_file_of_each_kind(tmp_path: Path) -> None:
    source = tmp_path / "e.kb"
    KnowledgeBase.create(source, ENCODER).close()
    for suffix in BASE_SUFFIXES:
        run = kblam("data", "export", source, "-o", tmp_path / f"out{suffix}").ok()
        assert run.stderr.endswith(f"out{suffix}: 0 triples\n")
        assert (tmp_path / f"out{suffix}").is_file()
    for form in FORMS:
        kblam("data", "export", source, "-o", tmp_path / "no.json", "--as", form).failed(2, "e.kb", "no triple of")
    assert not (tmp_path / "no.json").exists()
