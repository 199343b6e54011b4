"""Bases for other tools: what is written is read back as it was."""

from __future__ import annotations

from pathlib import Path

import networkx
import pytest
import rdflib
from hypothesis import given, settings
from hypothesis import strategies as st

from kblam.data.exporting import export_base, grouping
from kblam.data.importing import Reading, open_sources
from kblam.errors import DataError, TripleFormatError
from kblam.knowledge import Source, Triple, read_triples

FACTS = [
    Triple("Amber Falcon", "capital", "Zirconia"),
    Triple("Zirconia", "pH", '7.5, "nearly" \\ <neutral> & so\non'),
    Triple("Amber Falcon", "birthPlace", "東京 タワー"),
    Triple("capital", "NASDAQ name", "a property that is a thing too"),
    Triple("Zirconia", "label", "Amber Falcon"),
    Triple("two  spaces/and#more", "degree", "1, 2"),
]


def again(path: Path) -> dict[tuple[str, str], str]:
    with Reading(open_sources([str(path)])) as reading:
        found = {triple.identity: triple.value for triple in reading.triples()}
    assert reading.report.dropped == {}
    return found


@pytest.mark.parametrize("suffix", ["ttl", "nt", "graphml", "jsonl", "csv", "tsv"])
def test_a_base_comes_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"facts.{suffix}"
    assert export_base(path, FACTS) == (6, [])
    assert again(path) == {fact.identity: fact.value for fact in FACTS}


# XML has no control characters, and RDF no surrogates; both have all that people write.
TEXT = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn", "Cc")), min_size=1, max_size=12)


@settings(max_examples=25, deadline=None)
@given(facts=st.dictionaries(st.tuples(TEXT, TEXT), TEXT, min_size=1, max_size=6))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, facts: dict[tuple[str, str], str]) -> None:
    folder = tmp_path_factory.mktemp("texts")
    try:
        triples = {one.identity: one for one in (Triple(*key, value) for key, value in facts.items())}
    except TripleFormatError:  # blanks alone
        return
    for suffix in ("nt", "ttl", "graphml"):
        path = folder / f"facts.{suffix}"
        export_base(path, triples.values())
        assert again(path) == {key: triple.value for key, triple in triples.items()}, suffix


def test_others_read_it_too(tmp_path: Path) -> None:
    export_base(tmp_path / "a.ttl", FACTS, base_iri="https://example.org/")
    graph = rdflib.Graph().parse(tmp_path / "a.ttl")
    falcon = rdflib.URIRef("https://example.org/thing/Amber%20Falcon")
    capital = rdflib.URIRef("https://example.org/property/capital")
    assert graph.value(falcon, capital) == rdflib.URIRef("https://example.org/thing/Zirconia")
    assert len(graph) == 6 + 6 + 4  # facts, labels of properties and of things
    export_base(tmp_path / "a.graphml", FACTS)
    read = networkx.read_graphml(tmp_path / "a.graphml")
    assert read.edges["Amber Falcon", "Zirconia"]["label"] == "capital"
    assert read.nodes["Zirconia"]["pH"] == FACTS[1].value


def test_markdown_has_a_heading_for_each_thing_and_escapes_marks(tmp_path: Path) -> None:
    export_base(tmp_path / "a.md", [Triple("A*", "p", "x\n_y_"), Triple("B", "q", "z"), Triple("A*", "r", "1")])
    assert (tmp_path / "a.md").read_text() == "# A\\*\n\n- **p**: x \\_y\\_\n- **r**: 1\n\n# B\n\n- **q**: z\n"


def test_what_a_format_has_no_place_for_is_told(tmp_path: Path) -> None:
    fact = Triple("A", "p", "x", question="Q?", answer="x")
    assert export_base(tmp_path / "a.nt", [fact]) == (1, ["1 example questions, answers or key texts"])
    told = Triple("A", "q", "x", sources=(Source("a.md", "q is x"), Source("b.md", "x")))
    for suffix in ("nt", "ttl", "graphml", "md"):
        assert export_base(tmp_path / f"a.{suffix}", [told]) == (1, ["2 sources in documents"])
    assert export_base(tmp_path / "a.jsonl", [fact, told]) == (2, [])
    assert list(read_triples(tmp_path / "a.jsonl")) == [fact, told]


def test_a_disk_without_room_to_sort_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.exporting.grouping._SCHEMA", "PRAGMA max_page_count = 20;" + grouping._SCHEMA)
    facts = (Triple(f"thing {number}", "p", "x" * 200) for number in range(3000))
    with pytest.raises(DataError, match="SQLITE_TMPDIR"):
        export_base(tmp_path / "a.nt", facts)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot tell the format"):
        export_base(tmp_path / "a.xyz", FACTS)
    with pytest.raises(DataError, match="cannot be what IRIs begin with"):
        export_base(tmp_path / "a.nt", FACTS, base_iri="no iri")
    with pytest.raises(DataError, match="XML cannot hold"):
        export_base(tmp_path / "a.graphml", [Triple("A", "p", "x\x01y")])
    assert list(tmp_path.iterdir()) == []
    export_base(tmp_path / "a.nt", FACTS)
    with pytest.raises(TripleFormatError, match="there is a file already"):
        export_base(tmp_path / "a.nt", FACTS, overwrite=False)


def test_a_tsv_file_has_tabs(tmp_path: Path) -> None:
    export_base(tmp_path / "a.tsv", FACTS[:1])
    assert (tmp_path / "a.tsv").read_text().splitlines()[1].startswith("Amber Falcon\tcapital\tZirconia")
