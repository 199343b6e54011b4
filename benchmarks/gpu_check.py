"""Everything that only a GPU can tell: `python -m benchmarks.gpu_check`.

The GPU tests against float64, then compute-sanitizer (memcheck, racecheck) on small shapes. Exit status 0 only if all
of it ran and passed; 2 if there is nothing to run it on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from kblam_kernels.errors import BackendUnavailableError

SANITIZER_TOOLS = ("memcheck", "racecheck")


def sanitizer() -> str:
    """Path of compute-sanitizer.

    Raises:
        BackendUnavailableError: it is neither on PATH nor in the CUDA toolkit of CUDA_HOME.
    """
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    for candidate in ("compute-sanitizer", str(home / "bin" / "compute-sanitizer")):
        if found := shutil.which(candidate):
            return found
    raise BackendUnavailableError(
        f"compute-sanitizer is neither on PATH nor in {home / 'bin'}; install the CUDA toolkit, set CUDA_HOME, "
        "or pass --no-sanitizer"
    )


def commands(*, with_sanitizer: bool) -> list[list[str]]:
    """What is run, in order.

    Raises:
        BackendUnavailableError: no CUDA device, or no compute-sanitizer when it is wanted.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailableError("no CUDA device here: nothing was checked")
    planned = [[sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]]
    if with_sanitizer:
        program = [sys.executable, "-m", "benchmarks.sanitize_shapes"]
        planned += [[sanitizer(), "--tool", tool, "--error-exitcode", "1", *program] for tool in SANITIZER_TOOLS]
    return planned


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--no-sanitizer", action="store_true", help="the GPU tests only")
    options = parser.parse_args(arguments)
    try:
        planned = commands(with_sanitizer=not options.no_sanitizer)
    except BackendUnavailableError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    # tests/conftest.py would turn the interpreter on.
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    failed = []
    for command in planned:
        print("$ " + " ".join(command), flush=True)
        if subprocess.run(command, env=environment, cwd=Path(__file__).parents[1]).returncode:
            failed.append(" ".join(command))
    for command_line in failed:
        print(f"failed: {command_line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
