"""kblam data import: into a base and into a file, what is told, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam.knowledge import KnowledgeBase, read_triples
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder

NT = (
    '<http://e/a> <http://www.w3.org/2000/01/rdf-schema#label> "Ann" .\n'
    "<http://e/a> <http://e/worksAt> <http://e/Acme_Inc> .\n"
    '<http://e/a> <http://e/pet> "cat" .\n<http://e/a> <http://e/pet> "dog" .\n'
    '<http://e/a> <http://e/photo> "AA"^^<http://www.w3.org/2001/XMLSchema#hexBinary> .\n'
)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    file = tmp_path / "dump.nt"
    file.write_text(NT)
    return file


def test_a_dump_becomes_a_base_and_what_is_left_out_is_told(
    dump: Path, tmp_path: Path, hashing: HashingEncoder
) -> None:
    base = tmp_path / "facts.kb"
    run = kblam("data", "import", dump, "-o", base).ok()
    assert "2 triples (2 added, 0 updated, 0 unchanged) of 5 facts read" in run.stdout
    assert "1 x binary data, such as photo" in run.stderr
    assert "1 property has several values, which were joined" in run.stderr
    with KnowledgeBase.open(base) as kb:
        assert [(one.name, one.property, one.value) for one in kb.triples()] == [
            ("Ann", "works at", "Acme Inc"),
            ("Ann", "pet", "cat, dog"),
        ]
    assert kblam("data", "import", dump, "-o", base, "--json").ok().json["unchanged"] == 2


def test_a_file_of_triples_is_not_replaced_unasked(dump: Path, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    kblam("data", "import", dump, "-o", file).ok()
    assert [triple.value for triple in read_triples(file)] == ["Acme Inc", "cat, dog"]
    kblam("data", "import", dump, "-o", file).failed(2, "there is a file already; --overwrite")
    kblam("data", "import", dump, "-o", file, "--overwrite").ok()


def test_bad_rows_are_an_error_or_go_to_a_file(dump: Path, tmp_path: Path) -> None:
    dump.write_text(NT + "bad\n")
    file, bad = tmp_path / "facts.jsonl", tmp_path / "bad.jsonl"
    kblam("data", "import", dump, "-o", file).failed(2, f"{dump}:6: ")
    assert not file.exists()
    run = kblam("data", "import", dump, "-o", file, "--skip-bad", bad).ok()
    assert f"1 row that cannot be read is in {bad}" in run.stderr
    assert json.loads(bad.read_text())["line"] == 6


def test_ids_of_an_edge_list_are_named_by_another_table(tmp_path: Path) -> None:
    edges, nodes, file = (tmp_path / name for name in ("edges.csv", "nodes.csv", "facts.jsonl"))
    edges.write_text("source,relation,target\n1,works at,2\n")
    nodes.write_text("node,name\n1,Ann\n2,Acme\n")
    given = ("data", "import", edges, "--names", nodes, "-o", file)
    kblam(*given, "--id", "node").ok()
    (triple,) = read_triples(file)
    assert (triple.name, triple.property, triple.value) == ("Ann", "works at", "Acme")
    without = kblam(*given, "--overwrite")
    assert without.status == 2
    assert "there is no column 'id' with ids of the nodes" in without.stderr


def test_options_that_contradict_each_other(dump: Path, tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    kblam("data", "import", dump, "-o", file, "--strict").failed(2, "--strict leaves nothing out: 1 x binary data")
    kblam("data", "import", dump, "-o", file, "--strict", "--skip-bad", tmp_path / "b").failed(2, "contradict")
    kblam("data", "import", dump, "-o", file, "--encoder", "minilm").failed(2, "a file of triples")
    kblam("data", "import", dump, "-o", file, "--languages", "*").failed(2, "one that comes first")
    kblam("data", "import", dump, "-o", file, "--query", "x").failed(2, "a query is for databases")
    kblam("data", "import", dump, "-o", file, "--skip-bad", tmp_path / "x" / ".." / file.name).failed(2, "are one file")
    table = tmp_path / "a.csv"
    table.write_text("tree,height\nOak,3\n")
    kblam("data", "import", table, "-o", file).failed(2, "--map name=tree")


def test_an_interruption_says_what_is_kept(
    dump: Path, tmp_path: Path, hashing: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def stopped_on_the_way(*_: object, **__: object) -> None:
        (tmp_path / "f.kb").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("kblam.data.importing.import_into", stopped)
    for name in ("f.kb", "f.csv"):
        kblam("data", "import", dump, "-o", tmp_path / name).failed(130, "nothing was written")
    monkeypatch.setattr("kblam.data.importing.import_into", stopped_on_the_way)
    kblam("data", "import", dump, "-o", tmp_path / "f.kb").failed(130, "what was encoded before is kept")


def test_where_nothing_can_be_written_nothing_is_read(dump: Path, tmp_path: Path, hashing: HashingEncoder) -> None:
    dump.write_text("no RDF")
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    kblam("data", "import", dump, "-o", tmp_path / "no" / "f.kb").failed(1, "there is no folder")
    for name, told in (
        ("no/f.jsonl", "there is no folder"),
        ("there.jsonl", "--overwrite replaces it"),
        ("f.parquet", ".parquet is read, not written"),
    ):
        kblam("data", "import", dump, "-o", tmp_path / name).failed(2, told)
    kblam("data", "import", dump, "-o", tmp_path / "f.kb", "--skip-bad", tmp_path / "no" / "bad").failed(2, "no folder")
    dump.write_text(NT)
    kblam("data", "import", dump, "-o", tmp_path / "loop.jsonl").failed(2, "Too many levels of symbolic links")


def test_one_of_a_thing_is_not_told_in_the_plural(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("name,property,value\nOak,height,3\n")
    assert "1 triple of 1 fact read, in" in kblam("data", "import", table, "-o", tmp_path / "a.jsonl").ok().stdout
    table.write_text("name,property,value\nOak\n")
    kblam("data", "import", table, "-o", tmp_path / "b.jsonl").failed(2, ":2: 1 cell, but the header has 3")
    bad = tmp_path / "bad.jsonl"
    kblam("data", "import", table, "-o", tmp_path / "b.jsonl", "--skip-bad", bad).failed(2, "; 1 row cannot be read")
