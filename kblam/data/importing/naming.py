"""Names for the things, and properties, that statements only know by their ids."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from kblam.data.importing.items import ID_ITSELF, NAME, Dropped, Node
from kblam.data.importing.rdf_terms import FIRST, REST, beside_values
from kblam.data.importing.words import as_name, as_words, local_name, namespace
from kblam.knowledge.fields import bare

# Before the id of a thing that only one of several sources knows by it stands the number of that source.
_SCOPE = re.compile("\x1f\\d+\x1f")
_SCOPE_OF = "CASE WHEN node GLOB char(31) || '*' THEN substr(node, 1, instr(substr(node, 2), char(31))) ELSE '' END"
_DEEPEST = 8
_MOST_WAYS = 100
_REMEMBERED = 1000
_MOST_NAMESPACES = 10_000
# Parts of a measured value: `height: {numericValue: 20, unit: M}` is the height 20 M.
_AMOUNTS = frozenset(("value", "numericValue", "hasNumericalValue", "hasNumericValue"))
_UNITS = ("unitText", "unit", "hasUnit", "unitCode")
# Of each element of a list its head, found from the head down: once for each, in whatever order they are written. An
# element that several others go on with is a head itself, and so is met but once.
_LISTS = f"""
CREATE TABLE followers AS SELECT v AS node FROM statements WHERE vn AND v GLOB '_:*' AND p = '{REST}'
    GROUP BY v HAVING count(DISTINCT s) = 1;
CREATE UNIQUE INDEX follower ON followers (node);
CREATE TABLE elements (node TEXT PRIMARY KEY, head TEXT, place INTEGER) WITHOUT ROWID;
INSERT OR IGNORE INTO elements
WITH RECURSIVE found(node, head, place) AS (
    SELECT v, s, 1 FROM statements WHERE vn AND v GLOB '_:*' AND p = '{REST}'
        AND v IN (SELECT node FROM followers) AND s NOT IN (SELECT node FROM followers)
    UNION
    SELECT v, head, place + 1 FROM found JOIN statements ON sn AND s GLOB '_:*' AND s = found.node
        WHERE p = '{REST}' AND vn AND v IN (SELECT node FROM followers)
) SELECT node, head, place FROM found;
DROP TABLE followers;
"""
# Files write the elements of a list in any order. Where one stands that is not the next one, that one is to be read.
_TURNS = f"""
CREATE TABLE turns (id INTEGER PRIMARY KEY, other INTEGER);
INSERT INTO turns
WITH firsts AS (
    SELECT id, coalesce(head, s) AS head,
        row_number() OVER (PARTITION BY coalesce(head, s) ORDER BY id) AS written,
        row_number() OVER (PARTITION BY coalesce(head, s) ORDER BY coalesce(place, 0), id) AS listed
    FROM statements LEFT JOIN elements ON node = s WHERE sn AND s GLOB '_:*' AND p = '{FIRST}'
) SELECT here.id, next.id FROM firsts AS here JOIN firsts AS next ON next.head = here.head
    AND next.listed = here.written WHERE next.id <> here.id;
"""
_CIRCLE = "things without a name that lead back to themselves, or are nested too deeply"
_NAMELESS = "a thing without a name that nothing leads to"
_EMPTY = "a thing without a name of which nothing is known"


class Naming:
    """Names all that is in the tables `statements` and `labels`; fills the table `names`.

    Attributes:
        unnamed: things that have only an id.
        told_apart: things that share their name with another; their id stands behind it.
    """

    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql
        sql.create_function("kblam_name", 1, name_of_id, deterministic=True)
        sql.create_function("kblam_clean", 1, bare, deterministic=True)
        sql.create_function("kblam_apart", 2, _apart, deterministic=True)
        sql.create_function("kblam_id", 1, _id, deterministic=True)
        # Only of things without a name: of all others nobody asks what leads to them.
        sql.execute("CREATE INDEX to_blank ON statements (v) WHERE vn AND v GLOB '_:*'")
        sql.execute("CREATE INDEX of_blank ON statements (s) WHERE sn AND s GLOB '_:*'")
        sql.executescript(_LISTS + _TURNS)
        sql.execute(
            "INSERT INTO names "
            "SELECT s, kblam_clean(coalesce((SELECT text FROM labels WHERE node = s), kblam_name(s))) "
            # What is only named, such as a property, is no thing that anything is known of.
            f"FROM (SELECT DISTINCT s FROM statements WHERE sn AND (pn OR p <> '{NAME}')) "
            "WHERE s NOT GLOB '_:*' OR s IN (SELECT node FROM labels)"
        )
        self.unnamed = self._count(f"names WHERE node NOT IN (SELECT node FROM labels WHERE rank < {ID_ITSELF})")
        several = f"SELECT name, {_SCOPE_OF} AS scope FROM names GROUP BY name, scope HAVING count(*) > 1"
        twice = f"(name, {_SCOPE_OF}) IN ({several})"
        self.told_apart = sql.execute(f"UPDATE names SET name = kblam_apart(name, node) WHERE {twice}").rowcount
        sql.execute(f"UPDATE names SET name = name || ' (' || kblam_id(node) || ')' WHERE {twice}")
        self._namespaces: set[str] = set()
        for (node,) in sql.execute("SELECT node FROM names"):
            if len(self._namespaces) < _MOST_NAMESPACES:
                self._namespaces.add(namespace(_id(node)))
        self._predicates = {
            node for (node,) in sql.execute(f"SELECT DISTINCT p FROM statements WHERE pn LIMIT {_MOST_NAMESPACES}")
        }
        self._properties: dict[str, str] = {}
        self._owners: dict[str, list[tuple[str, str]] | None] = {}
        self._measures: dict[str, tuple[str | None, bool]] = {}

    def in_turn(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """A row of `statements`, or of the elements of one list that whose turn it is."""
        if row[3] != FIRST:
            return row
        found: tuple[Any, ...] | None = self._sql.execute(
            "SELECT statements.* FROM turns JOIN statements ON statements.id = other WHERE turns.id = ?", (row[0],)
        ).fetchone()
        return row if found is None else found

    def facts_of(self, row: tuple[Any, ...]) -> Iterator[tuple[str, str, str] | Dropped]:
        """(name, property, value) of what a row of `statements` says: one, or none, or one for each owner."""
        _, s, sn, p, pn, v, vn, _, of, edge, _ = row
        prop = self._property(p, pn)
        if of is not None:
            other = self._known(of) or name_of_id(of)
            prop = f"{prop} ({edge} {other})" if edge else f"{prop} {other}"
        if not sn:
            yield from self._with_value([(s, prop)], v, vn, prop)
        elif (name := self._known(s)) is not None:
            is_own_name = p == NAME and not pn and (bare(v) == name or s in self._predicates)
            if not is_own_name:
                yield from self._with_value([(name, prop)], v, vn, prop)
        else:
            yield from self._of_nameless(s, p, prop, v, vn)

    def _of_nameless(self, s: str, p: str, prop: str, v: str, vn: int) -> Iterator[tuple[str, str, str] | Dropped]:
        """What is said of a thing without a name is said of the thing that it belongs to."""
        if p == REST:
            return
        owners = self._find_owners(s)
        if not owners:
            yield Dropped(_CIRCLE if owners is None else _NAMELESS, prop)
            return
        if p == "type":
            yield Dropped("the type of a thing without a name", str(v)[:40])
            return
        local = local_name(p)
        inner = "" if p == FIRST else f" {prop}"
        if local in _AMOUNTS or local in _UNITS:
            unit, has_amount = self._measure(s)
            if local in _UNITS and has_amount:
                return
            if local in _AMOUNTS and unit:
                inner, v = "", f"{v} {unit}"
        yield from self._with_value([(name, path + inner) for name, path in owners], v, vn, prop)

    def _with_value(
        self, owners: list[tuple[str, str]], v: str, vn: int, prop: str
    ) -> Iterator[tuple[str, str, str] | Dropped]:
        value: str | None = v
        if vn:
            value = self._known(v)
            if value is None and v.startswith("_:"):
                if not self._sql.execute(
                    "SELECT 1 FROM statements WHERE sn AND s GLOB '_:*' AND s = ?", (v,)
                ).fetchone():
                    yield Dropped(_EMPTY, prop)
                return  # its own statements are told of its owner
            if value is None:
                value = self._id_as_value(v, prop)
        for name, path in owners:
            yield name, path, value or ""

    def _known(self, node: str) -> str | None:
        found = self._sql.execute("SELECT name FROM names WHERE node = ?", (node,)).fetchone()
        if found is None:
            found = self._sql.execute("SELECT text FROM labels WHERE node = ?", (node,)).fetchone()
        return None if found is None else str(found[0])

    def _property(self, p: str, pn: int) -> str:
        if not pn:
            return p
        known = self._properties.get(p)
        if known is None:
            known = self._known_property(p)
            if len(self._properties) < _MOST_NAMESPACES:
                self._properties[p] = known
        return known

    def _known_property(self, p: str) -> str:
        if (beside := beside_values(p)) is not None:
            return f"{self._known_property(beside[0])} ({beside[1]})"
        found = self._sql.execute("SELECT text FROM labels WHERE node = ?", (p,)).fetchone()
        return str(found[0]) if found else as_words(local_name(p))

    def _id_as_value(self, node: str, prop: str) -> str:
        """An id that nothing names: its last part where it is of this source, all of it where it is an address."""
        node = _id(node)
        if prop == "type":
            return as_words(local_name(node))
        for scheme in ("mailto:", "tel:"):
            if node.startswith(scheme):
                return node.removeprefix(scheme)
        return name_of_id(node) if namespace(node) in self._namespaces else node

    # --- things without a name ---------------------------------------------------------------------------

    def _find_owners(self, node: str) -> list[tuple[str, str]] | None:
        """(name, property) of what leads to a thing without a name; None where it is a circle, or too deep."""
        head = self._head_of(node)
        if head not in self._owners:
            if len(self._owners) >= _REMEMBERED:
                self._owners.clear()
            try:
                self._owners[head] = self._owners_of(head, (), 0)
            except RecursionError:
                self._owners[head] = None
        return self._owners[head]

    def _head_of(self, node: str) -> str:
        """Of an element of a list the head, whose owner all of them have; else the thing itself."""
        found = self._sql.execute("SELECT head FROM elements WHERE node = ?", (node,)).fetchone()
        return node if found is None else str(found[0])

    def _owners_of(self, node: str, seen: tuple[str, ...], depth: int) -> list[tuple[str, str]]:
        node = self._head_of(node)
        if node in seen or depth > _DEEPEST:
            raise RecursionError
        found = []
        # What is nested deeper has more ways to its owners than anybody reads.
        for s, p, prop in self._leading_to(node, _MOST_WAYS if depth else -1):
            word = "" if p in (FIRST, REST) else prop
            if p != REST and (name := self._known(s)) is not None:
                found.append((name, word))
            elif s.startswith("_:"):
                for owner, path in self._owners_of(s, (*seen, node), depth + 1):
                    found.append((owner, f"{path} {word}".strip()))
        return found

    def _leading_to(self, node: str, most: int) -> list[tuple[str, str, str]]:
        rows = self._sql.execute(
            "SELECT s, p, pn FROM statements WHERE vn AND v GLOB '_:*' AND v = ? ORDER BY id LIMIT ?",
            (node, most),
        )
        return [(s, p, self._property(p, pn)) for s, p, pn in rows]

    def _measure(self, node: str) -> tuple[str | None, bool]:
        """The unit of a thing without a name, and whether it has an amount."""
        if node not in self._measures:
            if len(self._measures) >= _REMEMBERED:
                self._measures.clear()
            rows = self._sql.execute("SELECT p, v, vn FROM statements WHERE sn AND s GLOB '_:*' AND s = ?", (node,))
            units, has_amount = dict[str, str](), False
            for p, v, vn in rows:
                local = local_name(p)
                has_amount = has_amount or local in _AMOUNTS
                if local in _UNITS:
                    units[local] = (self._known(v) or as_name(local_name(v))) if vn else v
            self._measures[node] = next((units[one] for one in _UNITS if one in units), None), has_amount
        return self._measures[node]

    def _count(self, what: str) -> int:
        return int(self._sql.execute(f"SELECT count(*) FROM {what}").fetchone()[0])


def name_of_id(node: str) -> str:
    """The name of a thing that has only an id."""
    return as_name(local_name(_id(node)))


def scoped(node: Node, source: int) -> str:
    """The id of a thing where several sources are read, so that a thing of another one with the same id is another.

    Args:
        source: its number, from 1; 0 where there are no others.
    """
    if not source or node.is_shared:
        return node.id
    return f"_:{source}.{node.id[2:]}" if node.is_blank else f"\x1f{source}\x1f{node.id}"


def _id(node: str) -> str:
    """The id as its source has it."""
    return _SCOPE.sub("", node, count=1) if node.startswith("\x1f") else node


def _apart(name: str, node: str) -> str:
    node = _id(node)
    local = local_name(node)
    return f"{name} ({node if as_name(local) == name else local})"
