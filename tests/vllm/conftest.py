"""Which tests of vLLM run in one process: those of a file share engines, and those of `serve` one server."""

from __future__ import annotations

from pathlib import Path

import pytest

SERVE = Path(__file__).parent / "serve"
# Each of these starts processes of its own; the longest first, since another worker runs the others meanwhile.
ALONE = ("test_ways.py", "test_process.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=lambda item: item not in ours or item.path.name not in ALONE)


def _group(item: pytest.Item) -> str:
    if item.path.name in ALONE:
        return item.nodeid
    return "serve" if SERVE in item.path.parents else item.path.stem
