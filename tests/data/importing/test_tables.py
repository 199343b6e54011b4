"""Tables: wide and long, Excel, Parquet, edge lists with names, GraphRAG's tables, others' data sets."""

from __future__ import annotations

import datetime
import io
import json
import sys
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kblam.data.importing import BadRows, Reading, open_sources
from kblam.errors import BadLinesError, DataError, MissingPackageError, TripleFormatError
from kblam.knowledge import Columns, Triple, TripleFile
from kblam.knowledge.files import located_triples
from kblam.knowledge.files.arrow import cells_of
from kblam.knowledge.files.sheet_parts import letters, parts_of
from kblam.knowledge.records import RecordReader
from tests.data.importing.reading import facts, read, written
from tests.timing import is_done_within

openpyxl = pytest.importorskip("openpyxl")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def workbook(path: Path, *sheets: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets, start=1):
        sheet = book.create_sheet(f"S{number}")
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("indent", [None, 1])
def test_nodes_on_one_line_are_told_apart(tmp_path: Path, indent: int | None) -> None:
    nodes = [
        {"id": "n0", "name": "Ann", "age": 30},
        {"id": "n1", "name": "Acme", "founded": 1999},
        {"id": "n2", "name": "Acme", "founded": 2001},
        {"id": "", "name": "Nobody", "age": 3},
    ]
    names = written(tmp_path / "nodes.json", json.dumps(nodes, indent=indent))
    edges = written(tmp_path / "edges.csv", "source,relation,target\nn0,works at,n1\n")
    found, report = read(open_sources([str(edges)], nodes=names))
    assert found == {
        ("Ann", "works at"): "Acme (n1)",
        ("Ann", "age"): "30",
        ("Acme (n1)", "founded"): "1999",
        ("Acme (n2)", "founded"): "2001",
    }
    assert report.dropped == {"a node without an id": 1}


def test_an_id_that_nothing_names_stands_as_it_is_unless_it_is_an_iri(tmp_path: Path) -> None:
    names = written(tmp_path / "nodes.csv", "id,name,age\n1,Ann,30\n")
    text = """source,relation,target
    AC/DC,plays at,12:30
    GO:0008150,part of,Batman: The Movie
    hello_world,holds,100%25
    1,likes,http://x.org/New_York
    http://x.org/New_York,mayor,1
    """
    found, report = read(open_sources([str(written(tmp_path / "edges.csv", text))], nodes=names))
    assert found == {
        ("AC/DC", "plays at"): "12:30",
        ("GO:0008150", "part of"): "Batman: The Movie",
        ("hello_world", "holds"): "100%25",
        ("Ann", "likes"): "New York",
        ("New York", "mayor"): "Ann",
        ("Ann", "age"): "30",
    }
    assert report.unnamed == 4


def test_an_id_is_one_however_its_accents_are_written(tmp_path: Path) -> None:
    apart, composed = "Cafe\u0301", "Caf\u00e9"
    names = written(tmp_path / "nodes.csv", f"id,name,age\n{apart},Ann,30\n")
    edges = written(tmp_path / "edges.csv", f"source,relation,target\n{apart},knows,{composed}\nBo,knows,{apart}\n")
    found, _ = read(open_sources([str(edges)], nodes=names))
    assert found == {("Ann", "knows"): "Ann", ("Bo", "knows"): "Ann", ("Ann", "age"): "30"}


def test_a_row_of_blanks_above_the_header_is_no_header(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [[" ", "  "], ["name", "color"], ["Oak", "green"]])
    assert facts(path) == {("Oak", "color"): "green"}


def test_a_wide_sheet_is_read_with_its_dates_and_formats(tmp_path: Path) -> None:
    path = tmp_path / "trees.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Tree", "Height", "Planted", "Share", "Price", "Old", "Note"])
    sheet.append(["Oak", 20.5, datetime.date(2001, 2, 3), 0.125, 7, True, None])
    sheet.append([])
    sheet.append(["Elm", None, datetime.datetime(2001, 2, 3, 4, 5), 1, None, None, "  "])
    for cell, number_format in (("B2", '0.0" m"'), ("D2", "0.0%"), ("D4", "0%"), ("E2", "[$€-407] #,##0")):
        sheet[cell].number_format = number_format
    book.save(path)
    assert facts(path, columns=Columns(name="Tree")) == {
        ("Oak", "Height"): "20.5 m",
        ("Oak", "Planted"): "2001-02-03",
        ("Oak", "Share"): "12.5%",
        ("Oak", "Price"): "€ 7",
        ("Oak", "Old"): "true",
        ("Elm", "Planted"): "2001-02-03 04:05:00",
        ("Elm", "Share"): "100%",
    }


def test_a_number_of_a_sheet_is_what_excel_shows(tmp_path: Path) -> None:
    """The digits that another program wrote, beyond those that Excel holds, are not shown."""
    path = workbook(tmp_path / "a.xlsx", [["name", "ZIP", "sum"], ["Oak", 1234, 3.25]])
    book = openpyxl.load_workbook(path)
    book.active["B2"].number_format = "00000"
    book.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    parts[sheet] = parts[sheet].replace(b"3.25", b"3.3000000000000003")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert facts(path) == {("Oak", "ZIP"): "01234", ("Oak", "sum"): "3.3"}


def test_each_sheet_has_a_header_of_its_own_and_errors_name_sheet_and_row(tmp_path: Path) -> None:
    good, bad = [["name", "color"], ["Oak", "green"]], [["name", "age"], ["Elm", 3], [None, 4], ["Fir", 5, "beside"]]
    path = workbook(tmp_path / "a.xlsx", good, bad)
    with pytest.raises(
        BadLinesError, match=r"line 3: sheet 'S2': missing field \"name\".*line 4: sheet 'S2': a cell stands beside"
    ):
        facts(path)
    assert [triple.value for triple in TripleFile(path, skip_bad=True)] == ["green", "3"]


def test_a_contradiction_of_two_sheets_names_both(tmp_path: Path) -> None:
    rows = [["name", "height"], ["Oak", 20], ["Elm", 9]]
    path = workbook(tmp_path / "a.xlsx", rows, [["name", "height"], ["Oak", 21]])
    with pytest.raises(
        TripleFormatError, match=r"a.xlsx:2: sheet 'S2': \('Oak', 'height'\) is on line 2 of sheet 'S1' too"
    ):
        list(TripleFile(path))
    path = workbook(tmp_path / "b.xlsx", rows, [["name", "height"], ["Fir", 21], ["Fir", 22]])
    with pytest.raises(TripleFormatError, match=r"b.xlsx:3: sheet 'S2': \('Fir', 'height'\) is on line 2 too"):
        list(TripleFile(path))
    path = workbook(tmp_path / "c.xlsx", [*rows, ["Elm", 8]])
    with pytest.raises(TripleFormatError, match=r"c.xlsx:4: \('Elm', 'height'\) is on line 3 too"):
        list(TripleFile(path))


def test_a_sheet_that_is_no_table_is_one_bad_row(tmp_path: Path) -> None:
    """Of several; left out when the user says so, and said."""
    notes = [["Remarks", "Remarks"], ["see Ann", ""]]
    path = workbook(tmp_path / "a.xlsx", notes, [["name", "color"], ["Oak", "green"]])
    with pytest.raises(TripleFormatError, match="1: sheet 'S1': two columns have one name"):
        facts(path)
    assert [triple.value for triple in TripleFile(path, skip_bad=True)] == ["green"]
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(path)]), bad_rows=rows)
    assert (found, report.bad) == ({("Oak", "color"): "green"}, 1)
    with pytest.raises(TripleFormatError, match="two columns have one name"):
        facts(workbook(tmp_path / "b.xlsx", notes))


def test_several_values_and_types_of_parquet_survive(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet",
        name=["Oak", "Elm"],
        height=pa.array([20.1, None], pa.float32()),
        price=[Decimal("1.50"), None],
        planted=[datetime.date(2001, 2, 3), None],
        seen=pa.array([datetime.datetime(2001, 2, 3, 4, 5), None], pa.timestamp("s", "UTC")),
        uses=[["ships", "casks"], []],
        size=[{"leaf": 3}, None],
        score=[float("nan"), 2.0],
        photo=[b"\x89PNG", None],
    )
    found, report = read(open_sources([str(path)]))
    assert found == {
        ("Oak", "height"): "20.1",
        ("Oak", "price"): "1.50",
        ("Oak", "planted"): "2001-02-03",
        ("Oak", "seen"): "2001-02-03 04:05:00+00:00",
        ("Oak", "uses"): "ships, casks",
        ("Oak", "size leaf"): "3",
        ("Elm", "score"): "2",
    }
    assert report.dropped == {"a cell of a column that is no part of a fact": 1}


def test_a_cell_far_away_makes_no_row_wide(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["name", "use"])
    for row, column, text in ((3, 16_384, "far"), (200_000, 1, "Oak"), (200_000, 2, "ships")):
        book.active.cell(row, column, text)
    book.save(tmp_path / "a.xlsx")

    def reads() -> None:
        assert [one.value for one in TripleFile(tmp_path / "a.xlsx", skip_bad=True)] == ["ships"]

    assert is_done_within(30, reads)  # 200,000 rows of 16,384 cells take minutes


def test_two_columns_of_parquet_with_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array([text]) for text in ("Oak", "green", "red")]
    pq.write_table(pa.Table.from_arrays(columns, names=["name", "color", "color"]), tmp_path / "a.parquet")
    with pytest.raises(TripleFormatError, match=r'a\.parquet: two columns have one name: "color"'):
        facts(tmp_path / "a.parquet")


def test_values_of_one_property_in_several_rows_are_joined(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.csv", "subject,predicate,object\nOak,use,ships\nElm,use,carts\nOak,use,casks\nOak,use,ships\n"
    )
    found, report = read(open_sources([str(path)]))
    assert found == {("Oak", "use"): "ships, casks", ("Elm", "use"): "carts"}
    assert (report.read, report.triples, report.several, report.repeated) == (4, 2, 1, 1)


def test_an_edge_list_is_named_by_a_table_of_nodes(tmp_path: Path) -> None:
    edges = written(tmp_path / "edges.csv", "source,type,target\n1,works at,2\n3,works at,2\n1,knows,9\n")
    nodes = written(tmp_path / "nodes.csv", "id,name,city\n1,Ann,Oslo\n2,Acme,\n3,Ann,Rome\n")
    found, report = read(open_sources([str(edges)], nodes=nodes))
    assert found == {
        ("Ann (1)", "works at"): "Acme",
        ("Ann (1)", "knows"): "9",
        ("Ann (1)", "city"): "Oslo",
        ("Ann (3)", "works at"): "Acme",
        ("Ann (3)", "city"): "Rome",
    }
    assert report.told_apart == 2
    with pytest.raises(TripleFormatError, match="no column 'key'"):
        read(open_sources([str(edges)], nodes=nodes, id_column="key"))


def test_tables_of_graphrag(tmp_path: Path) -> None:
    parquet(
        tmp_path / "entities.parquet",
        id=["e1", "e2"],
        human_readable_id=[0, 1],
        title=["ACME", "ANN"],
        type=["ORGANIZATION", ""],
        description=["Acme makes casks", "Ann leads Acme"],
        text_unit_ids=[["t1"], ["t2", "t3"]],
        degree=[1, 1],
    )
    parquet(
        tmp_path / "relationships.parquet",
        id=["r1"],
        human_readable_id=[0],
        source=["ANN"],
        target=["ACME"],
        description=["Ann has led Acme since 1999"],
        weight=[2.0],
        text_unit_ids=[["t1"]],
    )
    found, report = read(open_sources([str(tmp_path)]))
    assert found == {
        ("ACME", "type"): "ORGANIZATION",
        ("ACME", "description"): "Acme makes casks",
        ("ANN", "description"): "Ann leads Acme",
        ("ANN", "relation to ACME"): "Ann has led Acme since 1999",
    }
    assert sum(report.dropped.values()) == 8 + 4


def test_a_relationship_of_graphrag_may_have_no_description(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "relationships.parquet",
        human_readable_id=[0, 1, 2, 3],
        source=["ANN", "ACME", "BO", None],
        target=["ACME", "OSLO", None, "ACME"],
        description=["", None, "Bo left", "somebody left"],
    )
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(path)]), bad_rows=rows)
    rows.close()
    assert found == {("ANN", "related to"): "ACME", ("ACME", "related to"): "OSLO"}
    assert report.bad == 2
    assert [json.loads(line)["line"] for line in rows.path.read_text().splitlines()] == [3, 4]
    assert "'BO' has nothing in the column 'target'" in rows.path.read_text()


def test_data_sets_of_upstream_and_of_atlaskv(tmp_path: Path) -> None:
    enron = [{"name": "Oak Deal", "description_type": "purpose", "description": "to sell", "Q": "Why?", "A": "to sell",
              "key_string": "the purpose of Oak Deal", "extended_Q": "", "extended_A": ""}]  # fmt: skip
    path = written(tmp_path / "enron.json", json.dumps(enron))
    source = open_sources([str(path)])
    with Reading(source) as reading:
        (triple,) = reading.triples()
    assert triple.to_record() == {
        "name": "Oak Deal",
        "property": "purpose",
        "value": "to sell",
        "key_string": "the purpose of Oak Deal",
        "question": "Why?",
        "answer": "to sell",
    }
    atlas = written(tmp_path / "atlas.csv", "head,tail,relation\nThe Oak Deal,ten ships,is paid with\n")
    assert facts(atlas) == {("The Oak Deal", "is paid with"): "ten ships"}


def test_a_table_without_the_mapped_column_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "tree,height\nOak,3\n")
    with pytest.raises(TripleFormatError, match=r"a.csv:1: there is no column 'Treee'") as caught:
        facts(path, columns=Columns(name="Treee"))
    assert 'the columns: "tree", "height"' in str(caught.value)
    table = parquet(tmp_path / "a.parquet", tree=["Oak"], height=[3])
    with pytest.raises(TripleFormatError, match=r"a.parquet: there is no column 'Treee'"):
        facts(table, columns=Columns(name="Treee"))


def test_sources_that_are_named_twice_or_unknown_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "name,color\nOak,green\n")
    with pytest.raises(DataError, match="named twice"):
        open_sources([str(path), str(path)])
    with pytest.raises(DataError, match="nothing is fetched"):
        open_sources(["https://example.org/a.ttl"])
    with pytest.raises(TripleFormatError, match="cannot tell the format"):
        open_sources([str(written(tmp_path / "a.doc", "x"))])
    with pytest.raises(TripleFormatError, match="none of the files that are known"):
        open_sources([str(tmp_path)])
    with pytest.raises(DataError, match="a query is for databases"):
        open_sources([str(path)], query="MATCH (n) RETURN n")


def test_two_sources_make_one_base_and_say_what_both_say_once(tmp_path: Path) -> None:
    one = written(tmp_path / "a.csv", "name,color\nOak,green\n")
    two = written(tmp_path / "b.csv", "name,color,age\nOak,green,3\n")
    found, report = read(open_sources([str(one), str(two)]))
    assert found == {("Oak", "color"): "green", ("Oak", "age"): "3"}
    assert report.repeated == 1


def test_a_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, extra in (("openpyxl", "a.xlsx", "tables"), ("pyarrow", "a.parquet", "tables"),
                                ("pyoxigraph", "a.nt", "rdf"), ("ladybug", "a.lbug", "graphs")):  # fmt: skip
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingPackageError, match=rf"{module} is not installed; pip install .*\[{extra}\]"):
            facts(written(tmp_path / name, "x"))


def test_a_merged_cell_stands_in_each_row_that_it_covers(tmp_path: Path) -> None:
    path = tmp_path / "trees.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["name", "property", "value", "place"], ["Oak", "height", 20, "north"],
                [None, "age", 90, None], ["Elm", "height", 9, None], [None, "age", 7, "south"]):  # fmt: skip
        sheet.append(row)
    for cells in ("A2:A3", "D2:D4", "A4:A5"):
        sheet.merge_cells(cells)
    book.save(path)
    reader = RecordReader()
    found = [found for _, found in located_triples(path, reader)]
    assert [(one.name, one.property, one.value) for one in found if isinstance(one, Triple)] == [
        ("Oak", "height", "20"),
        ("Oak", "age", "90"),
        ("Elm", "height", "9"),
        ("Elm", "age", "7"),
    ]
    assert "read merged cells in each of their rows (4 times)" in reader.notes()


def test_a_title_above_the_names_of_the_columns_is_told(tmp_path: Path) -> None:
    rows = [["Staff of 2024", None], [None, None], ["Name", "Born"], ["Ann", 1980]]
    book = workbook(tmp_path / "a.xlsx", rows)
    text = written(tmp_path / "a.csv", "Staff of 2024,\n,\nName,Born\nAnn,1980\n")
    for path in (book, text):
        for columns in (None, Columns(name="Name")):
            with pytest.raises(TripleFormatError, match=r":1: .*further down, remove what is above them$"):
                facts(path, columns=columns)
    other = written(tmp_path / "b.csv", "Person,Born\nAnn,1980\n")
    with pytest.raises(TripleFormatError, match=r"b.csv:1: [^;]*; in a file without [^;]*$"):
        facts(other)


def test_a_formula_without_its_result_is_told(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx", [["name", "h", "note"], ["Oak", 2, "=B2"], ["Elm", "=B2*2", None], ["Ash", 3, None]]
    )
    with pytest.raises(BadLinesError, match=r"line 3: the cell B3 holds a formula without its result; open it"):
        facts(path)
    with pytest.raises(TripleFormatError, match=r"a.xlsx:3: the cell B3 holds a formula"):
        facts(path, columns=Columns(name="name", ignore=("note",)))


def test_the_result_0_of_a_program_that_does_not_calculate_is_none(tmp_path: Path) -> None:
    """XlsxWriter, and so pandas, writes it for every formula, and has the workbook calculated when it is opened."""
    bare = workbook(tmp_path / "bare.xlsx", [["name", "h"], ["Oak", "=1+1"], ["Elm", 0], ["Ash", "=2*3"]])
    for name, later in (("written.xlsx", True), ("saved.xlsx", False)):
        with zipfile.ZipFile(bare) as old, zipfile.ZipFile(tmp_path / name, "w") as new:
            for part in old.namelist():
                text = old.read(part).decode()
                assert ('fullCalcOnLoad="1"' in text) == (part == "xl/workbook.xml")
                text = text.replace("<f>1+1</f><v />", "<f>1+1</f><v>0</v>").replace("<v />", "<v>6</v>")
                new.writestr(part, text if later else text.replace('fullCalcOnLoad="1"', ""))
    with pytest.raises(TripleFormatError, match=r"written.xlsx:2: the cell B2 holds a formula without its result"):
        facts(tmp_path / "written.xlsx")
    assert facts(tmp_path / "saved.xlsx") == {("Oak", "h"): "0", ("Elm", "h"): "0", ("Ash", "h"): "6"}


def test_characters_that_a_workbook_escapes_are_read_as_themselves(tmp_path: Path) -> None:
    rows = [["name", "said_x000D_\nby"], ["Oak", "a_x000D_\nb"], ["Elm", "_x005F_x000D_ _xD83D_ _x12_"]]
    path = workbook(tmp_path / "a.xlsx", rows)
    found = facts(path)
    assert found[("Oak", "said\r\nby")] == "a\r\nb"
    assert found[("Elm", "said\r\nby")] == "_x000D_ _xD83D_ _x12_"


@pytest.mark.parametrize("size", [1, 7, 64, 2**20])
def test_a_sheet_is_gone_through_in_blocks_of_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.knowledge.files.sheet_parts._CHUNK", size)
    sheet = (
        b'<sheetData><row r="2"><c r="B2"><f>A1>3</f><v></v></c><c r="C2" t="str"><f>x</f><v></v></c></row>'
        b'<row r="3"><x:c s="1" r="AA3"><x:f t="shared" si="0"/></x:c><c r="D3"><f>1</f><v>1</v></c></row></sheetData>'
        b'<mergeCells><mergeCell ref="B4:C4"/><mergeCell ref="B5:C9"/><mergeCell ref="A2:A3"/></mergeCells>'
    )
    parts = parts_of(io.BytesIO(sheet))
    assert (parts.unsolved, parts.below) == ({2: [2], 3: [27]}, [(1, 2, 3), (2, 5, 9)])
    zeros = sheet.replace(b"<v></v></c><c", b"<v>0</v></c><c").replace(b"<v></v>", b"<v>0</v>")
    assert parts_of(io.BytesIO(zeros)).unsolved == {3: [27]}
    assert parts_of(io.BytesIO(zeros), calculated_later=True).unsolved == {2: [2], 3: [27]}
    assert [letters(column) for column in (1, 26, 27, 702, 703)] == ["A", "Z", "AA", "ZZ", "AAA"]


def test_maps_and_times_that_python_has_no_kind_for(tmp_path: Path) -> None:
    pairs = pa.array([[("age", "90"), ("use", "ships"), ("use", "casks")]], pa.map_(pa.string(), pa.string()))
    path = parquet(
        tmp_path / "a.parquet",
        name=["Oak"],
        info=pairs,
        inner=pa.array([[{"of": [("x", 1)]}]], pa.list_(pa.struct([("of", pa.map_(pa.string(), pa.int8()))]))),
        seen=pa.array([1234567891], pa.timestamp("ns", "+01:00")),
        at=pa.array([1234567891], pa.time64("ns")),
        half=pa.array([np.float16(0.1)], pa.float16()),
        key=pa.array([b"0123456789abcdef"], pa.uuid()),
    )
    columns = Columns(name="name", ignore=("inner",))
    assert facts(path, columns=columns) == {
        ("Oak", "age"): "90",
        ("Oak", "use"): "ships, casks",
        ("Oak", "seen"): "1970-01-01 01:00:01.234567891+01:00",
        ("Oak", "at"): "00:00:01.234567891",
        ("Oak", "half"): "0.1",
        ("Oak", "key"): "30313233-3435-3637-3839-616263646566",
    }
    assert cells_of(pq.read_table(path)["inner"].chunk(0)) == [[{"of": {"x": 1}}]]


def no_utf8() -> Any:
    ends = np.array([0, 1, 4], np.int32).tobytes()
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(ends), pa.py_buffer(b"xr\xfcn")])


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: pa.array([1, 2**62], pa.timestamp("us")), r"a timestamp\[us\] that cannot be read: .*out of range"),
        (lambda: pa.array([1, 2**62], pa.duration("s")), r"a duration\[s\] that cannot be read"),
        (lambda: pa.array([None, 1], pa.timestamp("us", "Mars/Base")), "a timestamp.*Mars/Base"),
        (lambda: no_utf8(), "a string that cannot be read: 'utf-8' codec"),
    ],
)
def test_a_cell_that_cannot_be_had_is_its_row_s_trouble(tmp_path: Path, made: Any, told: str) -> None:
    path = parquet(tmp_path / "a.parquet", name=["Oak", "Elm"], what=made(), use=["ships", "wheels"])
    with pytest.raises(TripleFormatError, match=rf"a.parquet:2: the column 'what' holds {told}"):
        facts(path)
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(path)]), bad_rows=rows)
    rows.close()
    assert (found["Oak", "use"], report.bad) == ("ships", 1)


def test_a_workbook_that_openpyxl_does_not_foresee(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", [["name", "h"], ["Oak", 2]])
    book = openpyxl.load_workbook(path)
    book.create_chartsheet("empty chart")
    book.save(tmp_path / "chart.xlsx")
    with pytest.raises(TripleFormatError, match=r"chart.xlsx: not an Excel workbook that can be read: "):
        facts(tmp_path / "chart.xlsx")
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo("xl/worksheets/sheet1.xml").header_offset
    raw = bytearray(path.read_bytes())
    raw[place + 60 : place + 90] = bytes(30)
    (tmp_path / "torn.xlsx").write_bytes(raw)
    with pytest.raises(TripleFormatError, match=r"torn.xlsx: "):
        facts(tmp_path / "torn.xlsx")


@pytest.mark.parametrize("note", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_line_in_which_excel_notes_its_delimiter_is_no_header(tmp_path: Path, note: str) -> None:
    assert facts(written(tmp_path / "a.csv", f"{note}\r\nname;height\r\nOak;3,5\r\n")) == {("Oak", "height"): "3,5"}


def test_lines_that_end_with_carriage_returns_alone_are_told(tmp_path: Path) -> None:
    for name, text in (("a.csv", "name,h\rOak,3\r"), ("a.jsonl", '["Oak", "h", "3"]\r["Elm", "h", "3"]')):
        with pytest.raises(TripleFormatError, match=rf"{name}:1: its lines end with carriage returns alone"):
            facts(written(tmp_path / name, text))
    assert facts(written(tmp_path / "b.jsonl", '["Oak", "h", "3"]\r')) == {("Oak", "h"): "3"}


def test_a_byte_order_mark_hides_no_table_of_graphrag(tmp_path: Path) -> None:
    table = "\ufefftitle,type,description,human_readable_id\nANN,PERSON,Ann leads Acme,0\n"
    found, report = read(open_sources([str(written(tmp_path / "entities.csv", table))]))
    assert found == {("ANN", "type"): "PERSON", ("ANN", "description"): "Ann leads Acme"}
    assert report.dropped == {"a property that only its tool needs (ids of passages, vectors, counts)": 1}
