"""How benchmarks leave their rows: one JSON document, on stdout or in a file that is replaced whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from kblam.whole import write_whole

STDOUT = "-"


def write_json(rows: Any, target: str | Path) -> None:
    """Rows to stdout for "-", else to this file; its folder is made."""
    text = json.dumps(rows, indent=1) + "\n"
    if str(target) == STDOUT:
        sys.stdout.write(text)
        return
    write_whole(Path(target), text)
