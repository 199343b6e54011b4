"""Tests that start vLLM: in its own environment only (`make test-vllm`).

One engine at a time lives in this process; `engines.py` starts them, and says how they are asked.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    # Read when vLLM is imported. In one process, small, on the threads that there are.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two knowledge bases of the small world, by name."""
    from tests.vllm.engine.engines import write_bases

    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module", autouse=True)
def _no_engine_is_left() -> Iterator[None]:
    """Of a file's tests; vLLM keeps state of its engine in the process."""
    yield
    from tests.vllm.engine.engines import stop

    stop()
