"""Runs of the GPU benchmark's toy shapes on the CPU, and what they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_bench
from kblam.bench import measured, subjects
from kblam.bench.ceilings import Ceilings

RUN = measured.Run("cpu", torch.float32, Ceilings(1e9, 1e9, 1e9, {}), compiles=False)


def report_of(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "cpu" / "attention.json").read_text())
    return stored


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["implementation"]: row for row in report_of(folder)["rows"] if row["l2"] == "cold"}


def run(folder: Path, *options: str) -> int:
    return gpu_bench.main(["--device", "cpu", "--tiny", "--results", str(folder), *options])


def ours_in(phase: str) -> set[str]:
    return {name for name in subjects.names(phase, "cpu") if name in subjects.OURS}


def raising(problem: Exception) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        raise problem

    return call
