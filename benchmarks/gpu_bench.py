"""Peers side by side with the ceilings of the same run: `python -m benchmarks.gpu_bench`.

Every implementation is held against float64 before it is timed; one that fails the gate gets no speed number, and its
row says so. Rows go to benchmarks/results/<device>/attention.json, the cases we lose among them; the file is written
after each shape, so that a run cut short leaves what it measured.

`--device cpu --tiny` walks the same code in seconds with toy shapes. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import ceilings, peers, shapes, subjects
from benchmarks.timing import median_seconds
from kblam_kernels.errors import BackendUnavailableError, KernelError
from kblam_kernels.graphs import captured
from tests import tolerances

RESULTS = Path(__file__).parent / "results"
# A peer may round its partial results to 16 bits before it merges them; the gate only asks whether it computes the
# same function. We are held to the tolerance of the tests.
PEER_FACTOR = 10.0
FAILED = "failed the gate: not timed"


@dataclasses.dataclass(frozen=True)
class Row:
    """One implementation on one shape; without `seconds`, the note says why."""

    shape: str
    phase: str
    implementation: str
    backend: str | None
    relative_error: float | None = None
    seconds: float | None = None
    tflops: float | None = None
    gigabytes_per_second: float | None = None
    of_matmul_ceiling: float | None = None
    of_copy_ceiling: float | None = None
    peak_bytes: int | None = None
    cuda_graph: bool | None = None
    ratio_to_best_peer: float | None = None
    note: str = ""


def measure(shape: shapes.Shape, device: str, dtype: torch.dtype, limits: ceilings.Ceilings) -> list[Row]:
    """Gate, then time, every implementation on one shape."""
    # Peers are compiled for each shape; without this the compiler gives up after a few.
    torch.compiler.reset()
    rows: list[Row] = []
    for subject in subjects.subjects(shape, device, dtype):
        rows.append(_measured(subject, shape, device, dtype, limits))
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()
    peers_seconds = [row.seconds for row in rows if row.seconds and row.implementation not in subjects.OURS]
    best = min(peers_seconds, default=None)
    return [
        dataclasses.replace(row, ratio_to_best_peer=best / row.seconds) if best and row.seconds else row for row in rows
    ]


def _measured(
    subject: subjects.Subject, shape: shapes.Shape, device: str, dtype: torch.dtype, limits: ceilings.Ceilings
) -> Row:
    row = Row(shape.name, shape.phase, subject.name, subject.backend)
    if subject.name in peers.NEEDS_CUDA and torch.device(device).type != "cuda":
        return dataclasses.replace(row, note="needs a CUDA device")
    try:
        call, judge = subject.build(), subject.judge()
        error = tolerances.relative_error(call(), judge.exact)
    except torch.OutOfMemoryError as problem:
        return dataclasses.replace(row, note=f"does not fit: {str(problem).splitlines()[0]}")
    # A peer that refuses a shape is a result, not the end of the run.
    except Exception as problem:
        if subject.is_ours:
            raise
        return dataclasses.replace(row, note=f"{type(problem).__name__}: {str(problem).splitlines()[0]}")
    row = dataclasses.replace(row, relative_error=error)
    factor = tolerances.FACTOR if subject.is_ours else PEER_FACTOR
    if error > factor * judge.allowed + tolerances.FLOOR[dtype]:
        return dataclasses.replace(row, note=FAILED)
    return _timed(row, call, subject.work, device, dtype, limits)


def _timed(
    row: Row,
    call: Callable[[], Tensor],
    work: shapes.Work,
    device: str,
    dtype: torch.dtype,
    limits: ceilings.Ceilings,
) -> Row:
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        peak = torch.cuda.max_memory_allocated() - before
    replay = captured(call) if on_gpu else None
    seconds = median_seconds(replay or call, device)
    flops = work.flops / seconds
    moved = work.bytes_moved(dtype.itemsize) / seconds
    return dataclasses.replace(
        row,
        seconds=seconds,
        tflops=flops / 1e12,
        gigabytes_per_second=moved / 1e9,
        of_matmul_ceiling=flops / limits.flops_per_second,
        of_copy_ceiling=moved / limits.bytes_per_second,
        peak_bytes=peak if on_gpu else None,
        cuda_graph=replay is not None if on_gpu else None,
    )


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return result.stdout.strip() or "unknown"


def environment(device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Where and with what the figures were made."""
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
        "triton": triton_version,
        "python": sys.version.split()[0],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 1 if our own result failed the gate, 2 without a device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy shapes: to test this command")
    parser.add_argument("--match", default="", help="only shapes whose name contains this text")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--name", default="attention.json", help="of the file, where a run measures a part")
    options = parser.parse_args(arguments)
    try:
        if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
            raise BackendUnavailableError("no CUDA device here; `--device cpu --tiny` only tests this command")
        if torch.device(options.device).type == "cpu" and not options.tiny:
            raise BackendUnavailableError("the shapes are for a GPU; on a CPU use `--device cpu --tiny`")
    except KernelError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    dtype = torch.float32 if options.tiny else torch.bfloat16
    limits = ceilings.measure(options.device, dtype, tiny=options.tiny)
    print(f"copy {limits.bytes_per_second / 1e9:.0f} GB/s, matmul {limits.flops_per_second / 1e12:.2f} TFLOP/s")
    about = environment(options.device, dtype)
    target = options.results / re.sub(r"[^A-Za-z0-9.-]+", "-", about["device"]) / options.name
    rows: list[Row] = []
    for shape in shapes.tiny() if options.tiny else shapes.registry():
        if options.match not in shape.name:
            continue
        print(f"\n{shape.name}")
        for row in measure(shape, options.device, dtype, limits):
            rows.append(row)
            print("  " + _line(row), flush=True)
        _write(target, about, limits, rows)
    print(f"\n{target}")
    return 1 if any(row.implementation in subjects.OURS and row.note == FAILED for row in rows) else 0


def _write(target: Path, about: dict[str, Any], limits: ceilings.Ceilings, rows: list[Row]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "environment": about,
        "ceilings": dataclasses.asdict(limits),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    target.write_text(json.dumps(report, indent=1) + "\n")


def _line(row: Row) -> str:
    name = f"{row.implementation} ({row.backend})" if row.backend else row.implementation
    if row.seconds is None:
        return f"{name:36} {row.note}"
    return (
        f"{name:36} {row.seconds * 1e6:10.1f} us  {row.tflops:8.2f} TFLOP/s ({row.of_matmul_ceiling:6.1%})  "
        f"{row.gigabytes_per_second:8.1f} GB/s ({row.of_copy_ceiling:6.1%})  error {row.relative_error:.1e}"
        + (f"  {row.ratio_to_best_peer:.2f}x the best peer" if row.ratio_to_best_peer else "")
    )


if __name__ == "__main__":
    sys.exit(main())
