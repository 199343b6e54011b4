"""Properties are given the words that people use for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kblam.data.importing import Languages, Reading, open_sources, parse_renames
from kblam.errors import DataError, KblamError, TripleFormatError
from tests.cli.conftest import kblam
from tests.data.importing.reading import read, written

TABLE = "name,emp_start_dt,Tel. No.,mobile\nAnn,2001-02-03,12 34,\nBob,1999-01-01,56,78\n"


def test_columns_get_other_words(tmp_path: Path) -> None:
    sources = open_sources([str(written(tmp_path / "a.csv", TABLE))])
    facts, report = read(sources, renames={"EMP START DT": "start date", "Tel. No.": " phone number "})
    assert facts == {
        ("Ann", "start date"): "2001-02-03",
        ("Ann", "phone number"): "12 34",
        ("Bob", "start date"): "1999-01-01",
        ("Bob", "phone number"): "56",
        ("Bob", "mobile"): "78",
    }
    assert report.several == 0


def test_two_that_become_one_are_joined_and_two_may_change_places(tmp_path: Path) -> None:
    sources = open_sources([str(written(tmp_path / "a.csv", TABLE))])
    facts, report = read(sources, renames={"Tel. No.": "mobile"})
    assert (facts["Bob", "mobile"], report.several) == ("56, 78", 1)
    facts, report = read(sources, renames={"Tel. No.": "mobile", "mobile": "Tel. No."})
    assert (facts["Bob", "mobile"], facts["Bob", "Tel. No."], report.several) == ("56", "78", 0)


def test_a_property_that_is_named_by_its_iri_is_renamed_by_its_name(tmp_path: Path) -> None:
    dump = written(tmp_path / "a.nt", '<http://e/a> <http://e/empStartDt> "2001"@en .\n')
    facts, _ = read(open_sources([str(dump)]), renames={"emp start dt": "start date"})
    assert facts == {("a", "start date"): "2001"}


def test_a_property_is_known_by_its_words_and_its_marks(tmp_path: Path) -> None:
    first = written(tmp_path / "a.csv", "name,emp_start_dt,price in $,price in \u20ac,C#\nAnn,1,2,3,4\n")
    second = written(tmp_path / "b.csv", "name,EMP_START_DT,Gro\u0308\u00dfe\nBob,5,6\n")
    sources = open_sources([str(first), str(second)])
    facts, _ = read(
        sources, renames={"Emp start dt": "start date", "price in \u20ac": "euros", "gr\u00f6\u00dfe": "size"}
    )
    assert facts == {
        ("Ann", "start date"): "1",
        ("Ann", "price in $"): "2",
        ("Ann", "euros"): "3",
        ("Ann", "C#"): "4",
        ("Bob", "start date"): "5",
        ("Bob", "size"): "6",
    }
    with pytest.raises(DataError, match=r"no property 'C\+\+'"):
        read(sources, renames={"C++": "skill"})


def test_another_spelling_of_the_new_words_is_the_same_property(tmp_path: Path) -> None:
    sources = open_sources([str(written(tmp_path / "a.csv", "name,Tel. No.,phone_number\nAnn,1,2\n"))])
    facts, report = read(sources, renames={"Tel. No.": "phone number"})
    assert (facts, report.several) == ({("Ann", "phone number"): "1, 2"}, 1)


def test_marks_of_languages_and_edges_are_part_of_the_name(tmp_path: Path) -> None:
    dump = written(
        tmp_path / "a.nt", '<http://e/a> <http://e/motto> "M"@en .\n<http://e/a> <http://e/motto> "N"@de .\n'
    )
    facts, _ = read(open_sources([str(dump)]), renames={"motto": "slogan"})
    assert facts == {("a", "slogan"): "M", ("a", "motto (de)"): "N"}
    facts, _ = read(open_sources([str(dump)]), renames={"motto (de)": "Wahlspruch"})
    assert facts == {("a", "motto"): "M", ("a", "Wahlspruch"): "N"}


@pytest.mark.parametrize(("key_string", "kept"), [("the dt of A", None), ("when A began", "when A began")])
def test_a_key_text_that_only_says_the_old_name_goes_with_it(tmp_path: Path, key_string: str, kept: str | None) -> None:
    fact = {"name": "A", "property": "dt", "value": "1", "key_string": key_string, "question": "dt?", "answer": "1"}
    with Reading(
        open_sources([str(written(tmp_path / "a.jsonl", json.dumps(fact)))]), renames={"dt": "start date"}
    ) as reading:
        (found,) = reading.triples()
    assert (found.property, found.key_string, found.question) == ("start date", kept, "dt?")


def test_what_says_nothing_is_told_before_a_name_that_is_not_there(tmp_path: Path) -> None:
    dump = written(tmp_path / "a.nt", '<http://e/a> <http://e/motto> "N"@de .\n')
    with pytest.raises(DataError, match="no fact in it; left out: 1 x a text in another language"):
        read(open_sources([str(dump)]), languages=Languages(["en"]), renames={"motto": "slogan"})


@pytest.mark.parametrize(
    ("renames", "error", "says"),
    [
        ({"salary": "pay"}, DataError, "there is no property 'salary' to rename; the properties: \"emp_start_dt\""),
        ({"mobile": "a", "Mobile": "b"}, DataError, "'Mobile' is renamed twice, to 'a' and 'b'; choose one"),
        ({"mobile": "a\0b"}, TripleFormatError, "'mobile' cannot be renamed to 'a\\x00b': "),
    ],
)
def test_what_cannot_be_renamed_is_told(
    tmp_path: Path, renames: dict[str, str], error: type[KblamError], says: str
) -> None:
    sources = open_sources([str(written(tmp_path / "a.csv", TABLE))])
    with pytest.raises(error) as raised:
        read(sources, renames=renames)
    assert says in str(raised.value)


def test_what_the_command_line_takes(tmp_path: Path) -> None:
    assert parse_renames(["a = b", "c=d=e", "a=b"]) == {"a": "b", "c": "d=e"}
    for bad in ("a", "a=", "=b", " = "):
        with pytest.raises(DataError, match="renames nothing; write PROPERTY=WORDS"):
            parse_renames([bad])
    with pytest.raises(DataError, match="'a' is renamed twice, to 'b' and 'c'"):
        parse_renames(["a=b", "a=c"])
    table, facts = written(tmp_path / "a.csv", TABLE), tmp_path / "facts.csv"
    kblam("data", "import", table, "-o", facts, "--rename", "salary=pay").failed(2, "there is no property 'salary'")
    assert not facts.exists()
    kblam("data", "import", table, "-o", facts, "--rename", "emp_start_dt=start date").ok()
    assert "Ann,start date,2001-02-03" in facts.read_text()
