"""Tasks of the C++ launcher that fail, such as for want of memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kblam_kernels.common import build

DRIVER = Path(__file__).with_name("steps.cpp")


@pytest.mark.timeout(300)
def test_what_a_task_throws_ends_all_threads_and_comes_back(tmp_path: Path) -> None:
    """The other threads waited for ever for what it left undone."""
    folder = build.source_folder()
    program = tmp_path / "steps"
    command = [*build.compiler(), build.LANGUAGE, "-O1", "-Wall", "-pthread", f"-I{folder}"]
    subprocess.run([*command, str(DRIVER), str(folder / "launch/split.cpp"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
