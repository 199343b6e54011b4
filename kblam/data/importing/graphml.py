"""GraphML, node by node and edge by edge: what networkx, LightRAG, yEd and Gephi write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kblam.data.importing.compressed import open_file
from kblam.data.importing.graph import edge_items, node_items
from kblam.data.importing.guards import Xml
from kblam.data.importing.items import Bad, Dropped, Item, Node, Statement
from kblam.errors import TripleFormatError

# The id of a graph that `kblam data export` wrote.
OURS = "kblam"
_CHUNK = 2**16
# Attributes of an edge that may say of which type it is.
_KINDS = ("label", "edge label", "relation", "type", "relationship", "predicate", "name", "edge_type")
# yEd's drawing of a node or an edge is the value of a key without a name, with the label in it.
_DRAWINGS = frozenset(("nodegraphics", "edgegraphics"))
_LABELS = frozenset(("NodeLabel", "EdgeLabel"))
FURTHER = "a further label of yEd's drawing of one thing"
_NUMBERS = {"int": int, "long": int, "float": float, "double": float}
# What may hold data.
_HOLDERS = ("graph", "node", "edge", "port", "hyperedge")
INNER = "a graph inside a node of GraphML (what is in it is read, not where it is)"
OF_A_GRAPH = "data of a graph as a whole"
_LONGEST = 2**20
_DEEPEST = 100


def kind_of(properties: Mapping[str, object]) -> str | None:
    """The property of an edge that says of which type it is, in whatever case."""
    texts = {key.casefold(): key for key, value in properties.items() if isinstance(value, str) and value.strip()}
    return next((texts[one] for one in _KINDS if one in texts), None)


class GraphMLFile:
    """A GraphML file, also compressed. Declarations of entities, which can stand for gigabytes, are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def items(self) -> Iterator[Item]:
        """Its nodes and edges.

        Raises:
            TripleFormatError: it is no XML, no GraphML, or declares entities; with the line.
        """
        reader = _Reader(self.path)
        with open_file(self.path) as file:
            while True:
                try:
                    block = file.read(_CHUNK)
                except OSError as error:
                    raise TripleFormatError(f"cannot read: {error.strerror}", path=self.path) from error
                reader.xml.feed(block)
                yield from reader.found
                reader.found.clear()
                if not block:
                    break
        if not reader.is_graphml:
            raise TripleFormatError("no GraphML: the outermost element must be <graphml>", path=self.path)
        for key, count in reader.unread.items():
            yield Dropped(key, count=count)


class _Reader:
    """Puts together what is between the tags."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: list[Item] = []
        self.is_graphml = False
        self.unread: dict[str, int] = {}
        self.xml = Xml(path, namespace_separator=" ")
        parser = self.xml.parser
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        # <key id> -> (name, type), for nodes and for edges; default values
        self._is_ours = False  # names and properties are texts as they are
        self._keys: dict[str, tuple[str, str]] = {}
        self._defaults: dict[tuple[str, str], str] = {}
        self._for: dict[str, str] = {}
        self._open: list[dict[str, Any]] = []
        self._within: list[str] = []  # graphs, nodes, edges, ports that are open, the innermost last
        self._texts: list[str] | None = None
        self._label = ""  # in a drawing
        self._length = 0
        self._depth = 0
        self._key = ""

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(" ")[2]
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self.xml.error("nested too deeply")
        if not self.is_graphml:
            if tag != "graphml":
                raise self.xml.error(f"no GraphML: the outermost element is <{tag[:40]}>, must be <graphml>")
            self.is_graphml = True
        elif tag == "key":
            self._key = attributes.get("id", "")
            is_drawing = attributes.get("yfiles.type") in _DRAWINGS
            name = "label" if is_drawing else attributes.get("attr.name", self._key)
            self._keys[self._key] = name, attributes.get("attr.type", "string")
            self._for[self._key] = attributes.get("for", "all")
        elif tag == "graph":
            self._is_ours = self._is_ours or attributes.get("id") == OURS
            if self._open:
                self._count(INNER)
            self._within.append("graph")
        elif tag in ("node", "edge"):
            line = self.xml.parser.CurrentLineNumber
            self._open.append({"tag": tag, "attributes": attributes, "data": [], "line": line})
            self._within.append(tag)
        elif tag in ("data", "default"):
            self._texts, self._length, self._label = [], 0, ""
            if tag == "data":
                self._key = attributes.get("key", "")
        elif tag in _LABELS and self._texts is not None:
            self._texts = []
        elif tag in ("hyperedge", "port"):
            self._count(f"GraphML's <{tag}>")
            self._within.append(tag)

    def _text(self, text: str) -> None:
        if self._texts is not None:
            self._length += len(text)
            if self._length > _LONGEST:
                raise self.xml.error(f"a text is longer than {_LONGEST:,} characters")
            self._texts.append(text)

    def _end(self, tag: str) -> None:
        tag = tag.rpartition(" ")[2]
        self._depth -= 1
        if tag == "default" and self._texts is not None:
            self._defaults[self._key, self._for.get(self._key, "all")] = "".join(self._texts)
            self._texts = None
        elif tag in _LABELS and self._texts is not None:
            text = " ".join("".join(self._texts).split())
            if self._label and text not in ("", self._label):  # a group has its label open and closed
                self._count(FURTHER)
            self._label = self._label or text
            self._texts = [self._label]
        elif tag == "data" and self._texts is not None:
            within = self._within[-1] if self._within else ""
            if within in ("node", "edge"):
                self._open[-1]["data"].append((self._key, "".join(self._texts)))
            elif within in ("graph", "") and "".join(self._texts).strip():
                self._count(OF_A_GRAPH)  # a port and a hyperedge are counted with their data
            self._texts = None
        elif tag in _HOLDERS and self._within:
            self._within.pop()
            if tag in ("node", "edge"):
                self._close(self._open.pop())

    def _count(self, what: str) -> None:
        self.unread[what] = self.unread.get(what, 0) + 1

    def _close(self, element: dict[str, Any]) -> None:
        attributes, kind = element["attributes"], element["tag"]
        try:
            properties = self._properties(element["data"], kind)
            if self._is_ours:
                self.found += _as_written(kind, attributes, properties)
            elif kind == "node":
                name = _of(attributes, "id")
                self.found += node_items(Node(name), (), properties, called=name)
            else:
                type_of = kind_of(properties)
                relation = str(properties.pop(type_of)) if type_of else ""
                source, target = Node(_of(attributes, "source")), Node(_of(attributes, "target"))
                self.found += edge_items(source, relation, target, properties)
        except ValueError as error:
            self.found.append(Bad(TripleFormatError(f"<{kind}>: {error}", path=self.path, line=element["line"])))

    def _properties(self, data: list[tuple[str, str]], kind: str) -> dict[str, object]:
        """Texts by name; a list of them where an element has several of one name."""
        given = {key for key, _ in data}
        defaults = [
            (key, text)
            for (key, domain), text in self._defaults.items()
            if domain in (kind, "all") and key not in given
        ]
        several: dict[str, list[str]] = {}
        for key, text in [*data, *defaults]:
            name, type_of = self._keys.get(key, (key, "string"))
            number = _NUMBERS.get(type_of)
            text = text.strip()
            try:
                # Integers keep their digits, and floats those that were written.
                several.setdefault(name, []).append(text if number is None or not text else (number(text), text)[1])
            except ValueError:
                raise ValueError(f"{name} must be {type_of}, got {text[:40]!r}") from None
        different = {name: list(dict.fromkeys(texts)) for name, texts in several.items()}
        return {name: texts[0] if len(texts) == 1 else texts for name, texts in different.items()}


def _as_written(kind: str, attributes: dict[str, str], properties: dict[str, object]) -> Iterator[Item]:
    """What a graph says that `kblam data export` wrote."""
    if kind == "edge":
        yield Statement(_of(attributes, "source"), str(properties.get("label", "")), _of(attributes, "target"))
        return
    name = _of(attributes, "id")
    for prop, value in properties.items():
        for text in value if isinstance(value, list) else [value]:
            yield Statement(name, prop, str(text))


def _of(attributes: dict[str, str], name: str) -> str:
    if not attributes.get(name):
        raise ValueError(f"it has no {name}")
    return attributes[name]
