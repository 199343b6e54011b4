"""Results of a SPARQL query, as endpoints give them in JSON, are triples where they have three columns."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from kblam.errors import TripleFormatError
from kblam.knowledge import Columns, TripleFile
from tests.knowledge.test_files import put
from tests.knowledge.test_layouts import OAK, facts


def sparql(variables: list[str], *solutions: object) -> str:
    return json.dumps({"head": {"vars": variables}, "results": {"bindings": solutions}}, indent=1)


def terms(**texts: str) -> dict[str, dict[str, str]]:
    return {name: {"type": "literal", "xml:lang": "en", "value": text} for name, text in texts.items()}


@pytest.mark.parametrize(
    ("variables", "solutions", "columns"),
    [
        (["s", "p", "o"], [terms(s="Oak", p="height", o="20 m"), terms(s="Oak", p="kind", o="tree")], None),
        (["o", "S", "P"], [terms(S="Oak", P="height", o="20 m"), terms(S="Oak", P="kind", o="tree")], None),
        (
            ["graph", "subject", "object", "predicate"],
            [terms(graph="g", subject="Oak", predicate=p, object=o) for _, p, o in OAK],
            None,
        ),
        (["value", "name", "property"], [terms(name=s, property=p, value=o) for s, p, o in OAK], None),
        (["tree", "what", "it"], [terms(tree=s, what=p, it=o) for s, p, o in OAK], None),
        (
            ["x", "xLabel", "pLabel", "oLabel"],
            [terms(x="http://e/Q1", xLabel=s, pLabel=p, oLabel=o) for s, p, o in OAK],
            Columns(name="xLabel", property="pLabel", value="oLabel", ignore=("x",)),
        ),
        (
            ["s", "p", "o", "g"],
            [terms(s=s, p=p, o=o, g="http://e/g") for s, p, o in OAK],
            Columns(ignore=("g",)),
        ),
    ],
)
def test_results_of_a_sparql_query_are_triples(
    tmp_path: Path, variables: list[str], solutions: list[object], columns: Columns | None
) -> None:
    file = put(tmp_path, "r.json", sparql(variables, *solutions))
    assert facts(TripleFile(file, columns=columns)) == OAK


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (sparql(["a", "b"]), r'r\.json:\d+: results of a SPARQL query with 2 variables, "a", "b": a fact is three'),
        (sparql(["a", "b", "c", "d"]), r"choose: columns=Columns\(name='VARIABLE'"),
        (sparql(["item", "itemLabel", "population"]), r"columns=Columns\(name='itemLabel', ignore=\('item',\)\)"),
        ('{"head": [], "results": {"bindings": []}}', 'need {"head": {"vars"'),
        (sparql(["s", "p", "o"], terms(s="a", p="b")), r"r\.json:\d+: missing field"),
        (sparql(["s", "p", "o"], {"s": "a"}), r"the term of \?s needs"),
        (sparql(["s", "p", "o"], ["a"]), "expected a solution of the query, got a list"),
        ('{"head": {"link": []}, "boolean": true}', "the object is no triple"),
    ],
)
def test_results_that_are_no_triples_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TripleFormatError, match=message):
        TripleFile(put(tmp_path, "r.json", text))


def test_the_order_of_variables_is_told_as_a_guess(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    solutions = [terms(tree=s, what=p, it=o) for s, p, o in OAK]
    TripleFile(put(tmp_path, "a.json", sparql(["tree", "what", "it"], *solutions)))
    assert "a.json: read 'tree' as name, 'what' as property, 'it' as value" in caplog.text


def test_variables_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    solutions = [terms(s=s, p=p, o=o, g="http://e/g", question="?") for s, p, o in OAK]
    del solutions[0]["question"]
    TripleFile(put(tmp_path, "a.json", sparql(["s", "p", "o", "g", "question"], *solutions)))
    assert "a.json: fields that are no part of a triple were not read: 'g' (2 times), 'question' (once)" in caplog.text


def test_the_choice_that_is_offered_for_a_label_reads_the_file(tmp_path: Path) -> None:
    berlin = terms(item="http://www.wikidata.org/entity/Q64", itemLabel="Berlin", population="3644826")
    path = put(tmp_path, "a.json", sparql(["item", "itemLabel", "population"], berlin))
    assert facts(TripleFile(path, columns=Columns(name="itemLabel", ignore=("item",)))) == [
        ("Berlin", "population", "3644826")
    ]
