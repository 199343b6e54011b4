"""Property graphs: GraphML, networkx, LightRAG, LlamaIndex, ladybug's files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networkx
import pytest

from kblam.data.importing import BadRows, LlamaIndexGraph, NetworkxGraph, open_sources
from kblam.errors import BadLinesError, DataError, TripleFormatError
from kblam.knowledge import Columns
from tests.data.importing.reading import facts, read, written

FOUND = {
    ("Ann", "age"): "30",
    ("Ann", "works at"): "Acme",
    ("Ann", "since (works at Acme)"): "1999",
    ("Acme", "city"): "Oslo",
    ("Ann", "related to"): "Bo",
}


def graph() -> Any:
    made = networkx.DiGraph()
    made.add_node("Ann", age=30)
    made.add_node("n2", name="Acme", city="Oslo")
    made.add_edge("Ann", "n2", label="WORKS_AT", since=1999)
    made.add_edge("Ann", "Bo")
    return made


def test_a_graph_of_networkx_and_its_graphml_say_the_same(tmp_path: Path) -> None:
    assert read([NetworkxGraph(graph())])[0] == FOUND
    networkx.write_graphml(graph(), tmp_path / "a.graphml")
    assert facts(tmp_path / "a.graphml") == FOUND


def test_a_graph_whose_labels_are_its_names(tmp_path: Path) -> None:
    made = networkx.DiGraph()
    made.add_node("n0", label="Ann")
    made.add_node("n1", title="Acme")
    made.add_node("Bo", label="")
    made.add_edge("n0", "n1", Label="WORKS_AT")
    made.add_edge("n1", "Bo", label="")
    found = {("Ann", "works at"): "Acme", ("Acme", "related to"): "Bo"}
    assert read([NetworkxGraph(made)])[0] == found
    networkx.write_graphml(made, tmp_path / "a.graphml")
    assert facts(tmp_path / "a.graphml") == found


def test_gephi_s_labels(tmp_path: Path) -> None:
    text = (
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key attr.name="Label" for="node" id="label"/>'
        '<key attr.name="Edge Label" for="edge" id="edgelabel"/><key attr.name="r" attr.type="int" for="node" id="r"/>'
        '<graph><node id="n0"><data key="label">Ann</data><data key="r">12</data></node>'
        '<node id="n1"><data key="label">Acme</data></node>'
        '<edge source="n0" target="n1"><data key="edgelabel">works at</data></edge></graph></graphml>'
    )
    assert facts(written(tmp_path / "a.graphml", text)) == {("Ann", "r"): "12", ("Ann", "works at"): "Acme"}


def test_yed_s_labels(tmp_path: Path) -> None:
    """In the drawing of each thing, beside white space; a group has its label twice."""
    shape = "<y:ShapeNode>\n <y:Fill/>\n <y:NodeLabel>{}<y:Model/></y:NodeLabel>\n {}</y:ShapeNode>"
    more = "<y:NodeLabel>- age: int</y:NodeLabel>"
    group = "<y:GroupNode><y:NodeLabel>Acme</y:NodeLabel></y:GroupNode>" * 2
    text = (
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">'
        '<key for="node" id="d6" yfiles.type="nodegraphics"/><key for="edge" id="d9" yfiles.type="edgegraphics"/>'
        f'<graph><node id="n0"><data key="d6">{shape.format("Ann&#10; Lee", more)}</data></node>'
        f'<node id="n1"><data key="d6">{group}</data></node>'
        f'<node id="n2"><data key="d6">{shape.format("", "")}</data></node>'
        '<edge source="n0" target="n1"><data key="d9"><y:PolyLineEdge> <y:EdgeLabel>works at</y:EdgeLabel>\n'
        '</y:PolyLineEdge></data></edge><edge source="n1" target="n2"/></graph></graphml>'
    )
    found, report = read(open_sources([str(written(tmp_path / "a.graphml", text))]))
    assert found == {("Ann Lee", "works at"): "Acme", ("Acme", "related to"): "n2"}
    assert report.dropped == {"a further label of yEd's drawing of one thing": 1}


def test_bad_elements_of_graphml_have_their_line(tmp_path: Path) -> None:
    text = (
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
        '<key id="d0" for="node" attr.name="age" attr.type="int"/>'
        '<key id="d1" for="node" attr.name="kind"><default>tree</default></key><graph>\n'
        '<node id="Oak"><data key="d0">old</data></node>\n<node id="Elm"/>\n<edge source="Elm"/>\n'
        '<node id="Fir"><data key="d1">bush</data><port name="p"/></node></graph></graphml>'
    )

    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(written(tmp_path / "a.graphml", text))]), bad_rows=rows)
    rows.close()
    assert found == {("Elm", "kind"): "tree", ("Fir", "kind"): "bush"}
    assert report.dropped == {"GraphML's <port>": 1}
    told = [json.loads(line) for line in rows.path.read_text().splitlines()]
    assert [(each["line"], each["reason"]) for each in told] == [
        (2, "<node>: age must be int, got 'old'"),
        (4, "<edge>: it has no target"),
    ]


def test_lightrags_graph_without_what_only_lightrag_needs(tmp_path: Path) -> None:
    made = networkx.Graph()
    made.add_node("ACME", entity_id="ACME", entity_type="organization", description="Makes casks<SEP>Is in Oslo",
                  source_id="chunk-1<SEP>chunk-2", file_path="a.md", created_at=1)  # fmt: skip
    made.add_node("ANN", entity_id="ANN", entity_type="person", description="", source_id="chunk-1", file_path="a.md")
    made.add_edge("ANN", "ACME", weight=2.0, description="Ann leads Acme", keywords="leading", source_id="chunk-1")
    networkx.write_graphml(made, tmp_path / "graph_chunk_entity_relation.graphml")
    found, report = read(open_sources([str(tmp_path)]))
    edge = ("ACME", "ANN") if ("ACME", "relation to ANN") in found else ("ANN", "ACME")
    assert found == {
        ("ACME", "entity type"): "organization",
        ("ACME", "description"): "Makes casks, Is in Oslo",
        ("ANN", "entity type"): "person",
        (edge[0], f"relation to {edge[1]}"): "Ann leads Acme",
        (edge[0], f"weight (relation to {edge[1]})"): "2.0",
        (edge[0], f"keywords (relation to {edge[1]})"): "leading",
    }
    assert sum(report.dropped.values()) == 6


@dataclass
class EntityNode:
    """As LlamaIndex's."""

    name: str
    label: str = "entity"
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.name


@dataclass
class Relation:
    """As LlamaIndex's."""

    label: str
    properties: dict[str, Any] = field(default_factory=dict)


class Store:
    """The one method of a PropertyGraphStore that is asked for."""

    def get_triplets(self) -> list[tuple[Any, Any, Any]]:
        ann, acme = EntityNode("Ann", "PERSON", {"age": 30, "triplet_source_id": "x"}), EntityNode("Acme", "ORG")
        passage = type("ChunkNode", (), {"id": "chunk", "text": "Ann works at Acme"})()
        return [(ann, Relation("WORKS_AT", {"since": 1999}), acme), (passage, Relation("MENTIONS"), ann)]


ANN = {
    ("Ann", "type"): "person",
    ("Ann", "age"): "30",
    ("Ann", "works at"): "Acme",
    ("Ann", "since (works at Acme)"): "1999",
    ("Acme", "type"): "ORG",
}


def test_a_property_graph_store_of_llama_index() -> None:
    found, report = read([LlamaIndexGraph(Store())])
    assert found == ANN
    assert sum(report.dropped.values()) == 2
    assert report.dropped["a relation to a passage of text"] == 1


def test_llama_index_s_own_store_and_the_file_it_writes(tmp_path: Path) -> None:
    """Its `get_triplets()` gives nothing where it is not told of what."""
    stores = pytest.importorskip("llama_index.core.graph_stores")
    types = pytest.importorskip("llama_index.core.graph_stores.types")
    store = stores.SimplePropertyGraphStore()
    ann = types.EntityNode(name="Ann", label="PERSON", properties={"age": 30, "triplet_source_id": "x"})
    acme, alone = types.EntityNode(name="Acme", label="ORG"), types.EntityNode(name="Zenith", label="ORG")
    passage = types.ChunkNode(text="Ann works at Acme", id_="chunk")
    store.upsert_nodes([ann, acme, alone, passage])
    works = types.Relation(label="WORKS_AT", source_id="Ann", target_id="Acme", properties={"since": 1999})
    store.upsert_relations([works, types.Relation(label="MENTIONS", source_id="chunk", target_id="Ann")])
    found, report = read([LlamaIndexGraph(store)])
    assert found == {**ANN, ("Zenith", "type"): "ORG"}
    assert report.dropped["a relation to a passage of text"] == 1
    store.persist(str(tmp_path / "property_graph_store.json"))
    persisted, report = read(open_sources([str(tmp_path)]))
    assert persisted == found
    assert report.dropped["a relation to a passage of text"] == 1


def test_all_texts_of_one_name_are_read(tmp_path: Path) -> None:
    text = (
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns"><key id="d0" for="node" attr.name="use"/>'
        '<key id="d1" for="node" attr.name="use"/><graph><node id="Oak"><data key="d0">ships</data>'
        '<data key="d0">casks</data><data key="d1">doors</data><data key="d1">ships</data></node></graph></graphml>'
    )
    assert facts(written(tmp_path / "a.graphml", text)) == {("Oak", "use"): "ships, casks, doors"}


def test_a_file_of_llama_index_keeps_the_digits_of_its_numbers(tmp_path: Path) -> None:
    numbers = '{"a": 20.50, "b": 123456789012345678901.5, "c": 0.25, "d": NaN, "e": 1e400, "f": 12}'
    text = f'{{"nodes": {{"Ann": {{"name": "Ann", "properties": {numbers}}}}}, "relations": {{}}}}'
    found = facts(written(tmp_path / "property_graph_store.json", text))
    kept = {"a": "20.50", "b": "123456789012345678901.5", "c": "0.25", "e": "1e400", "f": "12"}
    assert found == {("Ann", prop): value for prop, value in kept.items()}


def test_half_of_a_surrogate_pair_is_left_out_and_counted(tmp_path: Path) -> None:
    graph = networkx.DiGraph()
    graph.add_node("Ann", age=30, note="a\ud800b")
    graph.add_node("\udc00", age=31)
    found, report = read([NetworkxGraph(graph)])
    assert found == {("Ann", "age"): "30"}
    assert report.dropped == {"a text that cannot be stored": 2, "a name that cannot be stored": 1}
    nodes = '{"Ann": {"name": "A\\ud800", "properties": {"age": 30, "note": "\\ud800"}}}'
    path = written(tmp_path / "property_graph_store.json", f'{{"nodes": {nodes}, "relations": {{}}}}')
    found, report = read(open_sources([str(path)]))
    assert found == {("Ann", "age"): "30"}
    assert report.dropped == {"a text that cannot be stored": 1, "a name that cannot be stored": 1}


def test_nodes_of_networkx_that_read_alike_are_told_apart() -> None:
    graph = networkx.DiGraph()
    graph.add_edge(1, "Acme", label="WORKS_AT")
    graph.add_edge("1", 1, label="knows")
    graph.add_node(2, age=30)
    found, report = read([NetworkxGraph(graph)])
    assert found == {("1 (1, int)", "works at"): "Acme", ("1 ('1', str)", "knows"): "1 (1, int)", ("2", "age"): "30"}
    assert report.told_apart == 2
    graph.nodes[1]["name"] = "Ann"
    found, _ = read([NetworkxGraph(graph)])
    assert found == {("Ann", "works at"): "Acme", ("1", "knows"): "Ann", ("2", "age"): "30"}


def test_nodes_of_networkx_that_read_and_are_written_alike() -> None:
    class Thing:
        def __repr__(self) -> str:
            return "a thing"

    graph = networkx.DiGraph()
    one, other = Thing(), Thing()
    graph.add_edge(one, other, label="knows")
    graph.add_edge(other, one, label="likes")
    first, second = "a thing (a thing, Thing)", "a thing (a thing, Thing 2)"
    assert read([NetworkxGraph(graph)])[0] == {(first, "knows"): second, (second, "likes"): first}


def test_keys_of_networkx_may_be_of_any_kind() -> None:
    graph = networkx.DiGraph()
    graph.add_edge("Ann", "Acme")
    graph.nodes["Ann"][1999] = "born"
    graph.edges["Ann", "Acme"][7] = "days"
    found, _ = read([NetworkxGraph(graph)])
    assert found["Ann", "1999"] == "born"
    assert found["Ann", "7 (relation to Acme)"] == "days"


@pytest.mark.parametrize(
    "part",
    [
        {"nodes": {"Ann": 7, "Bo": {"name": "Bo", "properties": {"age": 1}}}},
        {"nodes": {"Ann": {"name": "Ann", "properties": [1]}, "Bo": {"name": "Bo", "properties": {"age": 1}}}},
        {"nodes": {"Bo": {"name": "Bo", "properties": {"age": 1}}}, "relations": {"a": "b"}},
        {
            "nodes": {"Bo": {"name": "Bo", "properties": {"age": 1}}, "no name": "name"},
            "relations": {"a": {"source_id": "Bo", "target_id": "no name"}},
        },
    ],
)
def test_bad_parts_of_what_llama_index_persists_are_told(tmp_path: Path, part: dict) -> None:
    path = written(tmp_path / "property_graph_store.json", json.dumps({"nodes": {}, "relations": {}, **part}))
    with pytest.raises(TripleFormatError, match="is no object, or its properties are none"):
        read(open_sources([str(path)]))
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(path)]), bad_rows=rows)
    rows.close()
    assert (found, report.bad) == ({("Bo", "age"): "1"}, 1)


def test_the_file_that_llama_index_persists(tmp_path: Path) -> None:
    held = {
        "nodes": {
            "Ann": {"label": "PERSON", "name": "Ann", "properties": {"age": 30}, "embedding": None},
            "Acme": {"label": "ORG", "name": "Acme", "properties": {}},
            "chunk": {"label": "text_chunk", "text": "Ann works at Acme"},
        },
        "relations": {
            "Ann_WORKS_AT_Acme": {"label": "WORKS_AT", "source_id": "Ann", "target_id": "Acme", "properties": {}},
            "chunk_MENTIONS_Ann": {"label": "MENTIONS", "source_id": "chunk", "target_id": "Ann", "properties": {}},
        },
        "triplets": [["Ann", "WORKS_AT", "Acme"]],
    }
    written(tmp_path / "property_graph_store.json", json.dumps(held))
    found, report = read(open_sources([str(tmp_path)]))
    assert found[("Ann", "works at")] == "Acme"
    assert report.dropped == {"a relation to a passage of text": 1}


def test_what_llama_index_copies_from_a_passage_is_none_of_the_things_in_it(tmp_path: Path) -> None:
    """As `PropertyGraphIndex` writes it, of documents that `SimpleDirectoryReader` read."""
    of_file = {"file_name": "staff.txt", "creation_date": "2026-01-02"}
    found_in = {"triplet_source_id": "p1"}
    nodes = {
        "p1": {"label": "text_chunk", "text": "Ann works at Acme", "id_": "p1", "properties": of_file},
        "Ann": {"label": "entity", "name": "Ann", "properties": {"age": 30, **of_file, **found_in}},
        "Acme": {"label": "Entity", "name": "Acme", "properties": {"file_name": "acme.txt", **found_in}},
    }
    held: dict[str, Any] = {"nodes": nodes}
    relation = {"label": "works at", "source_id": "Ann", "target_id": "Acme", "properties": {**of_file, **found_in}}
    held["relations"] = {"Ann_works at_Acme": relation}
    path = written(tmp_path / "property_graph_store.json", json.dumps(held))
    passage, ann, acme = (SimpleNamespace(id=key, **{"properties": {}, **node}) for key, node in nodes.items())
    triplets = [(ann, SimpleNamespace(**relation), acme)]
    store = SimpleNamespace(get=lambda: [passage, ann, acme], get_triplets=lambda: triplets)
    for source in (open_sources([str(path)]), [LlamaIndexGraph(store)]):
        found, report = read(source)
        assert found == {("Ann", "age"): "30", ("Acme", "file name"): "acme.txt", ("Ann", "works at"): "Acme"}
        (copied,) = [count for reason, count in report.dropped.items() if "the passage that says it" in reason]
        assert copied == 4


def embedded_with(path: Path, *statements: str) -> Path:
    """A file that ladybug itself writes."""
    ladybug = pytest.importorskip("ladybug")
    database = ladybug.Database(str(path))
    connection = ladybug.Connection(database)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    database.close()
    return path


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    return embedded_with(
        tmp_path / "g.lbug",
        "CREATE NODE TABLE Person(name STRING PRIMARY KEY, born DATE, tags STRING[], photo BLOB)",
        "CREATE NODE TABLE City(id INT64 PRIMARY KEY, title STRING)",
        "CREATE REL TABLE LIVES_IN(FROM Person TO City, since INT64)",
        "CREATE (:Person {name: 'Ann', born: date('2001-02-03'), tags: ['a', 'b'], photo: BLOB('\\\\xAA')})",
        "CREATE (:City {id: 7, title: 'Oslo'})",
        "MATCH (p:Person), (c:City) CREATE (p)-[:LIVES_IN {since: 2010}]->(c)",
    )


def test_things_of_an_embedded_graph_are_known_by_their_primary_keys(tmp_path: Path) -> None:
    path = embedded_with(
        tmp_path / "g.lbug",
        "CREATE NODE TABLE Person(number INT64 PRIMARY KEY, name STRING)",
        "CREATE NODE TABLE `Spare ``part's`(sku STRING PRIMARY KEY, weight FLOAT, sizes FLOAT[], _shelf STRING)",
        "CREATE REL TABLE `sold by`(FROM `Spare ``part's` TO Person, FROM Person TO Person, share FLOAT)",
        "CREATE (:Person {number: 7, name: 'Bob'})",
        "CREATE (:Person {number: 8, name: 'Bob'})",
        "CREATE (:Person {number: 9})",
        "CREATE (:`Spare ``part's` {sku: 'X-1', weight: 0.1, sizes: [0.1, 2.0], _shelf: 'A'})",
        "MATCH (s:`Spare ``part's`), (p:Person {number: 8}) CREATE (s)-[:`sold by` {share: 0.3}]->(p)",
        "MATCH (p:Person {number: 8}), (q:Person {number: 9}) CREATE (p)-[:`sold by`]->(q)",
    )
    found, report = read(open_sources([str(path)]))
    assert {name for name, _ in found} == {"Bob (7)", "Bob (8)", "Person 9", "X-1"}
    assert found[("Person 9", "number")] == "9"
    parts = {prop: value for (name, prop), value in found.items() if name == "X-1"}
    assert parts == {
        "type": "Spare `part's",
        "weight": "0.1",
        "sizes": "0.1, 2",
        "shelf": "A",
        "sold by": "Bob (8)",
        "share (sold by Bob (8))": "0.3",
    }
    assert found[("Bob (8)", "sold by")] == "Person 9"
    assert report.dropped == {}


def test_a_query_returns_properties_and_binary_data_in_it_is_counted(embedded: Path) -> None:
    for query in ("MATCH (p:Person) RETURN p", "MATCH (q)-[p]->(r) RETURN p", "MATCH p = (q)-[r*1..2]->(s) RETURN p"):
        with pytest.raises(DataError, match=r"returns 'p', a whole node, edge or path; .* such as p\.name AS name"):
            read(open_sources([str(embedded)], query=query))
    query = "MATCH (p:Person) RETURN p.name AS name, p.photo AS photo, cast(0.1 AS FLOAT) AS share"
    found, report = read(open_sources([str(embedded)], query=query))
    assert found == {("Ann", "share"): "0.1"}
    assert report.dropped == {"a cell of a column that is no part of a fact": 1}


def test_an_embedded_graph_is_read_and_not_written(embedded: Path) -> None:
    before = embedded.read_bytes()
    found, report = read(open_sources([str(embedded)]))
    assert found == {
        ("Ann", "type"): "Person",
        ("Ann", "born"): "2001-02-03",
        ("Ann", "tags"): "a, b",
        ("Ann", "lives in"): "Oslo",
        ("Ann", "since (lives in Oslo)"): "2010",
        ("Oslo", "type"): "City",
        ("Oslo", "id"): "7",
    }
    assert report.dropped == {"binary data": 1}
    assert embedded.read_bytes() == before


def test_a_query_chooses_what_is_read(embedded: Path) -> None:
    query = "MATCH (p:Person)-[r:LIVES_IN]->(c) RETURN p.name AS name, 'home' AS property, c.title AS value"
    assert read(open_sources([str(embedded)], query=query))[0] == {("Ann", "home"): "Oslo"}
    query = "MATCH (p:Person) RETURN p.name AS who, p.born AS born"
    found = read(open_sources([str(embedded)], query=query, columns=Columns(name="who")))[0]
    assert found == {("Ann", "born"): "2001-02-03"}
    with pytest.raises(DataError, match="refuses the query"):
        read(open_sources([str(embedded)], query="MATCH (p:Nobody) RETURN p"))


def of_people(path: Path, *people: tuple[str, str, int]) -> Path:
    made = networkx.DiGraph()
    for key, name, age in people:
        made.add_node(key, name=name, age=age)
    networkx.write_graphml(made, path)
    return path


def test_an_id_of_a_graph_says_nothing_of_another_graph(tmp_path: Path) -> None:
    one = of_people(tmp_path / "one.graphml", ("n0", "Ann", 30), ("n1", "Bo", 31), ("n2", "Bo", 32))
    other = of_people(tmp_path / "other.graphml", ("n0", "Cy", 40), ("n1", "Ann", 30))
    found, report = read(open_sources([str(one), str(other)]))
    ages = {("Ann", "age"): "30", ("Bo (n1)", "age"): "31", ("Bo (n2)", "age"): "32", ("Cy", "age"): "40"}
    assert found == ages
    assert (report.told_apart, report.repeated) == (2, 1)


def test_ports_and_inner_graphs_are_counted_and_say_nothing_of_their_node(tmp_path: Path) -> None:
    text = (
        '<graphml><key id="n" for="all" attr.name="name"/><graph><data key="n">all trees</data>'
        '<node id="1"><port name="p"><data key="n">hole</data></port><data key="n">Oak</data>'
        '<graph><node id="2"><data key="n">Bough</data></node></graph></node>'
        '<edge source="2" target="1"/></graph></graphml>'
    )
    found, report = read(open_sources([str(written(tmp_path / "a.graphml", text))]))
    assert found == {("Bough", "related to"): "Oak"}
    assert report.dropped == {
        "GraphML's <port>": 1,
        "a graph inside a node of GraphML (what is in it is read, not where it is)": 1,
        "data of a graph as a whole": 1,
    }


@pytest.mark.parametrize("name", ["a.graphml", "a.rdf"])
@pytest.mark.parametrize(("encoding", "told"), [("x-foo", "unknown encoding: x-foo"), ("shift_jis", "multi-byte")])
def test_an_encoding_that_the_parser_does_not_know(tmp_path: Path, name: str, encoding: str, told: str) -> None:
    path = written(tmp_path / name, f'<?xml version="1.0" encoding="{encoding}"?><graphml/>')
    with pytest.raises(TripleFormatError, match=rf"{name}:1: .*{told}.*UTF-8"):
        facts(path)


@pytest.mark.parametrize(
    ("name", "begin"),
    [("a.graphml", "<graphml>"), ("a.rdf", '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">')],
)
def test_a_tag_without_an_end_is_refused_before_it_takes_minutes(
    tmp_path: Path, name: str, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.data.importing.guards.LONGEST_TOKEN", 2**18)
    path = written(tmp_path / name, f'{begin}\n<r:Description r:about="{"x" * 2**21}"/>')
    with pytest.raises(TripleFormatError, match=rf"{name}:2: .* longer than 262,144 bytes"):
        facts(path)


def test_a_row_of_a_query_has_no_line(embedded: Path) -> None:
    query = "MATCH (p:Person) RETURN p.born AS born"
    with pytest.raises(TripleFormatError, match=r"g\.lbug: row 1 of the query: missing field"):
        read(open_sources([str(embedded)], query=f"{query} LIMIT 1"))
    with pytest.raises(BadLinesError) as caught:
        read(open_sources([str(embedded)], query=f"{query} UNION ALL {query}"))
    assert caught.value.line is None
    assert caught.value.details[0].startswith("row 1 of the query: ")


def test_two_columns_of_a_query_with_one_name_are_refused(embedded: Path) -> None:
    query = "MATCH (p:Person) RETURN p.name AS name, p.born AS name, p.born AS born"
    with pytest.raises(DataError, match="two columns called 'name'"):
        read(open_sources([str(embedded)], query=query))
