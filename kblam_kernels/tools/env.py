"""What this machine offers the kernels: `python -m kblam_kernels env [--json]`, for bug reports.

Standard library only; torch and triton are inspected if they are installed, transformers is never imported. If
torch itself is broken, `python kblam_kernels/tools/env.py` still works: it does not import the package.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PACKAGES = ("kblam-kernels", "torch", "triton", "numpy", "transformers", "tokenizers", "safetensors")
# Variables that change what the kernels do. None of them holds a secret; of what else begins with KBLAM_, such as a
# server's keys, it is only said that it is set.
VARIABLES = (
    *(f"KBLAM_{name}" for name in ("BACKEND", "BUILD", "CACHE", "CPU_ISA", "ENCODER", "PLAN", "RESOURCES", "TILE")),
    "TRITON_INTERPRET",
    "TRITON_CACHE_DIR",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "CXX",
    "OMP_NUM_THREADS",
    "TORCH_LOGS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
)
_COMMAND_SECONDS = 10


def report() -> dict[str, Any]:
    """Everything, as plain values ready for JSON; a part that cannot be read has an "error" instead."""
    return {
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "cpu": cpu(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "torch": torch_build(),
        "nvidia_driver": nvidia_driver(),
        "compiler": compiler(),
        "backends": backends(),
        "environment": environment(),
    }


def environment() -> dict[str, str]:
    """The variables that are set and change what the kernels do."""
    others = sorted(name for name in os.environ if name.startswith("KBLAM_") and name not in VARIABLES)
    return {name: os.environ[name] for name in VARIABLES if name in os.environ} | dict.fromkeys(others, "(set)")


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, read from its metadata without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu() -> dict[str, Any]:
    """Model name, cores this process may use, and the vector instructions that kernels care about."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {"model": platform.processor() or platform.machine(), "cores": allowed, "flags": []}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found["model"] = fields.get("model name", found["model"])
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
    present = (fields.get("flags") or fields.get("Features", "")).split()
    found["flags"] = [flag for flag in wanted if flag in present]
    return found


def quick_dtype(device: torch.device | str | None = None) -> torch.dtype:
    """What to compute in: bfloat16, but float32 on a processor or a GPU without instructions for products of it.

    Args:
        device: None is cuda where there is one, else cpu. Of one that is not there it is bfloat16.
    """
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cpu":
        return torch.bfloat16 if {"avx512_bf16", "amx_bf16"} & set(cpu()["flags"]) else torch.float32
    if device.type == "cuda":
        # `is_bf16_supported` counts emulation. What is wrong with the device is told to whoever computes there.
        with contextlib.suppress(RuntimeError, AssertionError):
            return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16


def torch_build() -> dict[str, Any]:
    """Version, the CUDA it was built for, and the devices it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch is missing
        return {"version": version_of("torch"), "error": f"cannot import torch: {error}"}
    found: dict[str, Any] = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": []}
    try:
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
            device = torch.cuda.get_device_properties(index)
            found["devices"].append(
                {"name": device.name, "capability": f"{device.major}.{device.minor}", "memory": device.total_memory}
            )
    except RuntimeError as error:
        found["error"] = f"CUDA is there but does not start: {error}"
    return found


def nvidia_driver() -> str | None:
    """Version of the NVIDIA driver; None where there is none."""
    return _first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def compiler() -> dict[str, Any]:
    """The C++ compiler that the build takes, or why there is none."""
    try:
        from kblam_kernels.common import build

        path, *options = build.compiler()
        version = _first_line([path, *options, "--version"])
        return {"path": path if version else None, "version": version}
    except (ImportError, OSError, RuntimeError) as error:
        return {"path": None, "version": None, "error": str(error)}


def backends() -> dict[str, Any]:
    """For each kind of device, the backend that "auto" takes and why not the ones before it."""
    try:
        import torch

        from kblam_kernels import DenseKnowledge, KernelError, explain
    except (ImportError, OSError) as error:
        return {"error": f"cannot import kblam_kernels: {error}"}
    found: dict[str, Any] = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        try:
            tensor = torch.zeros(1, 1, 1, 64, dtype=torch.float32, device=device)
            explanation = explain(tensor, tensor, tensor, DenseKnowledge(tensor[0], tensor[0]))
        except (KernelError, RuntimeError) as error:
            found[device] = {"error": str(error)}
        else:
            found[device] = {"backend": explanation.backend, "rejected": explanation.rejected}
    return found


def _first_line(command: list[str]) -> str | None:
    """The first line of output of a command; None for one that does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def _as_text(value: Any, indent: int = 0) -> list[str]:
    if not isinstance(value, dict):
        return [str(value)]
    lines = []
    for key, inner in value.items():
        space = " " * indent
        if isinstance(inner, dict) and inner:
            lines += [f"{space}{key}:", *_as_text(inner, indent + 2)]
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            for item in inner:
                lines += [f"{space}{key}:", *_as_text(item, indent + 2)]
        else:
            shown = ", ".join(map(str, inner)) if isinstance(inner, list) else inner
            lines.append(f"{space}{key}: {'none' if shown in (None, '', {}) else shown}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status, which is 0 even if the machine lacks something."""
    parser = argparse.ArgumentParser(prog="python -m kblam_kernels env", description="What this machine offers.")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    as_json = parser.parse_args(arguments).json
    found = report()
    print(json.dumps(found, indent=2) if as_json else "\n".join(_as_text(found)))
    return 0


if __name__ == "__main__":
    if not __package__:  # a bare file, of a Python that may see no packages
        sys.exit(main())
    from kblam_kernels.interrupts import leave

    leave(main)
