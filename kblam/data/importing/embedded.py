"""The file of an embedded graph: ladybug, which Kùzu became. Nothing is ever written to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kblam.data.importing.databases import line_of, of_records
from kblam.data.importing.graph import edge_items, naming, node_items
from kblam.data.importing.items import Item, Node
from kblam.data.importing.words import as_words
from kblam.errors import DataError, TripleFormatError
from kblam.knowledge.columns import Columns
from kblam.knowledge.files.arrow import shortest
from kblam.knowledge.files.cells import text_of
from kblam.knowledge.files.packages import needed

# What ladybug adds to the properties of a node or an edge.
_OWN = frozenset(("_ID", "_LABEL", "_SRC", "_DST"))
_WHOLE = frozenset(("NODE", "REL", "RECURSIVE_REL"))


@dataclass(frozen=True)
class _Table:
    """A table of nodes or edges.

    Args:
        kinds: of its properties, as ladybug names them.
        key: the property that is its primary key; "" of edges.
    """

    name: str
    kinds: dict[str, str]
    key: str

    def node(self, key: object) -> Node:
        """The thing of a primary key, which people know, as they do not know the number that ladybug gives it."""
        return Node(f"{self.name}/{text_of(key)}")

    def properties(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _cell(value, self.kinds.get(name, "")) for name, value in record.items() if name not in _OWN}


class LadybugGraph:
    """A database file of ladybug (`.lbug`, `.kuzu`), an embedded graph.

    Args:
        query: Cypher that returns facts or entities as columns, in place of the whole graph.
    """

    def __init__(self, path: Path, query: str | None = None, columns: Columns | None = None) -> None:
        self.path, self._query, self._columns = path, query, columns
        self.name = str(path)

    def items(self) -> Iterator[Item]:
        """All nodes and edges, or what the query gives.

        Raises:
            TripleFormatError: it is no database of ladybug, or of another version.
            DataError: ladybug is missing, or refuses the query.
        """
        ladybug = needed("ladybug", "graphs")
        if not self.path.exists():
            raise TripleFormatError("cannot read: No such file or directory", path=self.path)
        try:
            database = ladybug.Database(str(self.path), read_only=True)
        except (RuntimeError, OSError) as error:
            raise TripleFormatError(f"no database of ladybug: {line_of(error)}", path=self.path) from error
        connection = ladybug.Connection(database)
        try:
            if self._query is not None:
                yield from of_records(self.name, self._rows(connection, self._query), self._columns)
            else:
                yield from self._graph(connection)
        finally:
            connection.close()
            database.close()

    def _graph(self, connection: Any) -> Iterator[Item]:
        tables = {
            found["name"]: (found["type"], self._table(connection, found["name"]))
            for found in self._rows(connection, "CALL show_tables() RETURN name, type ORDER BY id")
        }
        for kind, table in tables.values():
            if kind == "NODE":
                for row in self._rows(connection, f"MATCH (n:{_quoted(table.name)}) RETURN n", whole=True):
                    yield from _of_node(table, row["n"])
        for kind, table in tables.values():
            if kind != "REL":
                continue
            for ends in self._rows(connection, f"CALL show_connection({_text(table.name)}) RETURN *"):
                source, target = (tables[ends[f"{end} table name"]][1] for end in ("source", "destination"))
                query = (
                    f"MATCH (a:{_quoted(source.name)})-[r:{_quoted(table.name)}]->(b:{_quoted(target.name)}) "
                    f"RETURN a.{_quoted(source.key)} AS source, r, b.{_quoted(target.key)} AS target"
                )
                for row in self._rows(connection, query, whole=True):
                    nodes = source.node(row["source"]), target.node(row["target"])
                    yield from edge_items(nodes[0], table.name, nodes[1], table.properties(row["r"]))

    def _table(self, connection: Any, name: str) -> _Table:
        columns = list(self._rows(connection, f"CALL table_info({_text(name)}) RETURN *"))
        key = next((column["name"] for column in columns if column.get("primary key")), "")
        return _Table(name, {column["name"]: column["type"] for column in columns}, key)

    def _rows(self, connection: Any, query: str, *, whole: bool = False) -> Iterator[dict[str, Any]]:
        """The rows of a query.

        Args:
            whole: whether it may return whole nodes and edges.
        """
        try:
            result = connection.execute(query)
        except RuntimeError as error:
            raise DataError(f"{self.name} refuses the query: {line_of(error)}") from error
        names, kinds = result.get_column_names(), result.get_column_data_types()
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise DataError(
                f"{self.name}: the query returns two columns called {twice[0]!r}; name one of them AS another"
            )
        if not whole and (unread := [name for name, kind in zip(names, kinds, strict=True) if kind in _WHOLE]):
            raise DataError(
                f"{self.name}: the query returns {unread[0]!r}, a whole node, edge or path; return properties of it, "
                f"such as {unread[0]}.name AS name"
            )
        while result.has_next():
            row = zip(names, kinds, result.get_next(), strict=True)
            yield {name: _cell(value, kind) for name, kind, value in row}


def _of_node(table: _Table, record: Mapping[str, Any]) -> Iterator[Item]:
    properties = table.properties(record)
    node, called = table.node(record[table.key]), None
    if naming(properties) is None:
        key = properties[table.key]
        if isinstance(key, str) and key.strip():
            called = key
            del properties[table.key]
        else:  # a number says nothing alone
            called = f"{as_words(table.name)} {text_of(key)}"
    yield from node_items(node, [table.name], properties, called=called)


def _cell(value: Any, kind: str) -> Any:
    """A value in its own digits: a float of 32 bits comes as Python's, which has twice as many."""
    if not kind.startswith("FLOAT"):
        return value
    if isinstance(value, list):
        return [_cell(each, kind) for each in value]
    return shortest(np.float32, value)


def _quoted(name: str) -> str:
    """A name in Cypher."""
    return f"`{name.replace('`', '``')}`"


def _text(name: str) -> str:
    """A text in Cypher."""
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
