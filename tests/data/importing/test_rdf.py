"""RDF: what survives of names, languages, units, lists and things without a name; pyoxigraph beside rdflib."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
import rdflib

from kblam.data.importing import BadRows, Languages, RdflibGraph, naming, open_sources
from kblam.data.importing.words import local_name
from kblam.errors import DataError, TripleFormatError
from tests.data.importing.reading import facts, read, written

TURTLE = """
@prefix ex: <http://ex.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix qudt: <http://qudt.org/schema/qudt/> .
ex:Q1 rdfs:label "Berlin"@en, "Berlín"@es ; a ex:CapitalCity ; ex:founded "1237-10-28"^^xsd:date ; ex:isIn ex:Q2 ;
  ex:mayor [ ex:firstName "Kai" ; ex:since 2023 ] ; ex:colors ("red" "white") ; ex:twin ex:Q3, ex:New_York ;
  ex:area [ qudt:numericValue 891.3 ; qudt:unit <http://qudt.org/vocab/unit/KM2> ] ;
  ex:height "115"^^<http://dbpedia.org/datatype/metre> ; ex:growth 2.5e0 ; ex:page <https://berlin.de/> ;
  ex:mail <mailto:a@berlin.de> .
ex:Q2 rdfs:label "Germany"@en ; ex:motto "Einigkeit"@de, "Unity"@en .
ex:Q3 rdfs:label "Berlin"@en ; ex:state ex:New_Hampshire .
ex:New_York ex:flag "AAAA"^^xsd:base64Binary ; ex:motto "Excelsior" .
ex:mayor rdfs:label "head of the city"@en .
"""
BERLIN = {
    "name": "Berlin",
    "name (es)": "Berlín",
    "type": "capital city",
    "founded": "1237-10-28",
    "is in": "Germany",
    "head of the city first name": "Kai",
    "head of the city since": "2023",
    "colors": "red, white",
    "twin": "Berlin (Q3), New York",
    "area": "891.3 KM2",
    "height": "115 metre",
    "growth": "2.5",
    "page": "https://berlin.de/",
    "mail": "a@berlin.de",
}


def test_names_languages_units_dates_lists_and_inner_things_survive(tmp_path: Path) -> None:
    found, report = read(open_sources([str(written(tmp_path / "a.ttl", TURTLE))]))
    assert {prop: value for (name, prop), value in found.items() if name == "Berlin (Q1)"} == BERLIN
    assert found["Germany", "motto"] == "Unity"
    assert found["Germany", "motto (de)"] == "Einigkeit"
    assert found["New York", "motto"] == "Excelsior"
    assert report.dropped == {"binary data": 1}
    assert (report.told_apart, report.unnamed, report.several) == (2, 1, 2)


def test_languages_are_chosen_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ttl", TURTLE)
    found = facts(path, "de,*")
    assert found["Germany", "motto"] == "Einigkeit"
    assert found["Germany", "motto (en)"] == "Unity"

    found, report = read(open_sources([str(path)]), languages=Languages(["en"]))
    assert ("Germany", "motto (de)") not in found
    assert report.dropped["a text in another language than en"] == 2
    with pytest.raises(DataError, match="no tag of a language"):
        Languages(["english!"])


def test_a_graph_of_rdflib_says_the_same(tmp_path: Path) -> None:
    graph = rdflib.Graph().parse(data=TURTLE, format="turtle")
    told = read([RdflibGraph(graph)])[0]
    # rdflib has its own order, so joined values may stand in another.
    assert {each: sorted(value.split(", ")) for each, value in told.items()} == {
        each: sorted(value.split(", ")) for each, value in facts(written(tmp_path / "a.ttl", TURTLE)).items()
    }


@pytest.mark.parametrize(
    ("suffix", "format"),
    [("nt", "nt"), ("rdf", "xml"), ("n3", "n3"), ("trig", "trig"), ("nq", "nquads"), ("jsonld", "json-ld")],
)
def test_other_forms_say_the_same(tmp_path: Path, suffix: str, format: str) -> None:
    dataset = rdflib.Dataset()
    graph = dataset.default_graph if suffix in ("trig", "nq") else rdflib.Graph()
    graph.parse(data="\n".join(line for line in TURTLE.splitlines() if "base64" not in line), format="turtle")
    text = (dataset if suffix in ("trig", "nq") else graph).serialize(format=format)
    found = facts(written(tmp_path / f"a.{suffix}", text))
    told = {prop: sorted(value.split(", ")) for (name, prop), value in found.items() if name == "Berlin (Q1)"}
    assert told == {prop: sorted(value.split(", ")) for prop, value in BERLIN.items()}


WIKIDATA = """
@prefix wd: <http://www.wikidata.org/entity/> .
@prefix wds: <http://www.wikidata.org/entity/statement/> .
@prefix prop: <http://www.wikidata.org/prop/> .
@prefix ps: <http://www.wikidata.org/prop/statement/> .
@prefix pq: <http://www.wikidata.org/prop/qualifier/> .
@prefix wdt: <http://www.wikidata.org/prop/direct/> .
@prefix wdtn: <http://www.wikidata.org/prop/direct-normalized/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
wd:Q64 rdfs:label "Berlin"@en ; wdt:P1082 3755251 ; prop:P1082 wds:Q64-1, wds:Q64-2 .
wd:Q64 wdt:P227 "4005728-8" ; wdtn:P227 <https://d-nb.info/gnd/4005728-8> .
wds:Q64-1 ps:P1082 3755251 ; pq:P585 "2022-12-31" .
wds:Q64-2 ps:P1082 3574830 .
wd:P1082 rdfs:label "population"@en .
wd:P585 rdfs:label "point in time"@en .
wd:P227 rdfs:label "GND ID"@en .
"""


def test_every_predicate_of_a_property_of_wikidata_has_its_label(tmp_path: Path) -> None:
    """What statements say is no further value: Berlin has one population, not all that it ever had."""
    assert facts(written(tmp_path / "a.ttl", WIKIDATA)) == {
        ("Berlin", "population"): "3755251",
        ("Berlin", "population (statement)"): "Q64-1, Q64-2",
        ("Berlin", "GND ID"): "4005728-8",
        ("Berlin", "GND ID (normalized)"): "https://d-nb.info/gnd/4005728-8",
        ("Q64-1", "population"): "3755251",
        ("Q64-1", "point in time"): "2022-12-31",
        ("Q64-2", "population"): "3574830",
    }


JSON_LD = """{
  "@context": {"@vocab": "http://schema.org/", "knows": {"@type": "@id"}, "born": {"@type": "http://www.w3.org/2001/XMLSchema#date"}},
  "@graph": [
    {"@id": "http://e/ann", "@type": "Person", "name": "Ann Lee", "knows": "http://e/bo", "born": "2001-02-03",
     "address": {"streetAddress": "1 Sea Lane", "geo": {"latitude": 1.5}}, "award": {"@list": ["Gold", "Oak"]},
     "weight": {"value": 61, "unitText": "kg"}, "worksFor": {"name": "Acme", "foundingDate": "1999"}},
    {"@id": "http://e/bo", "name": {"@value": "Bo", "@language": "en"}}
  ]
}"""


def test_json_ld_has_inner_things_and_amounts_with_units(tmp_path: Path) -> None:
    assert facts(written(tmp_path / "a.jsonld", JSON_LD)) == {
        ("Ann Lee", "type"): "Person",
        ("Ann Lee", "knows"): "Bo",
        ("Ann Lee", "born"): "2001-02-03",
        ("Ann Lee", "address street address"): "1 Sea Lane",
        ("Ann Lee", "address geo latitude"): "1.5",
        ("Ann Lee", "award"): "Gold, Oak",
        ("Ann Lee", "weight"): "61 kg",
        ("Ann Lee", "works for"): "Acme",
        ("Acme", "founding date"): "1999",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"@context": "https://schema.org/", "name": "Ann"}', "never fetched"),
        ('{"@context": {"a": {"@id": "b"}, "b": {"@id": "a:x"}}, "a": "c"}', "Cyclic"),
        ('{"@context": {"@vocab": "http://s/"}, "name": ', "Parser error|end of"),
    ],
    ids=["remote", "cyclic", "cut short"],
)
def test_contexts_that_are_remote_or_lead_in_circles_are_refused(
    tmp_path: Path, text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", never)
    with pytest.raises(TripleFormatError, match=told) as caught:
        facts(written(tmp_path / "a.jsonld", text))
    assert str(tmp_path / "a.jsonld") in str(caught.value)


def test_things_that_lead_back_to_themselves_are_counted(tmp_path: Path) -> None:
    text = '_:a <http://e/p> _:b .\n_:b <http://e/p> _:a .\n_:b <http://e/q> "z" .\n<http://e/x> <http://e/r> "1" .\n'
    found, report = read(open_sources([str(written(tmp_path / "a.nt", text))]))
    assert found == {("x", "r"): "1"}
    assert list(report.dropped.values()) == [3]


def test_a_long_list_is_one_value_and_too_much_of_it_is_counted(tmp_path: Path) -> None:
    items = " ".join(f'"value number {number}"' for number in range(300))
    found, report = read(open_sources([str(written(tmp_path / "a.ttl", f"<http://e/a> <http://e/p> ({items}) ."))]))
    assert found["a", "p"].startswith("value number 0, value number 1, ")
    assert len(found["a", "p"]) <= 1000
    kept = found["a", "p"].count(",") + 1
    assert sum(report.dropped.values()) == 300 - kept


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_a_list_of_any_length_belongs_to_its_owner_in_whatever_order_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    rdf, count, asked = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", 2500, list[str]()
    leading_to = naming.Naming._leading_to
    monkeypatch.setattr(
        naming.Naming, "_leading_to", lambda self, node, most: asked.append(node) or leading_to(self, node, most)
    )
    lines = ["<http://e/a> <http://e/p> _:n0 .\n"]
    for number in range(count):
        after = f"_:n{number + 1}" if number + 1 < count else f"<{rdf}nil>"
        lines += [f'_:n{number} <{rdf}first> "{number}" .\n', f"_:n{number} <{rdf}rest> {after} .\n"]
    found, report = read(open_sources([str(written(tmp_path / "a.nt", "".join(lines[::order])))]))
    assert list(found) == [("a", "p")]
    values = found["a", "p"].split(", ")
    assert values == [str(number) for number in range(count)][: len(values)]
    assert sum(report.dropped.values()) == count - len(values)
    assert [reason.partition(",")[0] for reason in report.dropped] == ["a further value of one property"]
    assert len(asked) == 1


def test_lists_keep_their_order_however_their_elements_are_written(tmp_path: Path) -> None:
    text = """@prefix e: <http://e/> . e:A e:steps ("mix" e:B ("knead" "wait") "bake") ; e:also "salt" , "oil" .
    e:B e:steps ("boil" "pour") ."""
    graph = rdflib.Graph().parse(data=text, format="turtle")
    lines = sorted(line for line in graph.serialize(format="nt").splitlines() if line)
    for seed in range(8):
        random.Random(seed).shuffle(lines)
        found = facts(written(tmp_path / "a.nt", "\n".join(lines)))
        assert found[("B", "steps")] == "boil, pour"
        steps = found[("A", "steps")].split(", ")
        assert [step for step in steps if step not in ("knead", "wait")] == ["mix", "B", "bake"]
        assert [step for step in steps if step in ("knead", "wait")] == ["knead", "wait"]
        assert sorted(found[("A", "also")].split(", ")) == ["oil", "salt"]


def test_an_end_that_two_lists_share_belongs_to_the_owners_of_both(tmp_path: Path) -> None:
    text = """@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . @prefix e: <http://e/> .
    _:z rdf:first "z" ; rdf:rest () . _:y rdf:first "y" ; rdf:rest _:z .
    _:b rdf:first "b" ; rdf:rest _:y . _:c rdf:first "c" ; rdf:rest _:y .
    e:B e:p _:b . e:C e:p _:c ."""
    assert facts(written(tmp_path / "a.ttl", text)) == {("B", "p"): "y, z, b", ("C", "p"): "y, z, c"}
    circle = """@prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> . @prefix e: <http://e/> .
    _:a rdf:first "1" ; rdf:rest _:b . _:b rdf:first "2" ; rdf:rest _:a . e:A e:p _:a . _:x rdf:rest _:x ; rdf:first 3 .
    e:B e:p "x" ."""
    found, report = read(open_sources([str(written(tmp_path / "b.ttl", circle))]))
    assert found == {("B", "p"): "x"}
    assert sum(report.dropped.values()) == 3


GRAPHS = '<http://e/a> <http://e/p> "1" <http://e/G> .\n<http://e/a> <http://e/q> "2" <http://e/H> .\n'


@pytest.mark.parametrize("suffix", ["nq", "trig", "jsonld"])
def test_names_of_graphs_are_counted_among_what_is_left_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    data = rdflib.Dataset()
    data.parse(data=GRAPHS, format="nquads")
    data.add((rdflib.URIRef("http://e/b"), rdflib.URIRef("http://e/p"), rdflib.Literal("3")))
    written(path, data.serialize(format={"nq": "nquads", "jsonld": "json-ld"}.get(suffix, suffix)))
    for source in (*open_sources([str(path)]), RdflibGraph(data)):
        found, report = read([source])
        assert found == {("a", "p"): "1", ("a", "q"): "2", ("b", "p"): "3"}
        assert report.read == 3
        (line,) = report.losses
        assert line.startswith("2 x the name of the graph that a fact is in, since the facts of all graphs are put")
        assert "http://e/G" in line
        assert "http://e/H" in line
    with pytest.raises(DataError, match="name of the graph"):
        read(open_sources([str(path)]), strict=True)


def test_compressed_dumps_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.nt.gz"
    path.write_bytes(gzip.compress(b'<http://e/a> <http://e/p> "1" .\n'))
    assert facts(path) == {("a", "p"): "1"}


def test_a_blank_node_belongs_to_its_file(tmp_path: Path) -> None:
    paths = []
    for one in ("Elm", "Oak"):
        text = f'<http://e/{one}> <http://e/address> _:b0 .\n_:b0 <http://e/street> "{one} St" .\n'
        paths.append(written(tmp_path / f"{one}.nt", text))
    found, _ = read(open_sources([str(path) for path in paths]))
    assert found == {("Elm", "address street"): "Elm St", ("Oak", "address street"): "Oak St"}


def test_numbers_that_no_float_holds_stay_as_they_are(tmp_path: Path) -> None:
    text = (
        "@prefix x: <http://www.w3.org/2001/XMLSchema#> ."
        '<http://e/a> <http://e/n> "1.0E400"^^x:double ; <http://e/m> "-Infe"^^x:double ;'
        '<http://e/k> "1.5e3"^^x:float .'
    )
    found = facts(written(tmp_path / "a.ttl", text))
    assert found == {("a", "n"): "1.0E400", ("a", "m"): "-Infe", ("a", "k"): "1500"}


def test_what_a_nameless_thing_says_is_said_of_all_that_share_it(tmp_path: Path) -> None:
    shared = "".join(f"ex:d{number} ex:address _:c .\n" for number in range(150))
    text = f'@prefix ex: <http://ex.org/> .\n_:c ex:street "Main St" .\n{shared}'
    assert facts(written(tmp_path / "a.ttl", text)) == {
        (f"d{number}", "address street"): "Main St" for number in range(150)
    }


def test_a_label_in_parts_is_no_fact_of_its_own(tmp_path: Path) -> None:
    text = """@prefix ex: <http://ex.org/> . @prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
    ex:c rdfs:label "Cafe\u0301" ; ex:city "Bern" ."""
    assert facts(written(tmp_path / "a.ttl", text)) == {("Café", "city"): "Bern"}


def test_numbers_are_written_as_people_write_them(tmp_path: Path) -> None:
    xsd, unit = "http://www.w3.org/2001/XMLSchema#", "http://dbpedia.org/datatype/"
    terms = {
        "areaTotal": f'"8.917E8"^^<{unit}squareMetre>',
        "height": f'"1.5e-3"^^<{unit}metre>',
        "population": f'"+3755251"^^<{xsd}decimal>',
        "floors": f'"+3"^^<{xsd}integer>',
        "depth": f'"1E400"^^<{unit}metre>',
        "code": '"+1E5"',
        "length": f'"1.2345678901234567890123E2"^^<{unit}metre>',
        "mole": f'"6.02214076E23"^^<{xsd}double>',
        "charge": f'"+1.602E-19"^^<{xsd}double>',
        "mass": f'"5.0E100"^^<{xsd}double>',
        "doors": f'"+4"^^<{xsd}nonNegativeInteger>',
    }
    lines = "".join(f"<http://x/Berlin> <http://x/{prop}> {term} .\n" for prop, term in terms.items())
    found = facts(written(tmp_path / "a.nt", lines))
    assert {prop: value for (_, prop), value in found.items()} == {
        "area total": "891700000 square metre",
        "height": "0.0015 metre",
        "population": "3755251",
        "floors": "3",
        "depth": "1E400 metre",
        "code": "+1E5",
        "length": "123.45678901234567890123 metre",
        "mole": "602214076000000000000000",
        "charge": "0.0000000000000000001602",
        "mass": "5.0E100",
        "doors": "4",
    }


def test_an_article_of_dbpedia_may_have_a_slash_in_its_name(tmp_path: Path) -> None:
    band = "http://dbpedia.org/resource/AC/DC"
    rock = "http://de.dbpedia.org/resource/Hard_Rock"
    text = f"<{band}> <http://x/genre> <{rock}> .\n<http://x/Back> <http://x/by> <{band}> .\n"
    assert facts(written(tmp_path / "a.nt", text)) == {
        ("AC/DC", "genre"): rock,
        ("Back", "by"): "AC/DC",
    }


def test_names_that_differ_by_what_nobody_sees_are_told_apart(tmp_path: Path) -> None:
    names = {"Q1": "Berlin", "Q2": "Berlin\u200b", "Q3": "\u00adBerlin\ufeff", "Q4": "\u200b"}
    label = "http://www.w3.org/2000/01/rdf-schema#label"
    lines = [
        f'<http://x/{id}> <{label}> "{name}" .\n<http://x/{id}> <http://x/area> "{id}" .' for id, name in names.items()
    ]
    found, report = read(open_sources([str(written(tmp_path / "a.nt", "\n".join(lines)))]))
    assert {name: value for (name, prop), value in found.items() if prop == "area"} == {
        "Berlin (Q1)": "Q1",
        "Berlin (Q2)": "Q2",
        "Berlin (Q3)": "Q3",
        "Q4": "Q4",
    }
    assert report.told_apart == 3


def test_a_line_without_its_end_is_bad_and_not_the_line_after_it(tmp_path: Path) -> None:
    lines = ['<http://x/a> <http://x/p> "1"', '<http://x/b> <http://x/p> "2" .', '<http://x/c> <http://x/p> "3" .']
    rows = BadRows(tmp_path / "bad.jsonl")
    found, report = read(open_sources([str(written(tmp_path / "a.nt", "\n".join(lines)))]), bad_rows=rows)
    assert found == {("b", "p"): "2", ("c", "p"): "3"}
    assert (report.read, report.bad) == (3, 1)
    assert json.loads((tmp_path / "bad.jsonl").read_text())["line"] == 1


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "UTF-16"])
def test_rdf_xml_of_another_encoding_is_refused_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    rdf = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
    text = f"""<?xml version="1.0" encoding="{encoding}"?><rdf:RDF xmlns:rdf="{rdf}" xmlns:x="http://x/">
    <rdf:Description rdf:about="http://x/a"><x:place>München</x:place></rdf:Description></rdf:RDF>"""
    with pytest.raises(TripleFormatError, match=r"save .+ as UTF-8"):
        read(open_sources([str(written(tmp_path / "a.rdf", text.encode(encoding)))]))


def test_many_values_with_one_unit_take_time_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(naming, "local_name", lambda iri: looked_at.append(iri) or local_name(iri))
    lines = [f"_:b <http://schema.org/value> {number} ." for number in range(200)]
    text = "\n".join(["<http://x/a> <http://x/mass> _:b .", *lines, '_:b <http://schema.org/unitText> "kg" .'])
    assert facts(written(tmp_path / "a.ttl", text))["a", "mass"].startswith("0 kg, 1 kg, 2 kg")
    assert len(looked_at) < 2000
