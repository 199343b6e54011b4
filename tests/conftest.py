"""Before anything imports triton: its kernels run in the interpreter, on the CPU.

Triton reads TRITON_INTERPRET when it is imported, and transformers imports it, so this cannot wait for the tests of
the kernels. `make gpu-check` sets TRITON_INTERPRET=0 and compiles them.
"""

from __future__ import annotations

import os
import sys

import pytest

if os.environ.setdefault("TRITON_INTERPRET", "1") == "1" and "triton" in sys.modules:
    raise pytest.UsageError("triton was imported before tests/conftest.py; set TRITON_INTERPRET=1 in the environment")
