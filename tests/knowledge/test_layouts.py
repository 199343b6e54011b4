"""Files as people have them: other names of columns, wide tables, nested objects, lists, numbers, chosen columns."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kblam.errors import BadLinesError, TripleFormatError
from kblam.knowledge import Columns, KnowledgeBase, Triple, TripleFile, check_triples, read_triples
from kblam.knowledge.files import json_document
from tests.fakes import HashingEncoder
from tests.knowledge.test_files import put

OAK = [("Oak", "height", "20 m"), ("Oak", "kind", "tree")]


def facts(file: TripleFile) -> list[tuple[str, str, str]]:
    found = [(triple.name, triple.property, triple.value) for triple in file]
    assert len(found) == len(file)
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("a.csv", "Subject,Predicate,Object\nOak,height,20 m\nOak,kind,tree\n", id="subject"),
        pytest.param("a.tsv", "head\trelation\ttail\nOak\theight\t20 m\nOak\tkind\ttree\n", id="head"),
        pytest.param("a.csv", "ENTITY;Attribute;Value\nOak;height;20 m\nOak;kind;tree\n", id="eav-upper-case"),
        pytest.param("a.csv", "Entity Name,relation-type,TAIL_ENTITY\nOak,height,20 m\nOak,kind,tree\n", id="spaces"),
        pytest.param("a.csv", "s,p,o\nOak,height,20 m\nOak,kind,tree\n", id="letters"),
        pytest.param("a.csv", "source,relation,target\nOak,height,20 m\nOak,kind,tree\n", id="edges"),
        pytest.param("a.csv", "item,key,value\nOak,height,20 m\nOak,kind,tree\n", id="key-value"),
        pytest.param("a.csv", "Name,Height,Kind\nOak,20 m,tree\n".lower().replace("oak", "Oak"), id="wide"),
        pytest.param("a.csv", ",name,height,kind,\n0,Oak,20 m,tree,\n", id="wide-with-an-index-and-a-trailing-comma"),
        pytest.param("a.csv", "Tree Name,height,kind\nOak,20 m,tree\n", id="wide-title"),
        pytest.param("a.jsonl", '{"NAME": "Oak", "height": "20 m", "kind": "tree"}', id="wide-json"),
        pytest.param(
            "a.jsonl", '{"name": "Oak", "height": "20 m"}\n{"title": "Oak", "kind": "tree"}', id="other-keys-each"
        ),
        pytest.param("a.json", '{"name": "Oak", "height": "20 m", "kind": "tree"}', id="one-object"),
        pytest.param("a.json", '{\n"Oak": {\n"height": "20 m", "kind": "tree"}}', id="keyed"),
        pytest.param("a.jsonl", '{"Oak": {"height": "20 m", "kind": "tree"}}', id="keyed-line"),
        pytest.param("a.json", '{"q1": {"name": "Oak", "height": "20 m", "kind": "tree"}}', id="keyed-by-an-id"),
        pytest.param(
            "a.json",
            '{"Oak": [{"property": "height", "value": "20 m"}, {"property": "kind", "value": "tree"}]}',
            id="keyed-lists",
        ),
        pytest.param(
            "a.json", '{"version": 3, "data": [{"title": "Oak", "height": "20 m", "kind": "tree"}]}', id="data"
        ),
        pytest.param("a.json", '{"data": {"Oak": {"height": "20 m", "kind": "tree"}}}', id="data-keyed"),
        pytest.param("a.json", '{"name": "Oak", "properties": {"height": "20 m", "kind": "tree"}}', id="properties"),
        pytest.param("a.json", '[{"fields": {"Name": "Oak", "height": "20 m", "kind": "tree"}}]', id="fields"),
        pytest.param(
            "a.json",
            '[{"name": "Oak", "facts": [{"predicate": "height", "object": "20 m"}, {"kind": "tree"}]}]',
            id="facts",
        ),
        pytest.param("a.json", '[["Oak", "height", "20 m"], ["Oak", "kind", "tree"]]', id="lists-of-three"),
        pytest.param(
            "a.json",
            '{"s": "Oak", "p": "height", "o": "20 m"}\n{"s": "Oak", "p": "kind", "o": "tree"}\n',
            id="json-lines-named-json",
        ),
    ],
)
def test_layouts_that_people_have(tmp_path: Path, name: str, content: str) -> None:
    path = put(tmp_path, name, content)
    assert facts(TripleFile(path)) == OAK
    assert [(triple.name, triple.property, triple.value) for triple in read_triples(path, duplicates="last")] == OAK


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20.50", [("Oak", "x", "20.50")]),
        ("12345678901234567890123", [("Oak", "x", "12345678901234567890123")]),
        ("1e5", [("Oak", "x", "1e5")]),
        ("true", [("Oak", "x", "true")]),
        ("false", [("Oak", "x", "false")]),
        ('["ships", 3, true, null]', [("Oak", "x", "ships, 3, true")]),
        ('["ships", "casks, barrels"]', [("Oak", "x", "ships; casks, barrels")]),
        ('{"low": 1, "up": {"at": 2}}', [("Oak", "x low", "1"), ("Oak", "x up at", "2")]),
    ],
)
def test_values_that_are_no_text(tmp_path: Path, value: str, expected: list[tuple[str, str, str]]) -> None:
    assert facts(TripleFile(put(tmp_path, "a.jsonl", f'{{"name": "Oak", "x": {value}}}'))) == expected
    long = f'{{"subject": "Oak", "predicate": "x", "object": {value}}}'
    assert facts(TripleFile(put(tmp_path, "a.jsonl", long))) == expected


def test_what_has_no_value_gives_no_fact(tmp_path: Path) -> None:
    path = put(
        tmp_path, "a.jsonl", '{"name": "Oak", "a": null, "b": "", "c": [], "d": {}, "e": [null], "kind": "tree"}'
    )
    assert facts(TripleFile(path)) == OAK[1:]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "Company,CEO,Founded\nAcme,Ann,1990\n",
            "Choose the one that does, such as columns=Columns(name='Company')",
        ),
        ("a.tsv", "Oak\theight\t20 m\n", "by number: columns=Columns(name='1', property='2', value='3')"),
        (
            "a.csv",
            "subject,predicate,object,description\na,b,c,d\n",
            '"object" and "description" could each be the value',
        ),
        ("a.csv", "title,label,height\na,b,c\n", '"title" and "label" could each be the name'),
        ("a.csv", "s,p,o,h,r,t\na,b,c,d,e,f\n", '"s" and "h" could each be the name'),
        ("a.csv", "first_name,last_name,age\na,b,c\n", '"first_name" and "last_name" could each be the name'),
        ("a.json", '{"Oak": "a tree", "Elm": "a tree"}', "if its keys are names, write"),
        ("a.json", '{"name": {"0": "Oak"}, "height": {"0": 3}}', 'to_json(orient="records")'),
        (
            "a.json",
            '{"a": [{"name": "x", "y": 1}], "b": [{"name": "z", "y": 1}]}',
            'several lists of records: "a", "b"',
        ),
        ("a.json", '{"Oak": {"x": 1},\n"Oak": {"x": 2}}', 'the key "Oak" stands twice'),
        ("a.json", '[["name", "property", "value"], ["Oak", "x", "y"]]', "looks like the names of the columns"),
        ("a.json", '[["Oak", "", "y"]]', "has no property"),
        ("a.json", '[{"name": "Oak", "children": [{"x": 1}]}]', "is a list of objects, which is no value"),
        ("a.json", '[{"name": "Oak", "properties": {"x": 1}, "x": 2}]', "('Oak', 'x') is on this line too"),
        ("a.json", '[{"fields": {"name": "Oak", "x": 1}, "x": 2}]', '"x" is a field of the record and of its "fields"'),
        ("a.json", '[{"x": [{"height": 3}]}]', "a list of objects that do not say what they are about"),
        ("a.json", '[{"name": ["Oak"], "x": 1}]', '"name" must be text, got a list'),
        ("a.json", '[{"name": "Oak", "x": [[1]]}]', '"x" must be text, got a list'),
        ("a.json", '[{"name": "Oak", "x": NaN}]', "NaN is no value; write null"),
        ("a.jsonl", '{"subject": "Oak", "predicate": "height"}', 'missing field "value"'),
        ("a.jsonl", '{"head": "Oak", "tail": "tree"}', 'missing field "property"'),
        ("a.csv", "name,height,kind\nOak,,\n", "'Oak' has no value in any of its 2 properties"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_with_the_fix(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(TripleFormatError) as caught:
        TripleFile(put(tmp_path, name, content))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_fact_that_lacks_a_column_is_not_taken_for_an_entity(tmp_path: Path) -> None:
    """JSON has the columns of each record anew."""
    whole = '{"subject": "Oak", "predicate": "kind", "object": "tree", "source": "a book"}\n'
    torn = '{"subject": "Elm", "predicate": "kind", "source": "a book"}\n'
    with pytest.raises(TripleFormatError, match=r':2: "predicate" is part of a fact in other records'):
        TripleFile(put(tmp_path, "a.jsonl", whole + torn))
    assert facts(TripleFile(tmp_path / "a.jsonl", skip_bad=True)) == [("Oak", "kind", "tree")]
    with pytest.raises(TripleFormatError, match='"predicate" is part of a fact in other records'):
        TripleFile(put(tmp_path, "a.jsonl", torn + whole))


_UUID, _OTHER_UUID = '"0B7c9a3e-1f2d-4c5b-8a6e-001122334455"', '"0b7c9a3e-1f2d-4c5b-8a6e-001122334456"'
_WHOLE = '{"name": "Oak", "property": "height", "value": "20 m"}'


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (_WHOLE, OAK[0]),
        ('{"entity": "Trees", "property": "height", "value": "20 m"}', ("Trees", "height", "20 m")),
        ('{"name": "Trees", "height": "20 m"}', ("Trees", "height", "20 m")),
        ('{"name": "", "property": "height", "value": "20 m"}', ("Trees", "height", "20 m")),
        ('{"property": "height", "value": "20 m"}', ("Trees", "height", "20 m")),
    ],
)
def test_a_whole_fact_in_a_list_of_a_record_keeps_its_own_name(
    tmp_path: Path, item: str, expected: tuple[str, str, str]
) -> None:
    for name, content in (
        ("a.json", f'{{"name": "Trees", "license": "CC0",\n"facts": [{item}]}}'),
        ("b.json", f'{{"Trees": {{"license": "CC0", "facts": [{item}]}}}}'),
        ("a.jsonl", f'{{"name": "Trees", "license": "CC0", "data": {{"facts": [{item}]}}}}'),
    ):
        assert facts(TripleFile(put(tmp_path, name, content))) == [("Trees", "license", "CC0"), expected]
    value = put(tmp_path, "c.json", f'{{"name": "Trees", "property": "x", "value": {{"facts": [{item}]}}}}')
    with pytest.raises(TripleFormatError, match="'x facts' is a list of objects"):
        TripleFile(value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ('{"name": "Oak", "height": "20 m"}', "'Trees' and 'Oak' are two names in one record; keep one of them"),
        ('{"name": "height", "value": "20 m"}', "'Trees' and 'height' are two names in one record"),
        ('{"title": "Oak", "height": "20 m"}', "leave 'title' out: columns=Columns(ignore=('title',))"),
        ('{"subject": "Oak", "predicate": "height", "object": "20 m"}', "leave 'subject' out"),
    ],
)
def test_another_name_in_a_list_of_a_record_is_refused(tmp_path: Path, item: str, message: str) -> None:
    path = put(tmp_path, "a.jsonl", f'{{"name": "Trees", "license": "CC0", "data": [{item}]}}')
    with pytest.raises(TripleFormatError) as caught:
        TripleFile(path)
    assert message in str(caught.value)


def test_a_column_of_an_item_that_is_left_out_is_no_name_of_it(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"name": "Oak", "facts": [{"id": 7, "key": "height", "value": "20 m"}]}')
    assert facts(TripleFile(path, columns=Columns(ignore=("id",)))) == [OAK[0]]


_NUMBERED = '{"id": 7, "key": "height", "value": "20 m"}, {"id": 8, "key": "kind", "value": "tree"}'


@pytest.mark.parametrize(
    "record",
    [
        f'{{"name": "Oak", "facts": [{_NUMBERED}]}}',
        f'{{"Oak": {{"facts": [{_NUMBERED}]}}}}',
        f'{{"Oak": [{_NUMBERED}]}}',
        f'{{"name": "Oak", "facts": [{_NUMBERED.replace(" 7,", f"{_UUID},").replace(" 8,", f"{_OTHER_UUID},")}]}}',
    ],
)
def test_the_numbers_of_facts_are_no_names_and_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record: str
) -> None:
    assert facts(TripleFile(put(tmp_path, "a.jsonl", record))) == OAK
    assert "fields that are no part of a triple were not read: 'id' (2 times)" in caplog.text


@pytest.mark.parametrize("second", ["7", '"Elm"', "null"])
def test_an_id_that_may_name_a_thing_is_refused_in_a_list_of_a_record(tmp_path: Path, second: str) -> None:
    """One number of two facts is a thing, and so is a word: its facts are not those of the record."""
    record = f'{{"name": "Oak", "facts": [{_NUMBERED.replace(" 8,", f" {second},")}]}}'
    with pytest.raises(TripleFormatError, match=r"two names in one record.*leave 'id' out: columns=Columns\(ignore"):
        TripleFile(put(tmp_path, "a.jsonl", record))


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    deep = '{"a":' * 50 + "1" + "}" * 50
    with pytest.raises(TripleFormatError, match="nested too deeply"):
        TripleFile(put(tmp_path, "a.jsonl", f'{{"name": "Oak", "x": {deep}}}'))


def test_questions_go_with_a_fact_and_are_properties_where_there_is_none(tmp_path: Path) -> None:
    fact = '{"name": "Oak", "description": "a tree", "Q": "What?", "A": "A tree.", "extra": "x"}'
    assert list(TripleFile(put(tmp_path, "a.jsonl", fact))) == [
        Triple("Oak", "description", "a tree", question="What?", answer="A tree.")
    ]
    table = put(tmp_path, "a.csv", "name,height,question\nOak,20 m,What?\n")
    assert facts(TripleFile(table)) == [OAK[0], ("Oak", "question", "What?")]


def test_guesses_are_said_and_our_own_names_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    check_triples(put(tmp_path, "a.csv", "Name,PROPERTY,value\nOak,kind,tree\n"))
    assert caplog.text == ""
    check_triples(put(tmp_path, "a.csv", "subject,predicate,object\nOak,kind,tree\n"))
    assert "a.csv: read 'subject' as name, 'predicate' as property, 'object' as value" in caplog.text
    check_triples(put(tmp_path, "b.csv", "title,height,kind\nOak,20 m,tree\n"))
    assert "b.csv: read each record as one entity, named by 'title', with the properties height, kind" in caplog.text
    check_triples(put(tmp_path, "c.json", '{"Oak": {"uses": ["ships", "casks"]}}'))
    assert "c.json: read the keys of an object as the names of its entities" in caplog.text
    assert "c.json: joined lists of values with commas (once)" in caplog.text


@pytest.mark.parametrize(
    ("content", "times"),
    [
        ("name,height,,\nOak,20 m,lost,\n", "once"),
        ("name,height,,\nOak,20 m,,lost\n", "once"),
        (",name,, height,\n0,Oak,lost,20 m,lost\n", "3 times"),
        ("name,property,value,,\nOak,height,20 m,lost,\n", "once"),
    ],
)
def test_what_stands_under_no_name_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, times: str
) -> None:
    assert facts(TripleFile(put(tmp_path, "a.csv", content))) == OAK[:1]
    assert f"fields that are no part of a triple were not read: a column without a name ({times})" in caplog.text


_KEYS = st.sampled_from(
    (
        "name",
        "Entity",
        "value",
        "description",
        "property",
        "subject",
        "predicate",
        "object",
        "facts",
        "data",
        "title",
        "x",
    )
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "Oak", "a tree", "name"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(
    document=_VALUES | st.lists(_VALUES, max_size=4) | st.dictionaries(_KEYS, _VALUES, max_size=4), skip=st.booleans()
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_read_or_refused_with_a_reason(tmp_path: Path, document: object, skip: bool) -> None:
    for name, content in (("a.json", json.dumps(document, indent=1)), ("a.jsonl", json.dumps(document))):
        path = put(tmp_path, name, content)
        with contextlib.suppress(TripleFormatError):
            file = TripleFile(path, skip_bad=skip)
            assert len(list(file)) == len(file)


@given(rows=st.lists(st.lists(_KEYS | st.sampled_from(["", "1", 'a"b', "x,y", "\n"]), max_size=4), max_size=5))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_table_is_read_or_refused_with_a_reason(tmp_path: Path, rows: list[list[str]]) -> None:
    for name, cut in (("a.csv", ","), ("b.csv", ";"), ("a.tsv", "\t")):
        path = put(tmp_path, name, "\n".join(cut.join(row) for row in rows))
        for columns in (None, Columns(name="x"), Columns(name="1", value="2")):
            with contextlib.suppress(TripleFormatError):
                file = TripleFile(path, skip_bad=True, columns=columns)
                assert len(list(file)) == len(file)


# --- chosen columns --------------------------------------------------------------------------------------


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


# --- bad lines -------------------------------------------------------------------------------------------

_START, _END = b'{"name":"A","value":"1"}', b'{"name":"A","value":"2"}\n{"name":"C","value":"3"}\n'
_LINES = _START + b'\n{"name"\n{"name":"B"}\n{"name":"\xff"}\n' + _END
_ELEMENTS = b'{"name":"X","value":1,"value":2},\n{"name":"B"},\n["x"],\n' + _END.strip().replace(b"\n", b",\n")
BAD = {
    "a.jsonl": _LINES,
    "lines.json": _LINES,
    "a.json": b"[" + _START + b",\n" + _ELEMENTS + b"]",
    "a.csv": b'name,value\nA,1\n"X"y,2\nB,\nC\xff,3\nA,2\nC,3\n',
}


@pytest.mark.parametrize("name", BAD)
def test_all_bad_lines_are_told_at_once_or_left_out(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path, name, BAD[name])
    first = 3 if name.endswith("csv") else 2
    with pytest.raises(BadLinesError) as caught:
        TripleFile(path)
    error = caught.value
    assert (error.count, error.line, len(error.details)) == (4, first, 4)
    assert str(error).startswith(
        f"{path}: 4 records cannot be read (skip_bad=True goes on without them); line {first}:"
    )
    for at, detail in enumerate(error.details):
        assert detail.startswith(f"line {first + at}: ")
    file = TripleFile(path, skip_bad=True)
    assert facts(file) == [("A", "description", "1"), ("C", "description", "3")]
    assert file.skipped == 4
    assert f"4 records that cannot be read were left out:\n  line {first}: " in caplog.text
    assert [triple.name for triple in TripleFile(path, skip_bad=True, duplicates="last")] == ["A", "C"]


def test_a_thousand_bad_lines_of_one_kind_are_one_text(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "name,value\nA,1\n" + "B,\n" * 1000)
    with pytest.raises(BadLinesError) as caught:
        TripleFile(path)
    assert caught.value.count == 1000
    (detail,) = caught.value.details
    assert detail.startswith("lines 3, 4, 5, 6, 7, 8, 9, 10 and 992 more: missing field")
    many = "".join(f'{{"name": "N{at}", "value": [[{at}]]}}\n' for at in range(1000))
    with pytest.raises(BadLinesError) as caught:
        TripleFile(put(tmp_path, "a.jsonl", many))
    assert len(caught.value.details) == 11
    assert caught.value.details[-1] == "and 990 more with other troubles"


def test_a_file_with_too_many_bad_lines_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.knowledge.files.trouble.MOST", 50)
    path = put(tmp_path, "a.json", json.dumps([*range(100), {"name": "A", "value": "1"}]))
    with pytest.raises(BadLinesError, match="at least 50 records cannot be read"):
        TripleFile(path)
    assert TripleFile(path, skip_bad=True).skipped == 100


def test_what_lies_beside_the_triples_is_stepped_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    value = json_document._JsonText.value
    monkeypatch.setattr(json_document._JsonText, "value", lambda text: (steps.append(text.at), value(text))[1])
    content = '{"ids": [' + "1," * 20_000 + '1], "triples": [{"name": "A", "value": "1"}]}'
    assert len(TripleFile(put(tmp_path, "a.json", content))) == 1
    assert len(steps) < 20


def test_a_file_of_which_nothing_can_be_read_is_refused_though_bad_lines_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(BadLinesError, match="2 records cannot be read"):
        TripleFile(put(tmp_path, "a.jsonl", "{\n[\n"), skip_bad=True)


def test_the_end_of_what_can_be_read_is_told_with_what_was_bad_before(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", 'name,value\nA,1\nB,\nC,"\nD,4\n')
    for skip_bad in (False, True):
        with pytest.raises(BadLinesError) as caught:
            TripleFile(path, skip_bad=skip_bad)
        assert caught.value.details[0].startswith("line 3: missing field")
        assert caught.value.details[1].endswith("nothing after this can be read")


# --- several values --------------------------------------------------------------------------------------


def test_several_values_of_a_fact_can_be_put_together(tmp_path: Path) -> None:
    path = put(
        tmp_path, "a.tsv", "head\trelation\ttail\nOak\tuse\tships\nElm\tuse\tcarts\nOak\tuse\tcasks\nOak\tuse\tships\n"
    )
    with pytest.raises(TripleFormatError, match=r"on line 2 too.* put them together with duplicates=\"join\""):
        TripleFile(path)
    assert facts(TripleFile(path, duplicates="join")) == [("Oak", "use", "ships, casks"), ("Elm", "use", "carts")]
    wide = put(tmp_path, "a.jsonl", '{"name": "Oak", "x": "1", "properties": {"x": "2"}}')
    assert facts(TripleFile(wide, duplicates="join")) == [("Oak", "x", "1, 2")]
    assert facts(TripleFile(wide, duplicates="last")) == [("Oak", "x", "2")]


def test_mappings_are_read_as_records_of_files_are(caplog: pytest.LogCaptureFixture) -> None:
    kb = KnowledgeBase.from_triples(
        [
            {"subject": "Oak", "predicate": "height", "object": 20},
            {"name": "Elm", "uses": ["carts", "wheels"], "hard": True},
            {"name": "Ash", "value": "a tree", "note": "lost"},
        ],
        HashingEncoder(),
    )
    assert list(kb.triples()) == [
        Triple("Oak", "height", "20"),
        Triple("Elm", "uses", "carts, wheels"),
        Triple("Elm", "hard", "true"),
        Triple("Ash", "description", "a tree"),
    ]
    assert "fields that are no part of a triple were not read: 'note' (once)" in caplog.text


def test_many_columns_take_no_time_and_no_long_message(tmp_path: Path) -> None:
    """Work that grows with the square of the columns took minutes, and a message was as long as the file."""
    wide = tmp_path / "wide.jsonl"
    wide.write_text(json.dumps({"name": "Oak", **{f"property {i}": i for i in range(20_000)}}), encoding="utf-8")
    began = time.process_time()
    assert len(TripleFile(wide)) == 20_000
    assert time.process_time() - began < 5  # half a second; it was twelve
    names = [f"column {i} name" for i in range(20_000)]
    bad = {
        "twice.csv": ",".join(["name", "value", *["x"] * 20_000]) + "\na,b\n",
        "ambiguous.csv": ",".join(names) + "\n",
        "ambiguous.jsonl": json.dumps(dict.fromkeys(names, "x")),
        "lists.json": json.dumps({name: [{"name": "a", "value": "b"}] for name in names}),
        "missing.jsonl": json.dumps({"value": "x", **dict.fromkeys(names[:20], "y" * 40)}),
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(TripleFormatError) as caught:
            TripleFile(tmp_path / name)
        assert len(str(caught.value)) < 1500, name
