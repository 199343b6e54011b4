"""Properties are given the words that people use for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kblam.data.importing import open_sources, parse_renames
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


@pytest.mark.parametrize(
    ("renames", "error", "says"),
    [
        ({"salary": "pay"}, DataError, "there is no property 'salary' to rename; the properties: \"emp_start_dt\""),
        ({"mobile": "a", "Mobile": "b"}, DataError, "'mobile' is renamed twice, to 'a' and 'b'; choose one"),
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
