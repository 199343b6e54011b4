"""The GPU tests against float64: `python -m benchmarks.gpu_check`, or `make gpu-check`.

Side by side in a dozen processes where pytest-xdist is installed, since most of their time is compilation; then, one by
one, those that measure time or take much of the device's memory. Needs torch, triton, transformers and pytest, nothing
else: only the files with GPU tests are imported. `python -m benchmarks.gpu_sanitize` looks at memory accesses.

exit status: 0 if all of it ran and passed; 1 if not; 2 if there is nothing to run it on.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kblam_kernels import BackendUnavailableError

ROOT = Path(__file__).parents[1]
MARK = "pytest.mark.gpu"
MAX_WORKERS = 12
THREADS = 2  # of a worker: plain PyTorch on the CPU is what results are held to


def files() -> list[str]:
    """The test files that mark a test for a GPU, found without importing any."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in found if MARK in path.read_text(encoding="utf-8")]


def workers() -> int:
    """Processes that compile side by side: three quarters of the cores, a dozen at most; 1 without xdist."""
    if importlib.util.find_spec("xdist") is None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MAX_WORKERS, 3 * cores // 4))


def commands(count: int, options: Sequence[str] = ()) -> list[list[str]]:
    """What is run, in order: the tests that may run beside others in `count` processes, and those that may not."""
    pytest = [sys.executable, "-m", "pytest", "-q", *options]
    side_by_side = ["-n", str(count), "--dist", "worksteal"] if count > 1 else []
    return [
        [*pytest, *side_by_side, "-m", "gpu and not alone", *files()],
        [*pytest, "-m", "gpu and alone", *files()],
    ]


def run_all(planned: Sequence[Sequence[str]], **environment: str) -> int:
    """Runs every command, whatever became of those before; 0 if none failed, else 1."""
    failed = []
    for command in planned:
        print("$ " + " ".join(command), flush=True)
        if subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT).returncode:
            failed.append(" ".join(command))
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def check_device() -> None:
    """Raises BackendUnavailableError where there is no CUDA device."""
    if not torch.cuda.is_available():
        raise BackendUnavailableError("no CUDA device here: nothing was checked")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--workers", type=int, metavar="N", help="processes side by side (default: computed)")
    parser.add_argument("--collect-only", action="store_true", help="import and list the tests; needs no GPU")
    options = parser.parse_args(arguments)
    if options.collect_only:
        return run_all(commands(1, ["--collect-only"]), TRITON_INTERPRET="0")
    try:
        check_device()
    except BackendUnavailableError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    count = options.workers or workers()
    # tests/conftest.py would turn the interpreter on.
    return run_all(commands(count), TRITON_INTERPRET="0", OMP_NUM_THREADS=str(THREADS))


if __name__ == "__main__":
    sys.exit(main())
