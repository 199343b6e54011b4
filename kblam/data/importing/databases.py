"""Property graphs in databases with a server: Neo4j and others over Bolt, NebulaGraph.

Passwords come from the environment, never from an address: NEO4J_USERNAME and NEO4J_PASSWORD, NEBULA_USER and
NEBULA_PASSWORD. Nothing is ever written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from kblam.data.importing.graph import edge_items, node_items
from kblam.data.importing.items import Bad, Item, Node
from kblam.data.importing.tables import unread
from kblam.errors import DataError, DataServerError, TripleFormatError
from kblam.knowledge.columns import Columns
from kblam.knowledge.files.cells import BINARY, NoTextError, plain
from kblam.knowledge.files.packages import needed
from kblam.knowledge.records import RecordReader

BOLT = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")
_META_PORT = 9559
_FETCH = 1000
_NODES = "MATCH (n) RETURN elementId(n) AS id, labels(n) AS types, properties(n) AS properties"
_EDGES = (
    "MATCH (a)-[r]->(b) RETURN elementId(a) AS source, type(r) AS type, elementId(b) AS target, "
    "properties(r) AS properties"
)
# The driver logs a trouble before it raises it, and where nobody handles that Python prints it.
logging.getLogger("neo4j").addHandler(logging.NullHandler())


class BoltGraph:
    """A graph behind a server that speaks Bolt: Neo4j, Memgraph.

    Args:
        address: `neo4j://HOST[:PORT][/DATABASE]`, or `bolt`, each also with `+s`.
        query: Cypher that returns facts or entities as columns, in place of the whole graph.
        columns: which of its columns is which field.
    """

    def __init__(self, address: str, query: str | None = None, columns: Columns | None = None) -> None:
        parts = _checked(address)
        self.name = address
        self._uri = f"{parts.scheme}://{parts.netloc}"
        self._database = parts.path.strip("/") or None
        self._query, self._columns = query, columns

    def items(self) -> Iterator[Item]:
        """All nodes and edges, or what the query gives, while the server sends them.

        Raises:
            DataError: the driver is missing, or the server refuses the query or the password.
            DataServerError: the server does not answer.
        """
        neo4j = needed("neo4j", "graphs")
        auth = None
        if user := os.environ.get("NEO4J_USERNAME"):
            auth = (user, os.environ.get("NEO4J_PASSWORD", ""))
        with self._trouble(neo4j), neo4j.GraphDatabase.driver(self._uri, auth=auth) as driver:
            session = driver.session(database=self._database, default_access_mode=neo4j.READ_ACCESS, fetch_size=_FETCH)
            with session:
                if self._query is not None:
                    records = (dict(record) for record in session.run(self._query))
                    yield from of_records(self.name, records, self._columns)
                    return
                for record in session.run(_NODES):
                    yield from node_items(Node(str(record["id"])), record["types"], _native(record["properties"]))
                for record in session.run(_EDGES):
                    source, target = Node(str(record["source"])), Node(str(record["target"]))
                    yield from edge_items(source, record["type"], target, _native(record["properties"]))

    @contextmanager
    def _trouble(self, neo4j: Any) -> Iterator[None]:
        errors = neo4j.exceptions
        try:
            yield
        except (errors.AuthError, errors.ConfigurationError) as error:
            raise DataError(
                f"{self.name} refuses the login: {line_of(error)}; set NEO4J_USERNAME and NEO4J_PASSWORD"
            ) from error
        except errors.ClientError as error:
            raise DataError(f"{self.name} refuses the query: {line_of(error)}") from error
        except (errors.DriverError, errors.Neo4jError, OSError) as error:
            raise DataServerError(f"{self.name} does not answer: {line_of(error)}") from error


class NebulaGraph:
    """A space of NebulaGraph, scanned as its storage has it.

    Args:
        address: `nebula://METAD[:9559]/SPACE`. The storage servers must be reachable by the names that metad gives.
    """

    def __init__(self, address: str) -> None:
        parts = _checked(address)
        self.name = address
        self._meta = (str(parts.hostname), parts.port or _META_PORT)
        self._space = parts.path.strip("/")
        if not self._space:
            raise DataError(f"{address} names no space: nebula://HOST:{_META_PORT}/SPACE")

    def items(self) -> Iterator[Item]:
        """All vertices and edges.

        Raises:
            DataError: the client is missing, or there is no such space.
            DataServerError: a server does not answer.
        """
        needed("nebula3", "nebula")
        meta, storage = needed("nebula3.mclient", "nebula"), needed("nebula3.sclient.GraphStorageClient", "nebula")
        try:
            cache = meta.MetaCache([self._meta])
            client = storage.GraphStorageClient(cache)
            try:
                if user := os.environ.get("NEBULA_USER"):
                    client.set_user_passwd(user, os.environ.get("NEBULA_PASSWORD", ""))
                yield from self._scan(meta, cache, client)
            finally:
                client.close()
                cache.close()
        except DataError:
            raise
        except Exception as error:  # the client has no base of its errors
            if "not found" in str(error).lower():
                raise DataError(f"{self.name}: {line_of(error)}") from error
            raise DataServerError(f"{self.name} does not answer: {line_of(error)}") from error

    def _scan(self, meta: Any, cache: Any, client: Any) -> Iterator[Item]:
        tags, edges = self._types(meta, cache)
        for tag in tags:
            scanned = client.scan_vertex(self._space, tag)
            while scanned.has_next():
                for vertex in scanned.next() or ():
                    node = vertex.as_node()
                    yield from node_items(Node(_cast(node.get_id())), [tag], _cast_all(node.properties(tag)))
        for kind in edges:
            scanned = client.scan_edge(self._space, kind)
            while scanned.has_next():
                for each in scanned.next() or ():
                    edge = each.as_relationship()
                    source, target = edge.start_vertex_id(), edge.end_vertex_id()
                    properties = _cast_all(edge.properties())
                    yield from edge_items(Node(_cast(source)), kind, Node(_cast(target)), properties)

    def _types(self, meta: Any, cache: Any) -> tuple[list[str], list[str]]:
        space = cache.get_space_id(self._space)
        client = meta.MetaClient([self._meta], 60_000)
        client.open()
        try:
            names = [
                list(dict.fromkeys(_decoded(getattr(item, field)) for item in listed(space)))
                for listed, field in ((client.list_tags, "tag_name"), (client.list_edges, "edge_name"))
            ]
        finally:
            client.close()
        return names[0], names[1]


def of_records(name: str, records: Iterator[Mapping[str, object]], columns: Columns | None) -> Iterator[Item]:
    """The facts of what a query gives, read as the rows of any table."""
    reader = RecordReader(columns)
    for number, record in enumerate(records, start=1):
        try:
            yield from reader.read(_cells(record, reader))
        except (TripleFormatError, NoTextError) as error:
            yield Bad(TripleFormatError(f"row {number:,} of the query: {error.reason}", path=name))
    reader.check()
    yield from unread(reader, name)


def _cells(record: Mapping[str, object], reader: RecordReader) -> dict[str, object]:
    """The columns of a row; binary data, which is no part of a fact, is counted as the reader counts it."""
    cells: dict[str, object] = {}
    for key, value in record.items():
        try:
            cells[key] = plain(value)
        except NoTextError as error:
            if error.reason != BINARY:
                raise
            reader.unread[key] += 1
    return cells


def line_of(error: BaseException) -> str:
    """What another package says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _checked(address: str) -> Any:
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise DataError(
            "an address must not hold a name or a password, since it is shown and kept; put them into NEO4J_USERNAME "
            "and NEO4J_PASSWORD, or NEBULA_USER and NEBULA_PASSWORD"
        )
    try:
        port = parts.port
    except ValueError:
        port = -1
    if not parts.hostname or port == -1:
        raise DataError(f"{address} is no address: {parts.scheme}://HOST[:PORT][/NAME]")
    return parts


def _native(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Properties as Python's own values; points become their coordinates."""
    return {key: _point(value) for key, value in properties.items()}


def _point(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "srid"):
        return ", ".join(str(one) for one in value)
    return value


def _cast(value: Any) -> str:
    return str(value.cast_primitive())


def _cast_all(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.cast_primitive() for key, value in values.items()}


def _decoded(name: Any) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)
