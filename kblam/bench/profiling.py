"""PyTorch's profiler, without the lines that some of its builds write to stderr for each start and stop."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import profile

_NOISE = b"USDT:"


@contextmanager
def profiled(**options: Any) -> Iterator[profile]:
    """`torch.profiler.profile`; all that is written to stderr meanwhile but for that noise comes after it."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            with profile(**options) as profiler:
                yield profiler
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            said.seek(0)
            for line in said:
                if not line.startswith(_NOISE):
                    os.write(2, line)
