"""Tables: wide and long, Excel, Parquet, edge lists with names, GraphRAG's tables, others' data sets."""

from __future__ import annotations

import datetime
import json
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest

from kblam.data.importing import Reading, open_sources
from kblam.errors import BadLinesError, DataError, MissingPackageError, TripleFormatError
from kblam.knowledge import Columns, TripleFile
from kblam.knowledge.files.excel import shown
from tests.data.importing.reading import facts, read, written

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


def test_formats_of_numbers() -> None:
    assert shown(0.5, "General") == "0.5"
    assert shown(1200.0, "#,##0") == "1200"
    assert shown(-3, "$#,##0_);($#,##0)") == "$ -3"
    assert shown(0.1 + 0.2, "0.00") == "0.30000000000000004"


def test_each_sheet_has_a_header_of_its_own_and_errors_name_sheet_and_row(tmp_path: Path) -> None:
    good, bad = [["name", "color"], ["Oak", "green"]], [["name", "age"], ["Elm", 3], [None, 4], ["Fir", 5, "beside"]]
    path = workbook(tmp_path / "a.xlsx", good, bad)
    with pytest.raises(
        BadLinesError, match=r"line 3: missing field \"name\".*line 4: sheet 'S2': a cell stands beside"
    ):
        facts(path)
    assert [triple.value for triple in TripleFile(path, skip_bad=True)] == ["green", "3"]


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
    began = time.process_time()
    assert [one.value for one in TripleFile(tmp_path / "a.xlsx", skip_bad=True)] == ["ships"]
    assert time.process_time() - began < 30  # 200,000 rows of 16,384 cells take minutes


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
