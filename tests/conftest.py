"""Before anything imports triton: its kernels run in the interpreter, on the CPU.

Triton reads TRITON_INTERPRET when it is imported, and transformers imports it, so this cannot wait for the tests of
the kernels. `make gpu-check` sets TRITON_INTERPRET=0 and compiles them.

Nor can PyTorch's threads: workers of pytest-xdist (`make test`) share the cores, so each has one, and so have the
processes it starts. Tests of threads choose their own number.

Nor is garbage looked for while tests are collected, nor what was collected looked at again: of 13,000 tests that was a
third of the time.

Nor does the command's log stay on stderr after a test that turned it on, among the lines of other tests' commands.

What pyproject.toml and the tests say to pytest-timeout is declared here where it is not installed: the GPU tests need
pytest alone.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from tests.warm import warm  # noqa: F401 - a fixture

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

if "TRITON_INTERPRET" not in os.environ and "triton" in sys.modules:
    raise pytest.UsageError("triton was imported before tests/conftest.py; set TRITON_INTERPRET=1 in the environment")
os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if not pluginmanager.hasplugin("timeout"):
        parser.addini("timeout", "of pytest-timeout, which is not installed: without effect")


def pytest_configure(config: pytest.Config) -> None:
    if not config.pluginmanager.hasplugin("timeout"):
        config.addinivalue_line("markers", "timeout: of pytest-timeout, which is not installed: without effect")


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: one that comes last keeps a worker busy while the others have nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("kblam", "kblam_kernels")]
    before = [(logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
