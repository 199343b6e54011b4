"""What runs on a CPU runs on another device too: `tests/elsewhere`, in a process of its own.

torch knows the device of these tests until its process ends, and would take it for an accelerator in any other test.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.warm import run

backends = pytest.importorskip("torch.utils.backend_registration")
pytestmark = pytest.mark.skipif(
    not hasattr(backends, "_setup_privateuseone_for_python_backend"), reason="needs torch's backends in Python"
)
ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("room", sorted(file.name for file in (ROOT / "tests" / "elsewhere").glob("test_*.py")))
def test_on_another_device(room: str, warm: None) -> None:
    ran = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"tests/elsewhere/{room}"),
        KBLAM_TEST_ELSEWHERE="1",
        OMP_NUM_THREADS="1",
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-8000:]
    assert re.search(r"^\d+ passed", ran.stdout, re.MULTILINE), ran.stdout[-2000:]
    assert "skipped" not in ran.stdout.splitlines()[-1]
