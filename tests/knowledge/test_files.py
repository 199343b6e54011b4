from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kblam.errors import TripleFormatError
from kblam.knowledge.fields import MAX_FIELD_CHARACTERS
from kblam.knowledge.files import check_triples, read_triples, write_triples
from kblam.knowledge.sources import Source
from kblam.knowledge.triples import Triple
from tests.knowledge import strategies

A, B = Triple("A", "p", "one"), Triple("B", "description", "two")
SUFFIXES = ["json", "jsonl", "ndjson", "csv", "tsv"]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(items=st.lists(strategies.triples, max_size=6).map(strategies.unique))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_unicode_round_trips(tmp_path: Path, suffix: str, items: list[Triple]) -> None:
    path = tmp_path / f"kb.{suffix}"
    assert write_triples(path, items) == len(items)
    if items or suffix in ("json", "csv", "tsv"):  # an empty JSON Lines file is an empty file: an error
        assert list(read_triples(path)) == items
        assert check_triples(path) == len(items)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.json", '[{"name":"A","property":"p","value":"one"}, {"entity":"B","value":"two"}]', id="list"),
        pytest.param(
            "a.json",
            '{"version": [1, {}], "triples": [{"name":"A","property":"p","value":"one"},'
            '{"entity":"B","description":"two"}], "x": "y"}',
            id="object",
        ),
        pytest.param(
            "a.jsonl",
            '{"name":"A","description_type":"p","value":"one"}\n\n{"entity":"B","value":"two"}',
            id="jsonl-blank-line-and-no-end-of-line",
        ),
        pytest.param("a.csv", "name,property,value\r\nA,p,one\r\n,,\r\nB,,two\r\n", id="csv-blank-row"),
        pytest.param("a.csv", 'value;entity;"property";note\n"one";A;p;x\ntwo;B;;\n', id="semicolons"),
        pytest.param("a.tsv", "name\tproperty\tvalue\nA\tp\tone\nB\t\ttwo\n", id="tabs"),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_every_layout(tmp_path: Path, name: str, content: str, mark: bytes) -> None:
    assert list(read_triples(put(tmp_path, name, mark + content.encode()))) == [A, B]


BAD_FILES = [
    pytest.param("e.json", "", None, "the file is empty", id="empty-json"),
    pytest.param("e.jsonl", "\n \n", None, "the file is empty", id="blank-jsonl"),
    pytest.param("e.csv", b"\xef\xbb\xbf", None, "the file is empty", id="only-a-bom"),
    pytest.param("e.txt", "x", None, "cannot tell the format from 'e.txt'; name it .json", id="suffix"),
    pytest.param("e.json", "[\n{},\n", 2, "missing field", id="json-element"),
    pytest.param("e.json", '[\n{"name":"a","value":"b"}\n', 3, "ends before ','", id="json-cut"),
    pytest.param("e.json", '[{"name":"a",\n"value":"b}]', 2, "Unterminated string", id="json-cut-string"),
    pytest.param("e.json", '[\n\n{"name" "a"}]', 3, "Expecting ':'", id="json-syntax"),
    pytest.param("e.json", "3", 1, "expected a list of triples", id="json-number"),
    pytest.param("e.json", '{"a": 1}', 1, 'no list "triples"', id="json-object"),
    pytest.param("e.json", '{"triples": {}}', 1, 'no list "triples"', id="json-triples-not-a-list"),
    pytest.param("e.json", '{"name":"a","value":"b"}\n{"a": 2}', 2, "missing field", id="json-lines-in-json"),
    pytest.param("e.json", '{"name":"a","value":"b"}\n[]', 2, "expected another object", id="json-lines-then-a-list"),
    pytest.param("e.json", '[{"name":"a","value":"b"}]\n{}', 2, "more text after the end", id="json-list-then-more"),
    pytest.param(
        "e.jsonl", '{"name":"a","value":"b","value":"c"}', 1, '"value" stands twice in one object', id="jsonl-key-twice"
    ),
    pytest.param(
        "e.json", '[{"name":"a","x":{"y":1,"y":1},"value":"b"}]', 1, '"y" stands twice', id="json-inner-key-twice"
    ),
    pytest.param(
        "e.tsv", 'name\tvalue\nOak\t"6 ft\nElm\t9 ft"\nAsh\t7 ft\n', 2, "takes 1 more line into", id="tsv-stray-quotes"
    ),
    pytest.param("e.csv", b"name,value\na,b\n\xef\xbb\xbfname,value\nc,d\n", 3, "byte order mark inside", id="two-csv"),
    pytest.param("e.csv", "name,value\na,b\nname, value\nc,d\n", 3, "header stands here again", id="two-csv-no-mark"),
    pytest.param("e.jsonl", b'{"name":"a","value":"b"}\n\xef\xbb\xbf{}', 2, "not JSON", id="two-jsonl"),
    pytest.param(
        "e.jsonl", json.dumps({"name": "a" + "\u0301" * 300, "value": "b"}), 1, "combining marks", id="combining-marks"
    ),
    pytest.param("e.json", "[" * 100_000, 1, "nested too deeply", id="json-deep"),
    pytest.param(
        "e.json", '[{"name":"a","value":' + "9" * 5000 + "}]", 1, "not JSON: Exceeds the limit", id="json-huge-number"
    ),
    pytest.param("e.jsonl", '{"name":"a","value":"b"}\n{"name"\n', 2, "not JSON", id="jsonl-syntax"),
    pytest.param("e.jsonl", '{"name":"a","value":"b"}\n[1]\n', 2, "got a list", id="jsonl-list"),
    pytest.param("e.jsonl", '{"name":"a","value":"b"}\n\n{"name":"c"}', 3, "missing field", id="jsonl-missing"),
    pytest.param("e.csv", "one,two\na,b\n", 1, "must name the columns", id="csv-header"),
    pytest.param("e.csv", "name,value,value\na,b,c\n", 1, "two columns have one name", id="csv-columns"),
    pytest.param("e.csv", "name,value\na,b\nc,d,e\n", 3, "3 cells, but the header has 2", id="csv-cells"),
    pytest.param("e.csv", 'name,value\n"a\nb",c\nd,"e', 4, "an unclosed quote?", id="csv-quote"),
    pytest.param("e.csv", 'name,value\n"a\nb",c\nd,\n', 4, "missing field", id="csv-after-two-lines"),
    pytest.param("e.csv", b"name,value\na,b\xff\n", 2, "byte 0xff is not UTF-8", id="latin-1"),
    pytest.param("e.json", b'[{"name":"a",\n"value":"\xe9"}]', 2, "byte 0xe9 is not UTF-8", id="json-latin-1"),
    pytest.param("e.jsonl", "é".encode("utf-16"), 1, "the file is UTF-16", id="utf-16"),
    pytest.param("e.csv", gzip.compress(b"name,value\n"), None, "the file is gzip; unpack it first", id="gzip"),
    pytest.param("e.jsonl", bz2.compress(b"{}"), None, "the file is bzip2; unpack it first", id="bzip2"),
    pytest.param("e.json", lzma.compress(b"{}"), None, "the file is xz; unpack it first", id="xz"),
    pytest.param("e.csv", b"\x28\xb5\x2f\xfd\0", None, "the file is zstd; unpack it first", id="zstd"),
    pytest.param("e.csv", b"SQLite format 3\0", None, "is an SQLite database", id="sqlite"),
    pytest.param("e.json", b"PK\x03\x04\x14\0", None, "a zip archive or a workbook; unpack it", id="zip"),
    pytest.param("e.tsv", b"%PDF-1.7\n", None, "is a PDF; kblam data extract makes triples", id="pdf"),
    pytest.param("e.csv", b"\x00\x01\x02", 1, "binary", id="binary"),
    pytest.param("e.json", b"\x01PK\x00", 1, "binary", id="binary-json"),
    pytest.param("e.jsonl", b"x" * (8 * 2**20 + 1), 1, "longer than 8,388,608 bytes", id="huge-line"),
    pytest.param(
        "e.jsonl", json.dumps({"name": "a", "value": "x" * (MAX_FIELD_CHARACTERS + 1)}), 1, "more than", id="huge-field"
    ),
    pytest.param("e.csv", 'name,value\na,"' + "x\n" * 100_000, 2, "an unclosed quote?", id="csv-runaway-quote"),
    pytest.param(
        "e.csv", 'name,value\na,"' + ("x" * 999 + "\n") * 9000, 2, "an unclosed quote?", id="csv-huge-runaway-quote"
    ),
]


@pytest.mark.parametrize(("name", "content", "line", "message"), BAD_FILES)
def test_bad_files_name_the_line(
    tmp_path: Path, name: str, content: str | bytes, line: int | None, message: str
) -> None:
    path = put(tmp_path, name, content)
    with pytest.raises(TripleFormatError, match=message) as caught:
        list(read_triples(path))
    assert caught.value.line == line
    assert str(caught.value).startswith(f"{path}: " if line is None else f"{path}:{line}: ")
    assert len(str(caught.value)) < 500 + len(str(path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(TripleFormatError, match="No such file"):
        check_triples(tmp_path / "none.json")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TripleFormatError, match="Is a directory"):
        check_triples(tmp_path / "folder.csv")


def test_writing_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(TripleFormatError, match="cannot write"):
        write_triples(tmp_path / "none" / "a.json", [A])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_contradiction_names_both_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_triples(path, [A, B, Triple("A", "p", "three")])
    shift = 0 if suffix.endswith(("jsonl", "ndjson")) else 1  # a header line, or an opening bracket
    with pytest.raises(TripleFormatError, match=rf"\('A', 'p'\) is on line {1 + shift} too") as caught:
        check_triples(path)
    assert caught.value.line == 3 + shift
    assert list(read_triples(path, duplicates="last")) == [B, Triple("A", "p", "three")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_fact_with_many_long_sources_is_read_back(tmp_path: Path, suffix: str) -> None:
    before = csv.field_size_limit(131_072)  # as Python has it, whatever other tests did
    told = Triple("Oak", "height", "20 m", sources=tuple(Source("a.pdf", f"{n} " + 'x "y" ' * 80) for n in range(600)))
    path = tmp_path / f"a.{suffix}"
    try:
        write_triples(path, [told, A])
        assert list(read_triples(path)) == [told, A]
    finally:
        csv.field_size_limit(max(before, csv.field_size_limit()))


def test_a_repeated_triple_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_triples(path, [A, B, A])
    assert list(read_triples(path)) == [A, B]
    assert list(read_triples(path, duplicates="last")) == [B, A]


def test_writing_over_the_file_being_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_triples(path, [A, B])
    write_triples(path, read_triples(path))
    assert list(read_triples(path)) == [A, B]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_reading_is_streamed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    value = "v" * 50_000
    write_triples(path, (Triple(f"n{i}", "p", value) for i in range(200)))
    assert path.stat().st_size > 10_000_000
    tracemalloc.start()
    check_triples(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_500_000


def test_triples_of_atlaskv_are_read(tmp_path: Path) -> None:
    # The shape that its dataset_generation/build_atlas_training_data.py writes; the words are ours.
    record = {
        "name": "Amber Falcon",
        "description_type": "sale",
        "description": "the company sold its last ship to a museum in Beryl after the war had ended",
        "Q": "What is the sale of Amber Falcon?",
        "A": "the sale of Amber Falcon is the company sold its last ship to a museum in Beryl after the war had ended",
        "key_string": "the sale of Amber Falcon",
        "extended_Q": "",
        "extended_A": "",
    }
    path = tmp_path / "atlas_wiki_qkv.json"
    path.write_text(json.dumps([record], ensure_ascii=False, indent=2))
    (triple,) = read_triples(path)
    assert triple.identity == ("Amber Falcon", "sale")
    assert triple.value == record["description"]
    assert triple.key_text == record["key_string"]
    assert (triple.question, triple.answer) == (record["Q"], record["A"])


def test_one_object_after_another_in_a_json_file_is_read(tmp_path: Path) -> None:
    """The shape that upstream's generator writes."""
    line = '{{"name": "{0}", "description_type": "purpose", "description": "to test", "Q": "q?", "A": "a."}}'
    for content in (f"{line.format('Oak')}\n{line.format('Elm')}\n", line.format("Oak") + line.format("Elm")):
        assert [triple.name for triple in read_triples(put(tmp_path, "a.json", content))] == ["Oak", "Elm"]
    (one,) = read_triples(put(tmp_path, "a.json", '{"name": "Oak",\n "value": "a tree"}'))
    assert one == Triple("Oak", "description", "a tree")


def test_all_facts_of_upstreams_raw_records_are_read(tmp_path: Path) -> None:
    raw = '{"name": "Oak", "description": "a tree", "objectives": "to grow", "purpose": "shade"}'
    expected = [("description", "a tree"), ("objectives", "to grow"), ("purpose", "shade")]
    for name, content in (
        ("a.jsonl", raw),
        ("a.json", f"[{raw}]"),
        ("a.csv", "name,description,objectives,purpose\nOak,a tree,to grow,shade\n"),
    ):
        path = put(tmp_path, name, content)
        assert [(triple.property, triple.value) for triple in read_triples(path)] == expected
        assert [triple.value for triple in read_triples(path, duplicates="last")] == [value for _, value in expected]


def test_fields_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "a.csv", "name,value,height,note\nOak,a tree,20 m,\nElm,a tree,30 m,\n")
    assert check_triples(path) == 2
    assert "fields that are no part of a triple were not read: 'height' (2 times)" in caplog.text
    assert "note" not in caplog.text


def test_tsv_with_quotes_that_quote(tmp_path: Path) -> None:
    path = put(tmp_path, "a.tsv", 'name\tvalue\nOak\t"6 ft\nand more"\nAsh\t"7 ft"\n')
    assert [triple.value for triple in read_triples(path)] == ["6 ft\nand more", "7 ft"]


def test_writing_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    write_triples(tmp_path / "link.jsonl", [A])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert list(read_triples(tmp_path / "real.jsonl")) == [A]
