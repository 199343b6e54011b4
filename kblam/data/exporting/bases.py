"""A knowledge base as RDF, GraphML and Markdown. A value that is the name of another thing becomes a link to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape, quoteattr

from kblam.data.exporting.grouping import Grouped
from kblam.data.importing.graphml import OURS
from kblam.errors import DataError
from kblam.knowledge.files import FORMAT_OF_SUFFIX, check_written_to, write_triples
from kblam.knowledge.files.whole import check_target, whole_file
from kblam.knowledge.triples import Triple

# Of the ids of things and properties in RDF.
BASE_IRI = "urn:kblam:"
_RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>])")


def export_base(
    path: str | Path, triples: Iterable[Triple], *, base_iri: str = BASE_IRI, overwrite: bool = True
) -> tuple[int, list[str]]:
    """Write triples in the format of the suffix; returns how many, and what the format has no place for.

    RDF (`.ttl`, `.nt`) and GraphML are read back as they are by `kblam data import`, but for example questions, key
    texts and sources. Any number of triples is sorted on disk.

    Args:
        path: `.ttl`, `.nt`, `.graphml`, `.md`; or a format of `write_triples`, which loses nothing.
        base_iri: what the IRIs of things and properties begin with; ends with `/`, `#` or `:`.
        overwrite: replace what is at `path`.

    Raises:
        DataError: the suffix names no format, the IRI is none, XML cannot hold a text, or there is no room to sort.
        TripleFormatError: the path cannot be written, or something is there that is not to be replaced.
    """
    check_export(path, base_iri=base_iri, overwrite=overwrite)
    file = Path(path).expanduser()
    suffix = file.suffix.lower()
    if suffix in FORMAT_OF_SUFFIX:
        return write_triples(file, triples, overwrite=overwrite), []
    with Grouped(triples) as grouped, whole_file(file, overwrite=overwrite) as unfinished:
        count = 0
        with unfinished.open("w", encoding="utf-8", newline="") as out:
            for piece in _WRITERS[suffix](grouped, base_iri):
                out.write(piece)
            count = sum(len(facts) for _, facts in grouped)
        lost = {"example questions, answers or key texts": grouped.further, "sources in documents": grouped.sources}
        return count, [f"{number:,} {what}" for what, number in lost.items() if number]


def check_export(path: str | Path, *, base_iri: str = BASE_IRI, overwrite: bool = True) -> None:
    """Before anything is read or sorted: whether `export_base` can write there.

    Raises:
        DataError, TripleFormatError: as `export_base`.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() in FORMAT_OF_SUFFIX:
        check_written_to(file, overwrite=overwrite)
        return
    if file.suffix.lower() not in _WRITERS:
        raise DataError(f"cannot tell the format from {file.name!r}; name it {', '.join(BASE_SUFFIXES)}")
    if not urlsplit(base_iri).scheme or base_iri[-1] not in "/#:" or re.search(r'[\s<>"{}|\\^`]', base_iri):
        raise DataError(f"{base_iri!r} cannot be what IRIs begin with; such as https://example.org/ or {BASE_IRI}")
    check_target(file, overwrite=overwrite)


def _n_triples(grouped: Grouped, base_iri: str) -> Iterator[str]:
    label = f"<{_RDFS_LABEL}>"
    for prop in grouped.properties:
        yield f"{_property(prop, base_iri)} {label} {_literal(prop)} .\n"
    for name, facts in grouped:
        subject = _thing(name, base_iri)
        yield f"{subject} {label} {_literal(name)} .\n"
        for prop, value in facts:
            yield f"{subject} {_property(prop, base_iri)} {_value(value, grouped, base_iri)} .\n"


def _turtle(grouped: Grouped, base_iri: str) -> Iterator[str]:
    yield "@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n\n"
    for prop in grouped.properties:
        yield f"{_property(prop, base_iri)} rdfs:label {_literal(prop)} .\n"
    for name, facts in grouped:
        yield f"\n{_thing(name, base_iri)} rdfs:label {_literal(name)}"
        for prop, value in facts:
            yield f" ;\n  {_property(prop, base_iri)} {_value(value, grouped, base_iri)}"
        yield " .\n"


def _thing(name: str, base_iri: str) -> str:
    return f"<{base_iri}thing/{quote(name, safe='')}>"


def _property(prop: str, base_iri: str) -> str:
    return f"<{base_iri}property/{quote(prop, safe='')}>"


def _value(value: str, grouped: Grouped, base_iri: str) -> str:
    return _thing(value, base_iri) if grouped.is_name(value) else _literal(value)


def _literal(text: str) -> str:
    return f'"{"".join(_ESCAPED.get(character, character) for character in text)}"'


def _graphml(grouped: Grouped, _: str) -> Iterator[str]:
    """Each thing a node whose id is its name; properties are data, or edges where the value is another thing."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    key_of = {}
    for number, prop in enumerate(grouped.properties):
        key_of[prop] = f"d{number}"
        yield f'  <key id="d{number}" for="node" attr.name={_attribute(prop)} attr.type="string"/>\n'
    yield '  <key id="relation" for="edge" attr.name="label" attr.type="string"/>\n'
    yield f'  <graph id="{OURS}" edgedefault="directed">\n'
    for name, facts in grouped:
        yield f"    <node id={_attribute(name)}>"
        for prop, value in facts:
            if not grouped.is_name(value):
                yield f'\n      <data key="{key_of[prop]}">{_content(value)}</data>'
        yield "</node>\n"
    for name, facts in grouped:
        for prop, value in facts:
            if grouped.is_name(value):
                ends = f"source={_attribute(name)} target={_attribute(value)}"
                yield f'    <edge {ends}><data key="relation">{_content(prop)}</data></edge>\n'
    yield "  </graph>\n</graphml>\n"


def _attribute(text: str) -> str:
    return quoteattr(_xml(text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _content(text: str) -> str:
    return escape(_xml(text), {"\r": "&#13;"})


def _xml(text: str) -> str:
    if found := _CONTROL.search(text):
        raise DataError(f"XML cannot hold the character {found[0]!r} of {text[:40]!r}; write .ttl or .jsonl")
    return text


def _markdown(grouped: Grouped, _: str) -> Iterator[str]:
    """Each thing a heading, with its facts as a list."""
    for number, (name, facts) in enumerate(grouped):
        yield f"{'' if number == 0 else chr(10)}# {_plain(name)}\n\n"
        for prop, value in facts:
            yield f"- **{_plain(prop)}**: {_plain(value)}\n"


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


_WRITERS: dict[str, Callable[[Grouped, str], Iterator[str]]] = {
    ".ttl": _turtle,
    ".nt": _n_triples,
    ".graphml": _graphml,
    ".md": _markdown,
}
BASE_SUFFIXES = (*_WRITERS, ".csv", ".tsv", ".jsonl", ".json")
