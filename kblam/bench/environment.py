"""Where and with what figures are made: what every result file begins with."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from kblam.errors import BenchmarkError
from kblam_kernels import BackendUnavailableError
from kblam_kernels.tools import env

# Figures of one machine are of these.
MACHINE = ("device", "cpu", "threads")


# A run writes there: that is no change of what is measured.
_BUT_RESULTS = (":/", ":(exclude,top)benchmarks/results")
# New files of these are a change, though `git describe` does not say so.
_SOURCES = tuple(f":/{folder}" for folder in ("kblam", "kblam_kernels", "csrc", "benchmarks"))


def commit() -> str:
    """Of the checkout that this package lies in, as `git describe` says it, with "-dirty" where a file but results is
    changed; "unknown" where there is none.
    """
    described = _git("describe", "--always").decode().strip()
    return f"{described}{'-dirty' if _changed_files() else ''}" if described else "unknown"


def changes() -> str | None:
    """Digest of what the checkout has beside its commit: changed files but results, and new sources; None for
    nothing. Two runs of one "-dirty" commit are of the same code where it is the same.
    """
    changed = _changed_files()
    top = Path(os.fsdecode(_git("rev-parse", "--show-toplevel").strip()))
    listed = _git("ls-files", "-z", "--others", "--exclude-standard", "--full-name", *_SOURCES, _BUT_RESULTS[1])
    new = sorted(name for name in listed.split(b"\0") if name)
    if not changed and not new:
        return None
    digest = hashlib.sha256(changed)
    for name in new:
        file = top / os.fsdecode(name)
        content = file.read_bytes() if file.is_file() else b""
        digest.update(b"\0%s\0%d\0" % (name, len(content)) + content)
    return digest.hexdigest()[:16]


def _changed_files() -> bytes:
    return _git("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--binary", "HEAD", "--", *_BUT_RESULTS)


def _git(*arguments: str) -> bytes:
    """What it prints; nothing where it fails or is not here."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, cwd=Path(__file__).parent).stdout
    except OSError:
        return b""


def environment(device: str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """The block of a result file; what cannot be found out here is None or "unknown".

    Args:
        device: where is measured.
        dtype: of the whole run; None where each row has its own.
    """
    on_gpu = torch.device(device).type == "cuda"
    about: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "cpu": env.cpu(),
        "instruction_set": None if on_gpu else _instruction_set(),  # would build the C++ kernels
        "threads": torch.get_num_threads(),
        "clock": cpu_clock(),
        "driver": env.nvidia_driver() if on_gpu else None,
        "commit": commit(),
        "changes": changes(),
        "kblam": env.version_of("kblam-kernels"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "triton": env.version_of("triton"),
        "transformers": env.version_of("transformers"),
        "python": sys.version.split()[0],
        "variables": env.environment(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if dtype is not None:
        about["dtype"] = str(dtype).removeprefix("torch.")
    return about


def _instruction_set() -> str | None:
    from kblam_kernels.common import native  # imports much of torch.compile

    return None if native.unavailable() else native.instruction_set()


def check_device(device: str) -> None:
    """Whether our kernels can be measured there.

    Raises:
        BenchmarkError: it is no device to measure, or a GPU that is not the first.
        BackendUnavailableError: there is no CUDA device, or there are no C++ kernels on a CPU.
    """
    check_is_here(device)
    if torch.device(device).type == "cuda":
        return
    from kblam_kernels.common import native

    reason = native.unavailable()
    if reason is not None:
        raise BackendUnavailableError(f"backend 'cpu' cannot be measured: {reason}")


def check_is_here(device: str) -> None:
    """Whether it is a CPU, or a GPU of this machine that can be measured.

    Raises:
        BenchmarkError: it is neither, or a GPU that is not the first.
        BackendUnavailableError: there is no CUDA device.
    """
    if not re.fullmatch(r"(cpu|cuda)(:\d{1,2})?", device):
        raise BenchmarkError(f"--device: {device!r} is not cpu or cuda")
    if torch.device(device).type == "cuda":
        if not torch.cuda.is_available():
            raise BackendUnavailableError("no CUDA device here; --device cpu measures the CPU")
        check_is_first(device)


def check_is_first(device: str) -> None:
    """Raises BenchmarkError for another GPU than the first: graphs, events and peaks are of the current one."""
    if torch.device(device).type == "cuda" and (number := torch.device(device).index):
        raise BenchmarkError(
            f"--device: {device!r} is not the first GPU, which alone is measured; with CUDA_VISIBLE_DEVICES={number} "
            "and --device cuda it is the first"
        )


def cpu_clock() -> float | None:
    """MHz of the processor now, the mean of the cores that this process may use; None where Linux does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    of_each = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(len(of_each)))
    chosen = [clock for number, clock in enumerate(of_each) if number in allowed]
    return round(sum(chosen) / len(chosen), 1) if chosen else None


def line(about: dict[str, Any]) -> str:
    """For people, below a table."""
    where = about["device"] if about["device"] != "cpu" else about["cpu"]["model"]
    kernels = f"{about['instruction_set']} kernels, " if about["device"] == "cpu" else ""
    return f"{where}, {kernels}{about['threads']} threads, torch {about['torch']}, commit {about['commit']}"
