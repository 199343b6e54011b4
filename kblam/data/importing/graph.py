"""Property graphs: what nodes and edges, with their types and properties, say.

A node's properties are properties of the thing, an edge is a property whose value is the other node, and a property of
an edge is one of the thing that the edge comes from: `since` of an edge WORKS_AT to Acme is "since (works at Acme)".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kblam.data.importing.items import Dropped, Item, Label, Node, Statement
from kblam.data.importing.words import as_words
from kblam.data.tables import words
from kblam.knowledge.files.cells import NoTextError, text_of

# Properties that name a node, the best first.
NAMES = ("name", "title", "label", "entity_id", "entity_name", "display_name", "full_name", "id")
# Labels that tools give to all their nodes, in any case.
_EVERYWHERE = frozenset(("__entity__", "__node__", "__kgbuilder__", "entity", "node", "base", "_entity_"))
# Properties that only matter to the tool that wrote the graph: ids of its passages, vectors, numbers of edges.
_BOOKKEEPING = frozenset(
    words(
        "source_id text_unit_ids document_ids human_readable_id chunk_ids source_chunk_ids doc_id document_id "
        "ref_doc_id triplet_source_id file_path created_at truncate embedding description_embedding name_embedding "
        "graph_embedding attributes_embedding frequency degree combined_degree rank _node_content _node_type"
    )
)
BOOKKEEPING = "a property that only its tool needs (ids of passages, vectors, counts)"
# LightRAG and nano-graphrag put several texts into one.
_SEPARATOR = "<SEP>"
_DEEPEST = 8
UNTYPED, RELATED = "relation to", "related to"  # of edges without a type: described, or not
_NAMELESS = 90  # a rank that every label is better than


def node_items(
    node: Node, types: Iterable[str], properties: Mapping[str, object], *, called: str | None = None
) -> Iterator[Item]:
    """What is said of a node.

    Args:
        types: its labels, tags or classes.
        properties: values may be lists and objects; null says nothing.
        called: its name where no property is one: in networkx and GraphML what stands for the node.
    """
    types = [one for one in types if one and one.casefold() not in _EVERYWHERE]
    name = naming(properties)
    if name is None and called is not None:
        yield Label(node, called)
    elif name is None:
        yield Label(node, f"{as_words(types[0]) if types else 'node'} {node.id}", _NAMELESS, is_kept=True)
    else:
        yield Label(node, text_of(properties[name]))
    for one in types:
        yield Statement(node, "type", as_words(one))
    for key, value in properties.items():
        if key == name:
            continue
        for found in property_items(key, value):
            if isinstance(found, Dropped):
                yield found
            else:
                yield Statement(node, found[0], found[1])


def edge_items(source: Node, kind: str, target: Node, properties: Mapping[str, object]) -> Iterator[Item]:
    """What is said by an edge from a node to another.

    Args:
        kind: its type; "" where it has none. An edge without a type that is described is the relation to the other
            node, and the description says which.
    """
    description = properties.get("description")
    if kind:
        yield Statement(source, as_words(kind), target)
    elif not (isinstance(description, str) and description.strip()):
        yield Statement(source, RELATED, target)
    for key, value in properties.items():
        for found in property_items(key, value):
            if isinstance(found, Dropped):
                yield found
            elif not kind and key == "description":
                yield Statement(source, UNTYPED, found[1], of=target)
            else:
                yield Statement(source, found[0], found[1], of=target, edge=as_words(kind) if kind else UNTYPED)


def property_items(key: str, value: object, depth: int = 0) -> Iterator[tuple[str, str] | Dropped]:
    """(property, text) of each value under a key; nothing for null and empty texts.

    Lists are several values of one property, inner objects properties of their own: `size: {height: 20}` is the
    property "size height".
    """
    if depth == 0 and key.casefold() in _BOOKKEEPING:
        if value not in (None, "", []):
            yield Dropped(BOOKKEEPING, key)
    elif depth > _DEEPEST:
        yield Dropped("nested too deeply", key)
    elif isinstance(value, Mapping):
        for inner, each in value.items():
            yield from property_items(f"{key} {as_words(str(inner))}", each, depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from property_items(key, each, depth + 1)
    else:
        try:
            text = text_of(value)
        except NoTextError as error:
            yield Dropped(error.reason, key)
            return
        for one in text.split(_SEPARATOR):
            if one.strip():
                yield as_words(key), one.strip()


def naming(properties: Mapping[str, object]) -> str | None:
    """The property that names a node, in whatever case."""
    folded = {key.casefold(): key for key in properties}
    return next((folded[one] for one in NAMES if one in folded and _is_name(properties[folded[one]])), None)


def _is_name(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and bool(str(value).strip())
