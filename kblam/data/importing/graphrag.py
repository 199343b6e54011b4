"""The tables and graphs of GraphRAG and LightRAG, and LlamaIndex's property graph on disk."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from kblam.data.importing.graph import BOOKKEEPING, RELATED, UNTYPED, edge_items, node_items, property_items
from kblam.data.importing.items import Bad, Dropped, Item, Node
from kblam.data.importing.tables import UNREAD, TableFile
from kblam.errors import TripleFormatError
from kblam.knowledge.columns import Columns
from kblam.knowledge.files import located_triples
from kblam.knowledge.files.cells import text_of
from kblam.knowledge.files.packages import needed
from kblam.knowledge.records import RecordReader
from kblam.knowledge.triples import Triple
from kblam.strict_json import decoder, problem

# Files of one folder: GraphRAG's tables of two generations, LightRAG's graph, LlamaIndex's store.
IN_FOLDERS = (
    ("entities.parquet", "relationships.parquet"),
    ("create_final_entities.parquet", "create_final_relationships.parquet"),
    ("entities.csv", "relationships.csv"),
    ("graph_chunk_entity_relation.graphml",),
    ("property_graph_store.json",),
)
_MARKS = frozenset(("human_readable_id", "text_unit_ids", "combined_degree"))
_OF_TOOL = frozenset(("id", "x", "y"))
LONGEST_JSON = 2**30
OF_A_PASSAGE = "a relation to a passage of text"
ABOUT_ITS_PASSAGE = "what is known of the passage that says it (its file, its dates), not of the thing"


def kind_of_table(path: Path) -> str | None:
    """ "entities" or "relations" where a table is one of GraphRAG's."""
    header = frozenset(_header(path))
    if not header & _MARKS or "description" not in header:
        return None
    if {"source", "target"} <= header:
        return "relations"
    return "entities" if header & {"title", "name"} else None


def _header(path: Path) -> list[str]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return list(needed("pyarrow.parquet", "tables").read_schema(path).names)
        if suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                return next(csv.reader([file.readline(2**16)]), [])
    except Exception:  # whatever it is, the reader of tables says so
        return []
    return []


class EntityTable:
    """GraphRAG's entities: a row an entity, with its type and description."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        self._table = TableFile(path, Columns(name="title" if "title" in _header(path) else "name"))

    def items(self) -> Iterator[Item]:
        """Their facts, without what only GraphRAG needs."""
        for item in self._table.items():
            if isinstance(item, Triple):
                if item.property in _OF_TOOL:
                    yield Dropped(BOOKKEEPING, item.property)
                    continue
                for found in property_items(item.property, item.value):
                    yield found if isinstance(found, Dropped) else Triple(item.name, *found)
            else:
                yield item


class RelationTable:
    """GraphRAG's relationships: what one entity has to do with another, in a sentence."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def items(self) -> Iterator[Item]:
        """Each as the property "relation to" the other, or as "related to" where no sentence says more."""
        reader = RecordReader(Columns(name="source"))
        for _, group in groupby(located_triples(self.path, reader), key=lambda _: reader.records):
            cells: dict[str, str] = {}
            line, source = None, ""
            for line, found in group:
                if isinstance(found, TripleFormatError):
                    yield Bad(TripleFormatError(found.reason, path=self.path, line=line))
                else:
                    source, cells[found.property] = found.name, found.value
            target, description = cells.pop("target", ""), cells.pop("description", "")
            for column in cells:
                yield Dropped(UNREAD, column)
            if target and description:
                yield Triple(source, f"{UNTYPED} {target}", description)
            elif target:
                yield Triple(source, RELATED, target)
            elif source:
                reason = f"{source[:40]!r} has nothing in the column 'target'"
                yield Bad(TripleFormatError(reason, path=self.path, line=line))


class LlamaIndexFile:
    """A `SimplePropertyGraphStore` of LlamaIndex as it persists itself: JSON with nodes and relations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def items(self) -> Iterator[Item]:
        """Its entities and relations.

        Raises:
            TripleFormatError: it is something else.
        """
        held = _load(self.path)
        nodes, relations = held.get("nodes"), held.get("relations")
        if not isinstance(nodes, dict) or not isinstance(relations, dict):
            raise TripleFormatError('a property graph of LlamaIndex has "nodes" and "relations"', path=self.path)
        passages: dict[str, dict[str, Any]] = {}
        for key, node in nodes.items():
            if isinstance(node, dict) and "name" not in node and isinstance(known := node.get("properties"), dict):
                passages[key] = known
        for key, node in nodes.items():
            if (bad := self._problem("node", key, node)) is not None:
                yield bad
            elif "name" in node:  # the others are passages of text
                properties, dropped = own_properties(node.get("properties") or {}, passages)
                yield from dropped
                yield from node_items(Node(key), [str(node.get("label") or "")], {"name": node["name"], **properties})
        things = {key for key, node in nodes.items() if isinstance(node, dict) and "name" in node}
        for key, relation in relations.items():
            if (bad := self._problem("relation", key, relation)) is not None:
                yield bad
                continue
            source, target, kind = (str(relation.get(one) or "") for one in ("source_id", "target_id", "label"))
            if {source, target} <= things:
                properties, dropped = own_properties(relation.get("properties") or {}, passages)
                yield from dropped
                yield from edge_items(Node(source), kind, Node(target), properties)
            else:
                yield Dropped(OF_A_PASSAGE, kind)

    def _problem(self, what: str, key: str, record: object) -> Bad | None:
        if isinstance(record, dict) and isinstance(record.get("properties") or {}, dict):
            return None
        reason = f"the {what} {key[:40]!r} is no object, or its properties are none"
        return Bad(TripleFormatError(reason, path=self.path))


def own_properties(
    properties: Mapping[str, Any], passages: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], list[Dropped]]:
    """Properties without those that LlamaIndex copies from the passage that it found a thing or a relation in.

    Args:
        passages: the properties of each, by its id.
    """
    of_passage = passages.get(str(properties.get("triplet_source_id")), {})
    kept = {key: value for key, value in properties.items() if key not in of_passage or of_passage[key] != value}
    return kept, [Dropped(ABOUT_ITS_PASSAGE, key) for key in properties if key not in kept]


def is_llama_index(path: Path) -> bool:
    """Whether a JSON file is named as LlamaIndex names it."""
    return path.name == "property_graph_store.json"


def _as_written(number: str) -> float | str:
    """A number that keeps its digits, 1.10 as text; vectors, which nobody reads, take less memory as numbers."""
    value = float(number)
    return value if math.isfinite(value) and text_of(value) == number else number


_DECODER = decoder(parse_float=_as_written)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise TripleFormatError(f"larger than {LONGEST_JSON:,} bytes; it must be held in memory", path=path)
        held = _DECODER.decode(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise TripleFormatError(f"cannot read: {error.strerror}", path=path) from error
    except (ValueError, RecursionError) as error:
        raise TripleFormatError(problem(error), path=path) from None
    if not isinstance(held, dict):
        raise TripleFormatError("expected an object", path=path)
    return held
