"""A compiler that notes its runs, for tests of the build."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.kernels.problems import make

CALL = make(dtype=torch.float32)

# Pretends to compile: writes what follows -o, and a line for each run; takes as long as PAUSE says.
COMPILER = """#!/bin/sh
echo run >> "$LOG"
[ -z "$PAUSE" ] || sleep "$PAUSE"
while [ $# -gt 0 ]; do
  if [ "$1" = -o ]; then echo built > "$2"; fi
  shift
done
"""


def runs(log: Path) -> int:
    return len(log.read_text().splitlines())
