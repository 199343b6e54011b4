"""How benchmarks leave their rows: one JSON document, on stdout or in a file that is replaced whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STDOUT = "-"


def write_json(rows: Any, target: str | Path) -> None:
    """Rows to stdout for "-", else to this file; its folder is made."""
    text = json.dumps(rows, indent=1) + "\n"
    if str(target) == STDOUT:
        sys.stdout.write(text)
        return
    path = Path(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
