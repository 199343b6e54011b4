"""Files as people have them: other names of columns, wide tables, nested objects, lists, numbers."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kblam.errors import TripleFormatError
from kblam.knowledge import Columns, KnowledgeBase, Triple, TripleFile, check_triples, read_triples
from tests.fakes import HashingEncoder
from tests.knowledge.test_files import put
from tests.timing import is_done_within

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
    assert len(TripleFile(wide)) == 20_000
    assert is_done_within(5, lambda: len(TripleFile(wide)))  # half a second; it was twelve
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
