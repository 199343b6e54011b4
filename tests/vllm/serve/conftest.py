"""One vLLM for all tests of this folder, with several servers in front of it, in this process but for vLLM's own."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.serve.served import Served
    from tests.vllm.serve.running import Running

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The engine, and the bases that it has."""
    from tests.vllm.serve.running import run

    with run(tmp_path_factory.mktemp("knowledge")) as found:
        yield found


@pytest.fixture(scope="package")
def server(running: Running) -> Iterator[Served]:
    """Two bases that nobody changes."""
    with running.serve({"facts": "facts", "hr": "hr"}) as served:
        yield served


@pytest.fixture(scope="package")
def changing(running: Running) -> Iterator[Served]:
    """Two bases, the first of which tests change, and leave as it was."""
    with running.serve({"facts": "live", "hr": "hr"}) as served:
        yield served


@pytest.fixture(scope="package")
def keyed(running: Running) -> Iterator[Served]:
    """Two tenants; both have facts, and one has more."""
    from tests.serve.contract import ACME, GLOBEX, OTHER, SCRAPE

    keys = [("acme", ACME), ("acme", OTHER), ("globex", GLOBEX)]
    with running.serve({"acme/facts": "facts", "acme/hr": "hr", "globex/facts": "empty"}, keys, SCRAPE) as served:
        yield served


@pytest.fixture(scope="package")
def small(running: Running) -> Iterator[Served]:
    """A server that takes small bodies."""
    with running.serve({"facts": "facts"}, most=1000, most_of_uploads=5000) as served:
        yield served


@pytest.fixture
def bases(tmp_path: Path) -> dict[str, Path]:
    """Files of the knowledge bases of the small world, by name."""
    from tests.vllm.serve.running import write_bases

    return write_bases(tmp_path)
