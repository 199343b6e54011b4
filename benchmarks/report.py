"""The results of a run: written after every row, whole or not at all; continued where a run stopped."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measured import FAILED, Row, row_from, with_ratios
from benchmarks.output import write_json
from kblam_kernels import KernelError

RESULTS = Path(__file__).parent / "results"
# A report of another device or source is not continued.
SAME = ("device", "dtype", "commit", "torch", "triton")


def _commit() -> str:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"


def environment(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Where and with what figures are made; what cannot be found out here is None or "unknown"."""
    on_gpu = torch.device(device).type == "cuda"
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "commit": _commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "triton": triton_version,
        "python": sys.version.split()[0],
    }


class Report:
    """Rows of a run, in a file that is right after each of them.

    Args:
        folder: of the results of all devices.
        name: of the file in the device's folder.
        about: from `environment`.
    """

    def __init__(self, folder: Path, name: str, about: dict[str, Any]) -> None:
        self.file = folder / re.sub(r"[^A-Za-z0-9.-]+", "-", about["device"]) / name
        self.about = about
        self.ceilings: dict[str, Any] = {}
        self.rows: list[Row] = []
        self.models: list[dict[str, Any]] = []
        self.left_out: list[str] = []

    def resume(self) -> None:
        """Takes in what the file has.

        Raises:
            KernelError: if it cannot be read, or is of another device, dtype, commit or version.
        """
        if not self.file.exists():
            return
        try:
            stored = json.loads(self.file.read_text(encoding="utf-8"))
            rows, models = [row_from(row) for row in stored["rows"]], list(stored["models"])
        except (ValueError, KeyError, TypeError) as problem:
            raise KernelError(f"{self.file} is no report that can be continued: {problem!r}") from problem
        for name in SAME:
            if stored["environment"].get(name) != self.about[name]:
                raise KernelError(
                    f"{self.file} has {name} {stored['environment'].get(name)!r}, this run {self.about[name]!r}; "
                    "choose another --name, or leave --resume out"
                )
        self.rows, self.models = rows, models

    def has(self, shape: str, implementation: str) -> bool:
        """Whether it is measured."""
        return any((row.shape, row.implementation) == (shape, implementation) for row in self.rows)

    @property
    def failed(self) -> list[str]:
        """Our own rows that failed."""
        found = [f"{row.implementation}, {row.shape}" for row in self.rows if row.is_ours and row.status == FAILED]
        return found + [
            f"{model['model']}, {model['triples']:,} triples" for model in self.models if model["status"] == FAILED
        ]

    def write(self) -> None:
        """All of it so far."""
        self.rows = with_ratios(self.rows)
        content = {
            "environment": self.about,
            "ceilings": self.ceilings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "models": self.models,
            "left_out": self.left_out,
        }
        write_json(content, self.file)


def summary(rows: Sequence[Row]) -> list[str]:
    """Of one shape: ours beside the best peer."""
    found = []
    for row in rows:
        if row.is_ours and row.ratio_to_best_peer:
            peers = [other for other in rows if other.seconds and not other.is_ours and other.l2 == row.l2]
            best = min(peers, key=lambda other: other.seconds or 0.0)
            warm = ", warm L2" if row.l2 == "warm" else ""
            found.append(
                f"{row.implementation}{warm}: {row.ratio_to_best_peer:.2f}x the best peer, {best.implementation}"
            )
    return found
