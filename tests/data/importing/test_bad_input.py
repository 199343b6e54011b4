"""What cannot be read: where, why, what is told of it, and that nothing is written."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from pathlib import Path

import pyoxigraph
import pytest

from kblam.data.importing import BadRows, Reading, import_into, open_sources, stage
from kblam.data.importing.guards import JsonGuard
from kblam.errors import BadLinesError, DataError, TripleFormatError
from kblam.knowledge import Columns, KnowledgeBase, TripleFile
from tests.data.importing.reading import facts, read, written
from tests.fakes import HashingEncoder

GOOD = b'<http://e/a> <http://e/p> "1" .\n'
LAUGHS = '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>\n'


def test_bad_lines_of_n_triples_are_told_by_line_and_nothing_is_written(tmp_path: Path) -> None:
    lines = (
        GOOD
        + b"<http://e/a> <http://e/q> bad .\n"
        + b'<http://e/a> <http://e/r> "\xff" .\n'
        + GOOD.replace(b"/p>", b"/s>")
    )
    path = written(tmp_path / "a.nt", lines)
    target = tmp_path / "a.kb"
    with pytest.raises(BadLinesError) as caught:
        import_into(target, open_sources([str(path)]), HashingEncoder())
    assert caught.value.details[0].startswith("line 2: ")
    assert caught.value.details[1].startswith("line 3: ")
    assert "bad_rows=BadRows(FILE)" in str(caught.value)
    assert not target.exists()


def test_bad_rows_are_left_out_and_written_to_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nt", GOOD + b"<http://e/a> bad .\n" + GOOD.replace(b"/p>", b"/s>"))
    table = written(tmp_path / "b.csv", "name,property,value\nOak,color,green\nElm,,\n")
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(path), str(table)]), bad_rows=rows)
    rows.close()
    assert found == {("a", "p"): "1", ("a", "s"): "1", ("Oak", "color"): "green"}
    assert report.bad == 2
    told = [json.loads(line) for line in rows.path.read_text().splitlines()]
    assert [(each["file"], each["line"]) for each in told] == [(str(path), 2), (str(table), 3)]


def test_bad_rows_replace_only_bad_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "name,property,value\nOak,color,green\nElm,,\n")
    for _ in range(2):  # the same command again
        rows = BadRows(tmp_path / "bad.jsonl")
        read(open_sources([str(path)]), bad_rows=rows)
        rows.close()
    assert len(rows.path.read_text().splitlines()) == 1
    path.write_text("name,property,value\nOak,color,green\n")  # mended by now
    rows = BadRows(tmp_path / "bad.jsonl")
    read(open_sources([str(path)]), bad_rows=rows)
    rows.close()
    assert rows.path.read_text() == "", "rows of an earlier import are told as those of this one"
    for other in (path, written(tmp_path / "mine.jsonl", '{"name": "Oak"}\n'), written(tmp_path / "notes", b"\xff")):
        kept = other.read_bytes()
        with pytest.raises(TripleFormatError, match="no list of bad rows"):
            BadRows(other)
        assert other.read_bytes() == kept


def test_an_import_that_fails_before_its_first_bad_row_removes_none_of_an_earlier_one(tmp_path: Path) -> None:
    earlier = '{"file": "a.csv", "line": 2, "reason": "no value"}\n'
    kept = written(tmp_path / "bad.jsonl", earlier)
    rows = BadRows(kept)
    with pytest.raises(TripleFormatError, match="not an Excel workbook"):
        read(open_sources([str(written(tmp_path / "a.xlsx", b"no workbook"))]), bad_rows=rows)
    rows.close()
    assert kept.read_text() == earlier


def test_a_bad_line_does_not_have_its_whole_chunk_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.nt", b"x\n" * 1000 + GOOD)
    parse, lengths = pyoxigraph.parse, []
    monkeypatch.setattr(pyoxigraph, "parse", lambda text, syntax: (lengths.append(len(text)), parse(text, syntax))[1])
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(path)]), bad_rows=rows)
    rows.close()
    assert (found, report.bad) == ({("a", "p"): "1"}, 1000)
    assert sum(lengths) < 2 * path.stat().st_size


def test_a_bad_line_in_a_later_chunk_has_its_own_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.importing.rdf._CHUNK", 100)
    path = written(tmp_path / "a.nt", GOOD * 50 + b"bad\n" + GOOD * 50 + b"worse\n" + GOOD.strip())
    with pytest.raises(BadLinesError) as caught:
        facts(path)
    assert [detail.split(":")[0] for detail in caught.value.details] == ["lines 51, 102"] or [
        detail.split(":")[0] for detail in caught.value.details
    ] == ["line 51", "line 102"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_brackets_in_texts_are_no_depth(size: int, tmp_path: Path) -> None:
    text = json.dumps([{"[{" * 100: '\\"[{' * 60, "é": ["\\", "[[["]}] * 150).encode()
    guard = JsonGuard(tmp_path / "a.jsonld")
    for at in range(0, len(text) + size, size):
        guard.look(text[at : at + size])
    with pytest.raises(TripleFormatError, match="nested more than 200 deep"):
        guard.look(b'"[' * 2 + b"[" * 201)


def test_strict_refuses_what_would_be_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.nt", GOOD + b'<http://e/a> <http://e/b> "AA"^^<http://www.w3.org/2001/XMLSchema#hexBinary> .\n'
    )
    assert facts(path) == {("a", "p"): "1"}
    with pytest.raises(DataError, match="strict=True leaves nothing out: 1 x binary data, such as b"):
        read(open_sources([str(path)]), strict=True)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.ttl", "<http://e/a> <http://e/p> \n", "a.ttl:2: Unexpected end"),
        ("a.ttl", "\nex:a ex:p 1 .", "a.ttl:2: .*prefix"),
        ("a.nt", b"\xfe\xff\x00<", "a.nt:1: the file is UTF-16; save it as UTF-8"),
        ("a.nt", "", "no fact in it"),
        ("a.rdf", LAUGHS + "<x>&b;</x>", "declares entities"),
        ("a.rdf", "<a>" * 201, "a.rdf:1: nested more than 200 deep"),
        ("a.rdf", "<a></b>", "a.rdf:1: not XML: mismatched tag"),
        ("a.jsonld", '{"http://e/p":' * 201, "nested more than 200 deep"),
        ("a.ttl", f'<http://e/a> <http://e/p> "{"x" * 17_000_000}" .', "a text in it is too long"),
        ("a.graphml", LAUGHS + "<graphml>&b;</graphml>", "a.graphml:2: it declares entities"),
        ("a.graphml", "<graphml><graph>", "a.graphml:1: not XML: no element found"),
        ("a.graphml", "<html></html>", "outermost element is <html>"),
        ("a.graphml", "not XML", "a.graphml:1: not XML"),
        ("a.graphml", "<graphml>" + "<x>" * 101, "nested too deeply"),
        ("a.xlsx", "no zip", "not an Excel workbook"),
        ("a.parquet", "no parquet", "not a Parquet file"),
        ("a.lbug", "no database", "no database of ladybug"),
        ("a.nt.gz", "no gzip", "cannot be decompressed"),
        ("property_graph_store.json", "[]", "expected an object"),
        ("property_graph_store.json", '{"nodes": 1}', 'has "nodes" and "relations"'),
        ("a.csv", b"name,value\nOak,gr\xfcn\n", "a.csv:2: byte 0xfc is not UTF-8"),
        ("a.csv", "name,value\nOak,old\n".encode("utf-16-le"), "a.csv:1: a NUL byte: .* UTF-16 without its mark"),
        ("a.csv", "name,value\nOak,old\n".encode("utf-32"), "a.csv:1: the file is UTF-32"),
        ("a.ttl", GOOD.decode().encode("utf-16"), "a.ttl:1: the file is UTF-16"),
        ("a.jsonld", "{}".encode("utf-16"), "a.jsonld:1: the file is UTF-16"),
    ],
)  # fmt: skip
def test_files_that_are_something_else(tmp_path: Path, name: str, text: str | bytes, told: str) -> None:
    with pytest.raises((TripleFormatError, DataError), match=told):
        facts(written(tmp_path / name, text))


def test_a_compressed_bomb_is_found_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.importing.compressed.ALLOWED_BYTES", 2**16)
    monkeypatch.setattr("kblam.data.importing.compressed.LARGEST_RATIO", 50)
    path = tmp_path / "a.nt.gz"
    path.write_bytes(gzip.compress(GOOD * 10_000))
    with pytest.raises(TripleFormatError, match="a bomb"):
        facts(path)


def test_a_workbook_that_is_a_bomb_or_declares_entities_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b" " * 5_000_000)
    monkeypatch.setattr("kblam.knowledge.files.excel.ALLOWED_BYTES", 2**20)
    with pytest.raises(TripleFormatError, match=r"unpacked it has 5,000,000 bytes, .* a bomb"):
        facts(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", LAUGHS + "<workbook>&b;</workbook>")
    with pytest.raises(TripleFormatError, match=r"xl/workbook.xml declares entities"):
        facts(path)


def test_a_row_group_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"name": ["x" * 1000] * 10_000, "value": ["y"] * 10_000}), path, use_dictionary=False,
                   compression="zstd")  # fmt: skip
    monkeypatch.setattr("kblam.knowledge.files.parquet.ALLOWED_BYTES", 2**20)
    monkeypatch.setattr("kblam.knowledge.files.parquet.LARGEST_RATIO", 100)
    with pytest.raises(TripleFormatError, match="a row group unpacks to"):
        facts(path)


def test_a_line_without_an_end_is_refused_before_it_fills_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.data.importing.rdf._LONGEST_LINE", 1000)
    monkeypatch.setattr("kblam.data.importing.rdf._CHUNK", 100)
    with pytest.raises(TripleFormatError, match=r"a.nt:2: the line is longer"):
        facts(written(tmp_path / "a.nt", GOOD + b'<http://e/a> <http://e/p> "' + b"x" * 5000))


def test_an_import_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nt", b"".join(b'<http://e/n%d> <http://e/p> "%d" .\n' % (n, n) for n in range(30)))
    target = tmp_path / "a.kb"
    encoder = HashingEncoder()

    def stop(done: int, total: int) -> None:
        if total and done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_into(target, open_sources([str(path)]), encoder, batch_size=10, progress=stop)
    with KnowledgeBase.open(target, encoder) as kb:
        assert len(kb) == 20
        kb.check()
    report = import_into(target, open_sources([str(path)]), encoder, batch_size=10)
    assert report.build is not None
    assert (report.build.added, report.build.unchanged) == (10, 20)


def test_a_disk_without_room_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.importing.stage._SCHEMA", "PRAGMA max_page_count = 20;" + stage._SCHEMA)
    path = written(
        tmp_path / "a.nt", b"".join(b'<http://e/n%d> <http://e/p> "%0200d" .\n' % (n, n) for n in range(3000))
    )
    with pytest.raises(DataError, match="SQLITE_TMPDIR"):
        facts(path)


@pytest.mark.parametrize("name", ["a.ttl", "a.nt", "a.jsonld", "a.nt.gz"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path, name: str) -> None:
    text = '{"@id": "http://e/a", "http://e/p": "1"}' if name == "a.jsonld" else GOOD.decode()
    raw = b"\xef\xbb\xbf" + text.encode()
    assert facts(written(tmp_path / name, gzip.compress(raw) if name.endswith("gz") else raw)) == {("a", "p"): "1"}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("a.csv", [b"name,property,value", b"Oak,h,1", b"O\0k,h,2", b"Elm,h,3"]),
        ("a.jsonl", [b"", b'["Oak", "h", "1"]', b'["O\0k", "h", "2"]', b'["Elm", "h", "3"]']),
    ],
)
def test_a_row_with_a_nul_says_nothing_about_the_others(tmp_path: Path, name: str, rows: list[bytes]) -> None:
    bad = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(written(tmp_path / name, b"\n".join(rows)))]), bad_rows=bad)
    bad.close()
    assert (found, report.bad) == ({("Oak", "h"): "1", ("Elm", "h"): "3"}, 1)
    assert '"line": 3, "reason": "a NUL byte' in bad.path.read_text()


def test_what_is_no_file_is_refused_before_anything_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    edges = written(tmp_path / "edges.csv", "source,relation,target\na,b,c\n")
    for open_it in (
        lambda: open_sources([str(tmp_path / "pipe.csv")]),
        lambda: open_sources([str(edges)], nodes=tmp_path / "pipe.csv"),
        lambda: TripleFile(tmp_path / "pipe.csv"),
    ):
        with pytest.raises(TripleFormatError, match=r"pipe.csv: it is no file but a pipe"):
            open_it()
    with pytest.raises(TripleFormatError, match="cannot read: Too many levels of symbolic links"):
        open_sources([str(tmp_path / "loop.csv")])


LONG = "".join(f'<http://e/a> <http://e/p> "{letter * 600}" .\n' for letter in "xy").encode()


def test_strict_refuses_values_that_would_become_too_long(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nt", LONG)
    target = tmp_path / "a.jsonl"
    with pytest.raises(DataError, match=r"leaves nothing out: 1 x a further value of one property, beyond 1,000"):
        import_into(target, open_sources([str(path)]), strict=True)
    assert not target.exists()


def test_losses_are_counted_once_however_often_triples_are_read(tmp_path: Path) -> None:
    with Reading(open_sources([str(written(tmp_path / "a.nt", LONG))])) as reading:
        for _ in range(2):
            assert len(list(reading.triples())) == 1
        assert reading.report.dropped == {"a further value of one property, beyond 1,000 characters": 1}


def test_what_only_one_of_joined_values_can_have_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "MOST_SOURCES", 2)
    rows = [
        {"name": "Oak", "property": "use", "value": value, "question": "What for?", "answer": answer,
         "sources": [{"document": f"{value}.md", "quote": "is used"}]}
        for value, answer in (("ships", "Ships."), ("casks", "Casks."), ("ships", "Ships."), ("beams", "Beams."))
    ]  # fmt: skip
    found, report = read(open_sources([str(written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))]))
    assert found == {("Oak", "use"): "ships, casks, beams"}
    assert report.dropped == {
        "an example question, or a key text, of a further value of one property": 2,
        "a source beyond the 2 that a triple has": 1,
    }


def test_a_second_name_of_one_id_is_counted(tmp_path: Path) -> None:
    edges = written(tmp_path / "edges.csv", "source,relation,target\n1,knows,2\n")
    nodes = written(tmp_path / "nodes.csv", "id,name\n1,Ann\n2,Bo\n1,Anna\n2,Bo\n")
    found, report = read(open_sources([str(edges)], nodes=nodes))
    assert (found, report.dropped) == ({("Ann", "knows"): "Bo"}, {"a further name of a thing": 1})


def test_columns_are_of_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns are chosen in tables"):
        open_sources([str(written(tmp_path / "a.nt", GOOD))], columns=Columns(name="x"))
