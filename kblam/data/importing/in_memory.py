"""Graphs that a Python program holds: LlamaIndex's property graphs and networkx's graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from kblam.data.importing.graph import edge_items, node_items
from kblam.data.importing.graphml import kind_of
from kblam.data.importing.graphrag import OF_A_PASSAGE, own_properties
from kblam.data.importing.items import Dropped, Item, Node


class LlamaIndexGraph:
    """A `PropertyGraphStore` of LlamaIndex, or its triplets.

    Args:
        store: has `get_triplets()`, which gives (EntityNode, Relation, EntityNode), and may have `get()` for all
            nodes; or a list of such triplets.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.name = f"LlamaIndex's {type(store).__name__}"

    def items(self) -> Iterator[Item]:
        """Its entities and relations; passages that entities were found in are no entities."""
        seen: set[str] = set()
        nodes = list(self._store.get()) if hasattr(self._store, "get") else []
        passages = {node.id: node.properties or {} for node in nodes if not hasattr(node, "name")}
        for node in nodes:
            yield from _entity(node, seen, passages)
        for source, relation, target in _triplets(self._store):
            if not hasattr(source, "name") or not hasattr(target, "name"):
                yield Dropped(OF_A_PASSAGE, relation.label)
                continue
            for node in (source, target):
                yield from _entity(node, seen, passages)
            properties, dropped = own_properties(relation.properties or {}, passages)
            yield from dropped
            yield from edge_items(Node(source.id), relation.label, Node(target.id), properties)


def _entity(node: Any, seen: set[str], passages: Mapping[str, Mapping[str, Any]]) -> Iterator[Item]:
    if hasattr(node, "name") and node.id not in seen:
        seen.add(node.id)
        properties, dropped = own_properties(node.properties or {}, passages)
        yield from dropped
        yield from node_items(Node(node.id), [node.label], {"name": node.name, **properties})


def _triplets(store: Any) -> Iterable[tuple[Any, Any, Any]]:
    # SimplePropertyGraphStore.get_triplets() gives nothing where it is not told of what.
    graph: Any = getattr(store, "graph", None)
    if hasattr(graph, "relations") and hasattr(graph, "nodes"):
        return ((graph.nodes[one.source_id], one, graph.nodes[one.target_id]) for one in graph.relations.values())
    found: Iterable[tuple[Any, Any, Any]] = store.get_triplets() if hasattr(store, "get_triplets") else store
    return found


class NetworkxGraph:
    """A graph of networkx: names are its nodes, or their attribute `name`, `title` or `label`.

    Nodes that are different to Python and read alike, such as 1 and "1", are different things.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.name = "the graph of networkx"

    def items(self) -> Iterator[Item]:
        """Its nodes and edges, with their attributes."""
        thing = _things(self._graph)
        for node, attributes in self._graph.nodes(data=True):
            yield from node_items(thing(node), (), _by_text(attributes), called=str(node))
        for source, target, attributes in self._graph.edges(data=True):
            rest = _by_text(attributes)
            kind = kind_of(rest)
            yield from edge_items(thing(source), str(rest.pop(kind)) if kind else "", thing(target), rest)


def _things(graph: Any) -> Callable[[Any], Node]:
    """Nodes by their texts; of several with one text each by how Python writes it, with its type and a number."""
    texts = Counter(map(str, graph))
    apart: dict[Any, str] = {}
    written: Counter[str] = Counter()
    for node in graph:
        if texts[str(node)] > 1:
            text = f"{node!r}, {type(node).__name__}"
            written[text] += 1
            apart[node] = text if written[text] == 1 else f"{text} {written[text]}"
    return lambda node: Node(apart.get(node) or str(node))


def _by_text(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes by the text of their keys, which networkx takes of any kind."""
    return {str(key): value for key, value in attributes.items()}
