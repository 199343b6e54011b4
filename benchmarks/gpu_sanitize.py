"""The kernels under compute-sanitizer: `python -m benchmarks.gpu_sanitize`, or `make gpu-sanitize`.

memcheck, then racecheck, on the small launches of `benchmarks.sanitize_shapes`. These run once without it before, so
that kernels are compiled, and so that what fails by itself is not taken for a fault of memory.

exit status: 0 if all of it ran and nothing was found; 1 if not; 2 if there is nothing to run it on or with.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check import check_device, run_all
from benchmarks.sanitize_shapes import add_parts
from kblam_kernels import BackendUnavailableError

TOOLS = ("memcheck", "racecheck")
# In PyTorch's cached blocks one tensor lies beside another: what reads past the first reads the second, and memcheck
# sees nothing. Without the cache each tensor is an allocation of its own.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "TRITON_INTERPRET": "0"}


def sanitizer() -> str:
    """Path of compute-sanitizer.

    Raises:
        BackendUnavailableError: it is neither on PATH nor in the CUDA toolkit of CUDA_HOME.
    """
    home = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda")
    for candidate in ("compute-sanitizer", str(home / "bin" / "compute-sanitizer")):
        if found := shutil.which(candidate):
            return found
    raise BackendUnavailableError(
        f"compute-sanitizer is neither on PATH nor in {home / 'bin'}; install the CUDA toolkit or set CUDA_HOME"
    )


def commands(tools: Sequence[str], parts: Sequence[str]) -> list[list[str]]:
    """What is run, in order.

    Raises:
        BackendUnavailableError: no CUDA device, or no compute-sanitizer.
    """
    check_device()
    path = sanitizer()
    chosen = [argument for part in parts for argument in ("--part", part)]
    program = [sys.executable, "-m", "benchmarks.sanitize_shapes", *chosen]
    return [program, *([path, "--tool", tool, "--error-exitcode", "1", *program] for tool in tools)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_sanitize", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--tool", choices=TOOLS, action="append", help="this one only; may be repeated")
    add_parts(parser)
    options = parser.parse_args(arguments)
    try:
        planned = commands(options.tool or TOOLS, options.part or [])
    except BackendUnavailableError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return run_all(planned, **ENVIRONMENT)


if __name__ == "__main__":
    sys.exit(main())
