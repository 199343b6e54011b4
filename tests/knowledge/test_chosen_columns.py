"""Columns and keys that are chosen by name or number, in place of those that are guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kblam.errors import BadLinesError, TripleFormatError
from kblam.knowledge import Columns, TripleFile
from tests.knowledge.test_files import put
from tests.knowledge.test_layouts import facts


@pytest.mark.parametrize(
    ("choice", "content", "expected"),
    [
        (["name=Company"], "Company,CEO,Founded\nAcme,Ann,1990\n", [("CEO", "Ann"), ("Founded", "1990")]),
        (["name=company,ignore=founded"], "Company,CEO,Founded\nAcme,Ann,1990\n", [("CEO", "Ann")]),
        (
            ["name=Company,property=Key,value=City, State"],
            'Company,Key,"City, State"\nAcme,seat,"A, B"\n',
            [("seat", "A, B")],
        ),
        (["name=Company", "value=Text"], "Company,Text,Year\nAcme,old,1990\n", [("description", "old")]),
        (["value=object"], "subject,predicate,object,description\nAcme,seat,B,C\n", [("seat", "B")]),
        (["name=1,property=2,value=3"], "Acme,seat,B\n", [("seat", "B")]),
        (["name=3,value=1"], "B;seat;Acme\n", [("description", "B")]),
    ],
)
def test_columns_can_be_chosen(
    tmp_path: Path, choice: list[str], content: str, expected: list[tuple[str, str]]
) -> None:
    found = facts(TripleFile(put(tmp_path, "a.csv", content), columns=Columns.parse(choice)))
    assert found == [("Acme", *fact) for fact in expected]


@pytest.mark.parametrize(
    ("name", "content", "value"),
    [
        ("a.tsv", "Oak\tuse\tships, casks, arks, and huts\nElm\theight\t9 m\n", "ships, casks, arks, and huts"),
        ("a.csv", "Oak;use;ships, casks, barrels\nElm;height;9 m\n", "ships, casks, barrels"),
        ("a.csv", "Oak,use,ships; casks; barrels\n\n\nElm,height,9 m\n", "ships; casks; barrels"),
        ("a.csv", 'Oak,use,"ships; casks;\nbarrels"\nElm,height,9 m\n', "ships; casks;\nbarrels"),
        ("a.csv", 'Oak;use;ships, casks, barrels\nElm;height;"9\nm"\n', "ships, casks, barrels"),
        ("a.csv", "Oak;use;ships, casks\nElm;use;wheels, chairs\n", "ships, casks"),
    ],
)
def test_columns_chosen_by_number_are_cut_by_the_delimiter_of_the_first_lines(
    tmp_path: Path, name: str, content: str, value: str
) -> None:
    columns = Columns.parse(["name=1,property=2,value=3"])
    first, second = TripleFile(put(tmp_path, name, content), columns=columns)
    assert (first.name, first.property, first.value) == ("Oak", "use", value)
    assert second.name == "Elm"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "Oak;colors;red, green, blue\nElm;colors;grey, brown, black\n", "comma and semicolon could each"),
        ("a.csv", "Oak\tuse\tships; casks; b\n", "semicolon and tab could each divide the columns: 'Oak\\tuse"),
        ("a.tsv", "Oak\tdescription, and more\n", "there is no column 3; this line has 2"),
        ("a.csv", "Oak;use\nElm;use\n", "there is no column 3; this line has 2"),
    ],
)
def test_a_delimiter_that_the_first_lines_do_not_tell_is_refused(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(TripleFormatError) as caught:
        TripleFile(put(tmp_path, name, content), columns=Columns.parse(["name=1,property=2,value=3"]))
    assert message in str(caught.value)
    assert caught.value.line == 1


def test_lines_that_were_looked_at_for_the_delimiter_are_read_under_their_numbers(tmp_path: Path) -> None:
    rows = [b"Oak,use,ships; casks; barrels", *(b"Elm,u%d,v" % number for number in range(40))]
    rows[5] = b"Elm,\xff,v"
    rows[30] = b"Elm,u"
    path = put(tmp_path, "a.csv", b"\n".join(rows))
    with pytest.raises(BadLinesError) as caught:
        TripleFile(path, columns=Columns.parse(["name=1,property=2,value=3"]))
    assert "6: byte 0xff" in str(caught.value)
    assert "31: 2 cells, but the header has 3" in str(caught.value)


def test_keys_of_objects_can_be_chosen(tmp_path: Path) -> None:
    path = put(tmp_path, "a.json", '{"Company": "Acme", "CEO": "Ann"}\n{"company": "Beta", "CEO": "Bo"}')
    assert facts(TripleFile(path, columns=Columns(name="Company"))) == [("Acme", "CEO", "Ann"), ("Beta", "CEO", "Bo")]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (["nme=Company"], "'nme=Company' is no choice of a column; write FIELD=COLUMN"),
        (["name"], "'name' is no choice of a column"),
        (["name="], "'name=' is no choice of a column"),
        (["name=A,name=B"], "name is chosen twice: 'A' and 'B'"),
        (["name=A,value=A"], "the column 'A' is chosen twice"),
        (["name=Company,value=Txt"], "there is no column 'Txt' for the value; the columns: \"Company\""),
        (["name=Company,ignore=Yeer"], "no record has the column 'Yeer' that was chosen"),
        (["name=Company,question=Quest"], "no record has the column 'Quest' that was chosen"),
        (["name=1"], "columns are chosen by number in a file without a line of names, and name and value"),
        (["name=1,value=7"], "there is no column 7; this line has 3"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(tmp_path: Path, choice: list[str], message: str) -> None:
    path = put(tmp_path, "a.csv", "Company,Text,Year\nAcme,old,1990\n")
    with pytest.raises(TripleFormatError) as caught:
        TripleFile(path, columns=Columns.parse(choice))
    assert message in str(caught.value)
