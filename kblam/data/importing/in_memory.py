"""Graphs that a Python program holds: LlamaIndex's property graphs and networkx's graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kblam.data.importing.graph import edge_items, node_items
from kblam.data.importing.graphml import KINDS
from kblam.data.importing.items import Item, Node


class LlamaIndexGraph:
    """A `PropertyGraphStore` of LlamaIndex, or its triplets.

    Args:
        store: has `get_triplets()`, which gives (EntityNode, Relation, EntityNode); or a list of such.
    """

    def __init__(self, store: Any) -> None:
        self._store = store
        self.name = f"LlamaIndex's {type(store).__name__}"

    def items(self) -> Iterator[Item]:
        """Its entities and relations; passages that entities were found in are no entities."""
        triplets = self._store.get_triplets() if hasattr(self._store, "get_triplets") else self._store
        seen: set[str] = set()
        for source, relation, target in triplets:
            if not hasattr(source, "name") or not hasattr(target, "name"):
                continue
            for node in (source, target):
                if node.id not in seen:
                    seen.add(node.id)
                    yield from node_items(Node(node.id), [node.label], {"name": node.name, **(node.properties or {})})
            yield from edge_items(Node(source.id), relation.label, Node(target.id), relation.properties or {})


class NetworkxGraph:
    """A graph of networkx: names are its nodes, or their attribute `name`, `title` or `label`."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.name = "the graph of networkx"

    def items(self) -> Iterator[Item]:
        """Its nodes and edges, with their attributes."""
        for node, attributes in self._graph.nodes(data=True):
            yield from node_items(Node(str(node)), (), {"name": str(node), **attributes})
        for source, target, attributes in self._graph.edges(data=True):
            rest = dict(attributes)
            kind = next((key for key in KINDS if isinstance(rest.get(key), str)), None)
            yield from edge_items(Node(str(source)), rest.pop(kind) if kind else "", Node(str(target)), rest)
