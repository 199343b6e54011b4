"""RDF, one statement after the other: Turtle, N-Triples, N-Quads, TriG, Notation3, RDF/XML and JSON-LD.

pyoxigraph reads them all, streaming, and never fetches anything: a remote `@context` of JSON-LD is an error. A graph
that is in memory already, of rdflib, is a source too (`RdflibGraph`).
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kblam.data.importing.compressed import open_file, plain_suffix
from kblam.data.importing.guards import Guarded, JsonGuard, XmlGuard
from kblam.data.importing.items import Bad, Dropped, Item
from kblam.data.importing.rdf_terms import Literal, Terms, items_of
from kblam.errors import TripleFormatError
from kblam.knowledge.files.lines import refuse_other_encodings
from kblam.knowledge.files.packages import needed

if TYPE_CHECKING:
    import rdflib

SUFFIXES = {
    ".ttl": "TURTLE",
    ".turtle": "TURTLE",
    ".nt": "N_TRIPLES",
    ".ntriples": "N_TRIPLES",
    ".nq": "N_QUADS",
    ".nquads": "N_QUADS",
    ".trig": "TRIG",
    ".n3": "N3",
    ".rdf": "RDF_XML",
    ".owl": "RDF_XML",
    ".jsonld": "JSON_LD",
}
_BY_LINES = ("N_TRIPLES", "N_QUADS")
_CHUNK = 2**20
_LONGEST_LINE = 8 * 2**20
_GRAPH = "the name of the graph that a fact is in, since the facts of all graphs are put together"
_EXAMPLES = 3
_PLACE = re.compile(r"^Parser error at line \d+[^:]*: |\s*\(line \d+\)$")


class _Graphs:
    """The names of graphs, of which nothing is kept: a triple has no place for one."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def see(self, name: str | None) -> None:
        """A statement is in this graph; the default graph has no name."""
        if not name:
            return
        if name not in self._counts and len(self._counts) == _EXAMPLES:
            name = next(reversed(self._counts))
        self._counts[name] = self._counts.get(name, 0) + 1

    def left_out(self) -> Iterator[Item]:
        """How many statements there were of them."""
        for name, count in self._counts.items():
            yield Dropped(_GRAPH, name, count, is_fact=False)


class RdfFile:
    """A file of RDF, by its suffix, also compressed (`.nt.gz`).

    N-Triples and N-Quads are read line by line, so a bad line says nothing about the others. Any other syntax error
    ends the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self.format = SUFFIXES[plain_suffix(path)]

    def items(self) -> Iterator[Item]:
        """Its statements.

        Raises:
            TripleFormatError: a syntax error, with its line.
            DataError: pyoxigraph is missing.
        """
        ox = needed("pyoxigraph", "rdf")
        syntax = getattr(ox.RdfFormat, self.format)
        terms, graphs = Terms(), _Graphs()
        with open_file(self.path) as file:
            if self.format == "RDF_XML":
                refuse_other_encodings(self.path, self._head(file))
                file = io.BufferedReader(Guarded(file, XmlGuard(self.path)))
            else:
                self._skip_mark(file)
            if self.format == "JSON_LD":
                file = io.BufferedReader(Guarded(file, JsonGuard(self.path)))
            quads = self._by_lines(ox, file, syntax) if self.format in _BY_LINES else self._whole(ox, file, syntax)
            for quad in quads:
                if isinstance(quad, Bad):
                    yield quad
                else:
                    graphs.see(_id(quad.graph_name))
                    yield from items_of(terms, _id(quad.subject), quad.predicate.value, _term(ox, quad.object))
        yield from graphs.left_out()

    def _skip_mark(self, file: Any) -> None:
        """UTF-8 may begin with a byte order mark, which pyoxigraph takes for text; other encodings are refused."""
        head = self._head(file)
        refuse_other_encodings(self.path, head)
        if head.startswith(codecs.BOM_UTF8):
            file.read(len(codecs.BOM_UTF8))

    def _head(self, file: Any) -> bytes:
        try:
            return bytes(file.peek(4))
        except OSError as error:
            raise TripleFormatError(f"cannot read: {error.strerror or error}", path=self.path) from error

    def _whole(self, ox: Any, file: Any, syntax: Any) -> Iterator[Any]:
        try:
            yield from ox.parse(file, syntax)
        except SyntaxError as error:
            raise TripleFormatError(_reason(error), path=self.path, line=error.lineno) from None
        except MemoryError as error:  # pyoxigraph's own, of one token
            raise TripleFormatError(f"a text in it is too long: {error}", path=self.path) from error
        except OSError as error:
            raise TripleFormatError(f"cannot read: {error.strerror or error}", path=self.path) from error

    def _by_lines(self, ox: Any, file: Any, syntax: Any) -> Iterator[Any]:
        """Chunks of whole lines; one with a bad line is read a line at a time.

        The parser finds that a line has no end in the line after it, which is a good one, and gives neither.
        """
        for line, chunk in self._chunks(file):
            try:
                quads = list(ox.parse(chunk, syntax))
            except SyntaxError:
                for number, one in enumerate(chunk.split(b"\n"), start=line):
                    try:
                        quads = list(ox.parse(one, syntax))
                    except SyntaxError as error:
                        yield self._bad(error, number)
                    else:
                        yield from quads
            else:
                yield from quads

    def _bad(self, error: SyntaxError, line: int) -> Bad:
        return Bad(TripleFormatError(_reason(error), path=self.path, line=line))

    def _chunks(self, file: Any) -> Iterator[tuple[int, bytes]]:
        """(number of the first line, whole lines)."""
        line, rest = 1, b""
        while block := self._block(file):
            whole, newline, tail = block.rpartition(b"\n")
            if newline:
                chunk = rest + whole + newline
                yield line, chunk
                line += chunk.count(b"\n")
                rest = tail
            else:
                rest += block
            if len(rest) > _LONGEST_LINE:
                raise TripleFormatError(
                    f"the line is longer than {_LONGEST_LINE:,} bytes; is this one triple a line?",
                    path=self.path,
                    line=line,
                )
        if rest.strip():
            yield line, rest

    def _block(self, file: Any) -> bytes:
        try:
            return bytes(file.read(_CHUNK))
        except OSError as error:
            raise TripleFormatError(f"cannot read: {error.strerror or error}", path=self.path) from error


class RdflibGraph:
    """A graph of rdflib in memory."""

    def __init__(self, graph: rdflib.Graph) -> None:
        self._graph = graph
        self.name = "the graph of rdflib"

    def items(self) -> Iterator[Item]:
        """Its statements, in the order of rdflib."""
        import rdflib

        terms, graphs = Terms(), _Graphs()
        for subject, predicate, value, graph in self._quads():
            graphs.see(graph)
            if isinstance(value, rdflib.Literal):
                found: str | Literal = Literal(str(value), value.language or "", str(value.datatype or ""))
            else:
                found = _of_rdflib(value)
            yield from items_of(terms, _of_rdflib(subject), str(predicate), found)
        yield from graphs.left_out()

    def _quads(self) -> Iterator[tuple[Any, Any, Any, str | None]]:
        """With the name of the graph; a data set of rdflib has several, which have one each, but for the default."""
        if not hasattr(self._graph, "quads"):
            yield from ((*triple, None) for triple in self._graph)
            return
        whole: Any = self._graph
        default = (whole.default_graph if hasattr(whole, "default_graph") else whole.default_context).identifier
        for *triple, graph in whole.quads():
            name = getattr(graph, "identifier", graph)
            yield *triple, (None if name is None or name == default else _of_rdflib(name))


def _of_rdflib(term: Any) -> str:
    import rdflib

    return f"_:{term}" if isinstance(term, rdflib.BNode) else str(term)


def _id(term: Any) -> str | None:
    """The id of a subject; None for a statement."""
    value = getattr(term, "value", None)
    if value is None:
        return None
    return f"_:{value}" if type(term).__name__ == "BlankNode" else str(value)


def _term(ox: Any, term: Any) -> str | Literal | None:
    if isinstance(term, ox.Literal):
        return Literal(term.value, term.language or "", term.datatype.value)
    return _id(term)


def _reason(error: SyntaxError) -> str:
    message = str(error.msg)
    if "remote context" in message or "LoadDocumentCallback" in message:
        return "a remote @context, which is never fetched; put the context itself into the document"
    if "Only UTF-8 is supported" in message or "invalid utf-8" in message.lower():
        return f"{_PLACE.sub('', message)}; save the file as UTF-8"
    for piece in (_PLACE, _PLACE):
        message = piece.sub("", message)
    return message
