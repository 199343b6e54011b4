"""The rows of `python -m kblam_kernels.resources`, from a process where the interpreter is not the compiler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from kblam_kernels.resources import CompileJob, Resources


def name_of(row: CompileJob | Resources) -> str:
    """Of a job and of its row."""
    return f"{row.arch} {row.variant} {row.tile}"


def report(*options: str) -> dict[str, Resources]:
    """The command's own rows, by name."""
    command = [sys.executable, "-m", "kblam_kernels.resources", "--json", *options]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert result.returncode in (0, 1), result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    rows = [Resources(**row) for row in found]
    return {name_of(row): row for row in rows}
