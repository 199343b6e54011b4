"""Peers side by side with the ceilings of the same run: `python -m benchmarks.gpu_bench`.

Every implementation is held against float64 before it is timed; one that fails the gate gets no speed number, and its
row says so. Rows go to benchmarks/results/<device>/attention.json, the cases we lose among them.

`--device cpu --tiny` walks the same code in seconds with toy shapes. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import ceilings, peers, shapes
from benchmarks.timing import captured, median_seconds
from kblam_kernels import DenseKnowledge, explain, rectangular_attention
from kblam_kernels.errors import BackendUnavailableError, KernelError
from kblam_kernels.rectangular import reference
from tests import tolerances

RESULTS = Path(__file__).parent / "results"
OURS = "rectangular_attention"
# A peer may round its partial results to 16 bits before it merges them; the gate only asks whether it computes the
# same function. We are held to the tolerance of the tests.
PEER_FACTOR = 10.0
# log C - log M for C = 100 and M = 10,000, as far as bfloat16 has it: peers carry it in a bfloat16 mask.
BIAS = -4.625


@dataclasses.dataclass(frozen=True)
class Row:
    """One implementation on one shape; without `seconds`, the note says why."""

    shape: str
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
    note: str = ""


def operands_of(shape: shapes.Shape, device: str, dtype: torch.dtype) -> peers.Operands:
    """Random inputs of a shape, the same for every implementation."""
    draw = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=draw, device=device).to(dtype)

    model = shape.model
    return peers.Operands(
        normal(shape.B, model.query_heads, shape.N, model.head_dim),
        normal(shape.B, model.key_heads, shape.T, model.head_dim),
        normal(shape.B, model.key_heads, shape.T, model.head_dim),
        normal(model.query_heads, shape.M, model.head_dim),
        normal(model.query_heads, shape.M, model.head_dim),
        BIAS,
    )


def ours(o: peers.Operands) -> Callable[[], Tensor]:
    """The public call, on the backend that it chooses."""
    knowledge = DenseKnowledge(o.knowledge_key, o.knowledge_value)
    # A tensor, as an adapter holds it: a Python number would be copied to the device in every call.
    bias = torch.tensor(o.bias, device=o.query.device)
    return lambda: rectangular_attention(o.query, o.key, o.value, knowledge, knowledge_bias=bias)


def _specification(o: peers.Operands, dtype: torch.dtype) -> Tensor:
    M = o.knowledge_key.shape[1]
    bias = torch.full((1, M), o.bias, device=o.query.device)
    tensors = (o.query, o.key, o.value, o.knowledge_key, o.knowledge_value, o.query)
    query, key, value, kappa, nu, r = (t.to(dtype) for t in tensors)
    return reference.forward(query, key, value, kappa, nu, r, bias, None, None, o.scale, None)[0]


def measure(shape: shapes.Shape, device: str, dtype: torch.dtype, limits: ceilings.Ceilings) -> Iterator[Row]:
    """Gate, then time, every implementation on one shape."""
    # Peers are compiled for each shape; without this the compiler gives up after a few.
    torch.compiler.reset()
    o = operands_of(shape, device, dtype)
    exact, plain = _specification(o, torch.float64), _specification(o, dtype)
    allowed = tolerances.relative_error(plain, exact)
    chosen = explain(o.query, o.key, o.value, DenseKnowledge(o.knowledge_key, o.knowledge_value)).backend
    implementations: dict[str, peers.Peer] = {OURS: ours, **peers.PEERS}
    for name, build in implementations.items():
        row = Row(shape.name, name, chosen if name == OURS else None)
        if name in peers.NEEDS_CUDA and o.query.device.type != "cuda":
            yield dataclasses.replace(row, note="needs a CUDA device")
            continue
        try:
            call = build(o)
            error = tolerances.relative_error(call(), exact)
        # A peer that runs out of memory or refuses a shape is a result, not the end of the run.
        except Exception as problem:
            if name == OURS:
                raise
            yield dataclasses.replace(row, note=f"{type(problem).__name__}: {str(problem).splitlines()[0]}")
            continue
        factor = tolerances.FACTOR if name == OURS else PEER_FACTOR
        row = dataclasses.replace(row, relative_error=error)
        if error > factor * allowed + tolerances.FLOOR[dtype]:
            yield dataclasses.replace(row, note="failed the gate: not timed")
            continue
        yield _timed(row, call, shape, device, dtype, limits)


def _timed(
    row: Row,
    call: Callable[[], Tensor],
    shape: shapes.Shape,
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
    flops = shape.flops / seconds
    moved = shape.bytes_moved(dtype.itemsize) / seconds
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
    rows: list[Row] = []
    for shape in shapes.tiny() if options.tiny else shapes.registry():
        if options.match not in shape.name:
            continue
        print(f"\n{shape.name}")
        for row in measure(shape, options.device, dtype, limits):
            rows.append(row)
            print("  " + _line(row), flush=True)
    about = environment(options.device, dtype)
    folder = options.results / re.sub(r"[^A-Za-z0-9.-]+", "-", about["device"])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "attention.json"
    report = {
        "environment": about,
        "ceilings": dataclasses.asdict(limits),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{target}")
    return 1 if any(row.implementation == OURS and row.seconds is None for row in rows) else 0


def _line(row: Row) -> str:
    name = f"{row.implementation} ({row.backend})" if row.backend else row.implementation
    if row.seconds is None:
        return f"{name:36} {row.note}"
    return (
        f"{name:36} {row.seconds * 1e6:10.1f} us  {row.tflops:8.2f} TFLOP/s ({row.of_matmul_ceiling:6.1%})  "
        f"{row.gigabytes_per_second:8.1f} GB/s ({row.of_copy_ceiling:6.1%})  error {row.relative_error:.1e}"
    )


if __name__ == "__main__":
    sys.exit(main())
