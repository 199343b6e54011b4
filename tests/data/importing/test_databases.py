"""Graphs behind servers, with stand-ins for their drivers; and the real driver where no server listens."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from kblam.data.importing import open_sources
from kblam.errors import DataError, DataServerError
from tests.data.importing.reading import read


class Errors:
    """As the driver names them."""

    class DriverError(Exception):
        pass

    class Neo4jError(Exception):
        pass

    class ClientError(Neo4jError):
        pass

    class AuthError(ClientError):
        pass

    class ConfigurationError(DriverError):
        pass


class Point(tuple):
    """As the driver's."""

    srid = 7203


class Session:
    """Answers the queries of a whole graph, one record at a time."""

    def __init__(self, log: list[Any]) -> None:
        self._log = log

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.append("closed")

    def run(self, query: str) -> Iterator[dict[str, Any]]:
        self._log.append(query)
        if "forbidden" in query:
            raise Errors.ClientError("no such function")
        if "CITIES" in query:
            rows = [
                ("Bern", "country", "Switzerland"),
                ("Bern", "rivers", ["Aare", "Worble"]),
                ("Lima", "founded", 1535),
            ]
            return iter([dict(zip(("name", "property", "value"), row, strict=True)) for row in rows])
        if "PETS" in query:
            return iter([{"name": "Ann", "property": "pet", "value": ["cat", "dog"]}, {"name": None, "property": "p"}])
        if "labels(n)" in query:
            date = SimpleNamespace(iso_format=lambda: "2001-02-03")
            return iter(
                [
                    {"id": "4:x:1", "types": ["Person", "__Entity__"],
                     "properties": {"name": "Ann", "born": date, "at": Point((1.5, 2.0)), "embedding": [0.1, 0.2]}},
                    {"id": "4:x:2", "types": ["Company"], "properties": {"title": "Acme"}},
                    {"id": "4:x:3", "types": ["Company"], "properties": {"size": 3}},
                ]
            )  # fmt: skip
        return iter([{"source": "4:x:1", "type": "WORKS_AT", "target": "4:x:2", "properties": {"since": 1999}}])


@pytest.fixture
def neo4j(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    log: list[Any] = []

    class Driver(Session):
        def session(self, **options: object) -> Session:
            log.append(options)
            return Session(log)

    def driver(uri: str, auth: object) -> Driver:
        log.append((uri, auth))
        if auth == ("ann", "wrong"):
            raise Errors.AuthError("unauthorized")
        return Driver(log)

    fake = ModuleType("neo4j")
    fake.GraphDatabase = SimpleNamespace(driver=driver)  # type: ignore[attr-defined]
    fake.exceptions, fake.READ_ACCESS = Errors, "READ"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "neo4j", fake)
    monkeypatch.delenv("NEO4J_USERNAME", raising=False)
    return log


def test_all_nodes_and_edges_of_neo4j_are_read(neo4j: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_USERNAME", "ann")
    monkeypatch.setenv("NEO4J_PASSWORD", "secret")
    found, report = read(open_sources(["neo4j://host:7687/movies"]))
    assert found == {
        ("Ann", "type"): "Person",
        ("Ann", "born"): "2001-02-03",
        ("Ann", "at"): "1.5, 2.0",
        ("Ann", "works at"): "Acme",
        ("Ann", "since (works at Acme)"): "1999",
        ("Acme", "type"): "Company",
        ("Company 4:x:3", "type"): "Company",
        ("Company 4:x:3", "size"): "3",
    }
    assert sum(report.dropped.values()) == 1
    assert neo4j[0] == ("neo4j://host:7687", ("ann", "secret"))
    assert neo4j[1] == {"database": "movies", "default_access_mode": "READ", "fetch_size": 1000}
    assert neo4j[-1] == "closed"


def test_a_query_of_neo4j_is_read_as_a_table(neo4j: list[Any]) -> None:
    found, report = read(open_sources(["bolt://host"], query="CITIES"))
    assert found == {
        ("Bern", "country"): "Switzerland",
        ("Bern", "rivers"): "Aare, Worble",
        ("Lima", "founded"): "1535",
    }
    assert not report.dropped
    assert "CITIES" in neo4j
    with pytest.raises(Exception, match="row 2 of the query: missing field"):
        read(open_sources(["bolt://host"], query="PETS"))
    with pytest.raises(DataError, match="refuses the query: no such function"):
        read(open_sources(["bolt://host"], query="forbidden"))


def test_logins_come_from_the_environment_and_are_never_shown(
    neo4j: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="must not hold a name or a password") as caught:
        open_sources(["neo4j://ann:hunter2@host"])
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("NEO4J_USERNAME", "ann")
    monkeypatch.setenv("NEO4J_PASSWORD", "wrong")
    with pytest.raises(DataError, match="refuses the login") as caught:
        read(open_sources(["neo4j://host"]))
    assert "wrong" not in str(caught.value)
    for address in ("neo4j://", "bolt://host:x/y"):
        with pytest.raises(DataError, match="is no address"):
            open_sources([address])


def test_the_real_driver_and_no_server() -> None:
    pytest.importorskip("neo4j")
    with pytest.raises(DataServerError, match=r"bolt://127\.0\.0\.1:1 does not answer"):
        read(open_sources(["bolt://127.0.0.1:1"]))


class Wrapped:
    """A value as nebula3 gives it."""

    def __init__(self, value: object) -> None:
        self._value = value

    def cast_primitive(self) -> object:
        return self._value


class Scanned:
    """A scan that has two pages."""

    def __init__(self, *rows: object) -> None:
        self._pages = [list(rows[:1]), list(rows[1:])]

    def has_next(self) -> bool:
        return bool(self._pages)

    def next(self) -> list[object]:
        return self._pages.pop(0)


def _vertex(vid: str, **properties: object) -> object:
    wrapped = {key: Wrapped(value) for key, value in properties.items()}
    node = SimpleNamespace(get_id=lambda: Wrapped(vid), properties=lambda tag: wrapped)
    return SimpleNamespace(as_node=lambda: node)


def _edge(source: str, target: str, **properties: object) -> object:
    wrapped = {key: Wrapped(value) for key, value in properties.items()}
    edge = SimpleNamespace(
        start_vertex_id=lambda: Wrapped(source), end_vertex_id=lambda: Wrapped(target), properties=lambda: wrapped
    )
    return SimpleNamespace(as_relationship=lambda: edge)


@pytest.fixture
def nebula(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    log: list[Any] = []

    class MetaCache:
        def __init__(self, addresses: object) -> None:
            log.append(addresses)

        def get_space_id(self, space: str) -> int:
            if space != "movies":
                raise RuntimeError("space name:nothing is not found")
            return 1

        def close(self) -> None:
            log.append("cache closed")

    class MetaClient:
        def __init__(self, addresses: object, timeout: int) -> None:
            pass

        def open(self) -> None:
            pass

        def close(self) -> None:
            log.append("meta closed")

        def list_tags(self, space: int) -> list[Any]:
            return [SimpleNamespace(tag_name=b"person"), SimpleNamespace(tag_name=b"firm")]

        def list_edges(self, space: int) -> list[Any]:
            return [SimpleNamespace(edge_name=b"works_at")]

    class Client:
        def __init__(self, cache: object) -> None:
            pass

        def set_user_passwd(self, user: str, password: str) -> None:
            log.append((user, password))

        def scan_vertex(self, space: str, tag: str) -> Scanned:
            firm = _vertex("f1", name="Acme"), _vertex("f2", name="Zenith")
            return Scanned(_vertex("p1", name="Ann", age=30)) if tag == "person" else Scanned(*firm)

        def scan_edge(self, space: str, kind: str) -> Scanned:
            return Scanned(_edge("p1", "f1", since=1999), _edge("p1", "f2"))

        def close(self) -> None:
            log.append("closed")

    modules = {
        "nebula3": {},
        "nebula3.mclient": {"MetaCache": MetaCache, "MetaClient": MetaClient},
        "nebula3.sclient": {},
        "nebula3.sclient.GraphStorageClient": {"GraphStorageClient": Client},
    }
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return log


def test_all_of_a_space_of_nebulagraph_is_scanned(nebula: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEBULA_USER", "root")
    monkeypatch.setenv("NEBULA_PASSWORD", "nebula")
    found, _ = read(open_sources(["nebula://metad/movies"]))
    assert found == {
        ("Ann", "type"): "person",
        ("Ann", "age"): "30",
        ("Ann", "works at"): "Acme, Zenith",
        ("Ann", "since (works at Acme)"): "1999",
        ("Acme", "type"): "firm",
        ("Zenith", "type"): "firm",
    }
    assert nebula[:2] == [[("metad", 9559)], ("root", "nebula")]
    assert nebula[-2:] == ["closed", "cache closed"]


def test_a_space_that_is_not_there(nebula: list[Any]) -> None:
    with pytest.raises(DataError, match="is not found"):
        read(open_sources(["nebula://metad/nothing"]))
    with pytest.raises(DataError, match="names no space"):
        open_sources(["nebula://metad"])


def test_the_names_that_the_stand_in_has_are_those_of_nebula3() -> None:
    meta = pytest.importorskip("nebula3.mclient")
    storage = pytest.importorskip("nebula3.sclient.GraphStorageClient")
    for owner, names in (
        (meta.MetaCache, ("get_space_id", "close")),
        (meta.MetaClient, ("open", "close", "list_tags", "list_edges")),
        (storage.GraphStorageClient, ("scan_vertex", "scan_edge", "set_user_passwd", "close")),
    ):
        assert all(hasattr(owner, name) for name in names)


def test_a_server_that_does_not_answer_is_one_line() -> None:
    pytest.importorskip("neo4j")
    # In a process of its own: pytest handles what is logged here.
    words = [sys.executable, "-m", "kblam", "data", "import", "neo4j://127.0.0.1:1", "-o", "never.jsonl"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: neo4j://127.0.0.1:1 does not answer: ")
    assert ran.stderr.count("\n") == 1
