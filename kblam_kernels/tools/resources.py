"""What the compiler makes of every kernel and tile, without a GPU: registers, spills, shared memory, tensor cores.

    python -m kblam_kernels resources                        # the whole table; exit status 1 if a row breaks a limit
    python -m kblam_kernels resources --arch sm_80 --match "D128 prefill" --json

It compiles what the launchers launch: each case of `cases.py` is a call on tensors without memory, recorded instead of
launched. Needs triton, whose wheel carries ptxas and cuobjdump; triton caches what it compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kblam_kernels.common.launch import Launch, one_by_one, options, recording
from kblam_kernels.common.tiles import SHARED_LIMIT

if TYPE_CHECKING:
    from kblam_kernels.tools.cases import Case

_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
    torch.int32: "i32",
    torch.int64: "i64",
}

# One instruction of a disassembly: its address, perhaps a predicate, its name.
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", re.MULTILINE)
# HMMA and IMMA (mma), HGMMA and its relatives (wgmma), UTC*MMA (Blackwell).
_TENSOR_CORE = re.compile(r"(?:[A-Z]G?MMA|UTC[A-Z]*MMA)$")
# Bytes of stack that a kernel may have. The second warp group of Hopper's prefill keeps the thread's number there: one
# store, and one load before its loops (tests/kernels/dense/test_hopper.py counts them).
_STACK = {"dense_hopper_kernel": 8}


@dataclass(frozen=True)
class Resources:
    """The resources of one program of a compiled kernel: bytes, and registers of a thread."""

    kernel: str
    arch: str
    variant: str
    tile: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_core_instructions: int

    def broken_limits(self) -> list[str]:
        """Why a device would run this badly or not at all; empty when all is well."""
        limit = SHARED_LIMIT[self.arch]
        broken = []
        if self.spill_bytes > _STACK.get(self.kernel, 0):
            broken.append(f"spills {self.spill_bytes} bytes a thread")
        if self.shared_bytes > limit:
            broken.append(f"takes {self.shared_bytes} bytes of shared memory, {self.arch} has {limit}")
        if not self.tensor_core_instructions:
            broken.append("does not use the tensor cores")
        return broken


def launch_of(case: Case) -> Launch:
    """The launch of a case that is compiled."""
    with recording(case.arch) as made:
        case.launch()
    return made.launches[case.place]


def specialised(kernel: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """A launch as Triton's own launcher would specialise it: the arguments of `ASTSource`.

    These are the type of each argument, the value of those that are compiled in, and which are multiples of 16.
    """
    from triton.runtime.jit import mangle_type

    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    divisible: dict[tuple[int, ...], Any] = {}

    def typed(value: Any, place: tuple[int, ...], specialised: bool) -> Any:
        if isinstance(value, tuple):
            # Whatever do_not_specialize says of a tuple.
            return type(value)(*(typed(part, (*place, i), True) for i, part in enumerate(value)))
        if value is None or (specialised and isinstance(value, int) and value == 1):
            constants[place] = value
            return "constexpr"
        if isinstance(value, torch.Tensor):
            # Allocated tensors are aligned, and so are views that start at whole vectors.
            divisible[place] = [["tt.divisibility", 16]]
            return f"*{_TYPES[value.dtype]}"
        if isinstance(value, float):
            return "fp32"
        if hasattr(value, "block_shape"):
            return mangle_type(value)  # a tensor descriptor: the type says its block and layout
        if specialised and value % 16 == 0:
            divisible[place] = [["tt.divisibility", 16]]
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    arguments = one_by_one(arguments)
    for i, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr:
            constants[(i,)] = value
            signature[parameter.name] = "constexpr"
        else:
            signature[parameter.name] = typed(value, (i,), not parameter.do_not_specialize)
    return {"signature": signature, "constexprs": constants, "attrs": divisible}


def source_of(launch: Launch) -> Any:
    """What Triton compiles for a launch."""
    if launch.kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource as ASTSource
    else:
        from triton.compiler import ASTSource

    return ASTSource(fn=launch.kernel, **specialised(launch.kernel, launch.arguments))


def measure(case: Case) -> Resources:
    """Compiles one case for its architecture and reads the machine code."""
    from triton import compile as triton_compile
    from triton.backends.compiler import GPUTarget

    launch = launch_of(case)
    kernel, _, _, tile = launch
    compiled = triton_compile(
        source_of(launch),
        target=GPUTarget("cuda", int(case.arch.removeprefix("sm_")), 32),
        options=options(tile),
    )
    usage, assembly = _disassemble(compiled.asm["cubin"])
    opcodes = _INSTRUCTION.findall(assembly)
    return Resources(
        kernel=kernel.__name__,
        variant=case.variant,
        arch=case.arch,
        tile=str(tile),
        registers=_number("REG", usage),
        spill_bytes=_number("STACK", usage) + _number("LOCAL", usage),
        shared_bytes=compiled.metadata.shared,
        tensor_core_instructions=sum(1 for opcode in opcodes if _TENSOR_CORE.match(opcode)),
    )


def _disassemble(cubin: bytes) -> tuple[str, str]:
    """Resource usage and assembly of a compiled kernel, as the CUDA tools of the triton wheel print them."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, assembly = (
            subprocess.run(
                [knobs.nvidia.cuobjdump.path, option, str(path)], check=True, capture_output=True, text=True
            ).stdout
            for option in ("-res-usage", "-sass")
        )
    return usage, assembly


def _number(name: str, usage: str) -> int:
    found = re.search(rf"\b{name}:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump did not report {name}: {usage!r}")
    return int(found[1])


def measure_all(selected: Sequence[Case], processes: int) -> Iterator[Resources]:
    """The resources of each case, in order, compiled in `processes` processes at once."""
    if processes == 1:
        yield from map(measure, selected)
        return
    # A fork would copy locks that torch's threads may hold.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(measure, selected)


# Width of each column of the table; of a number, that of its title.
_COLUMNS = {field.name: len(field.name) for field in dataclasses.fields(Resources)}
_COLUMNS |= {"kernel": 20, "arch": 5, "variant": 41, "tile": 18}


def _line(cells: Iterable[object]) -> str:
    return "  ".join(str(c).ljust(width) for c, width in zip(cells, _COLUMNS.values(), strict=True)).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m kblam_kernels resources", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--arch", choices=sorted(SHARED_LIMIT), help="this architecture only")
    parser.add_argument("--match", default="", help="only jobs in whose 'arch kernel variant' this expression is found")
    parser.add_argument("--quick", action="store_true", help="leave out what is rarely launched")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="compile this many at once")
    options = parser.parse_args(arguments)
    if options.processes < 1:
        parser.error(f"--processes must be at least 1; got {options.processes}")
    try:
        match = re.compile(options.match)
    except re.error as error:
        parser.error(f"--match {options.match!r} is no regular expression: {error}")
    if importlib.util.find_spec("triton") is None:
        print("triton is not installed (pip install 'kblam-kernels[triton]')", file=sys.stderr)
        return 2
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("TRITON_INTERPRET=1 replaces the compiler; unset it", file=sys.stderr)
        return 2
    from kblam_kernels.tools.cases import cases

    selected = [
        case
        for case in cases()
        if match.search(f"{case.arch} {launch_of(case).kernel.__name__} {case.variant}")
        and options.arch in (None, case.arch)
        and not (options.quick and case.extended)
    ]
    if not selected:
        chosen = " ".join(["--match", repr(options.match), *(["--arch", options.arch] if options.arch else [])])
        parser.error(f"{chosen}{' --quick' if options.quick else ''} leaves no row; without these all are listed")
    rows: list[Resources] = []
    if not options.json:
        print(_line(name.replace("_", " ") for name in _COLUMNS))
    for row in measure_all(selected, options.processes):
        rows.append(row)
        if not options.json:
            # Line by line: compiling takes seconds a row.
            print(_line(getattr(row, name) for name in _COLUMNS), flush=True)
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    broken = [f"{row.kernel} {row.variant} {row.arch} {row.tile}: {why}" for row in rows for why in row.broken_limits()]
    print("\n".join(broken), file=sys.stderr, end="\n" if broken else "")
    return 1 if broken else 0
