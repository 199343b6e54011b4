"""Small launches of every kernel variant, for compute-sanitizer: `python -m benchmarks.sanitize_shapes [--part PART]`.

The results are checked by `pytest -m gpu`; here only the memory accesses matter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks.gpu_check import check_device
from kblam_kernels import BackendUnavailableError
from tests.kernels.cases import EVIDENCE, GRID, Case
from tests.kernels.problems import evidence_of, make, make_latent

# Latents of each storage, resident, in two parts and streamed, each with a width that pads the last chunk.
LATENT_WIDTHS = (384, 37, 1024, 1500)
STORAGE = (torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)
DTYPES = (torch.bfloat16, torch.float32)
# Prompts that Hopper's own prefill kernel takes: ragged tiles of rows and columns, shared lists and each row's own.
LONG = (Case(2, 300, 200, 128, T=333), Case(1, 257, 130, 128, H=4, G=2, shared=False))


def dense(device: str) -> Iterator[str]:
    """Runs the case grid; yields what ran."""
    for case in (*GRID, *LONG):
        for dtype in DTYPES:
            case.problem(dtype).on(device).run("triton")
        yield case.name


def gradients(device: str) -> Iterator[str]:
    """Runs the backward over the case grid; yields what ran."""
    for case in GRID:
        leaves = case.problem(torch.bfloat16).on(device).leaves()
        output, lse = leaves.run("triton")
        total = output.sum() + lse[lse.isfinite()].sum()
        torch.autograd.grad(total, [getattr(leaves, name) for name in leaves.differentiable])
        yield f"gradients of {case.name}"


def latents(device: str) -> Iterator[str]:
    """Runs latent decode over every storage; yields what ran."""
    for P in LATENT_WIDTHS:
        for storage in STORAGE:
            for dtype in DTYPES:
                problem = make_latent(B=2, H=4, G=2, N=1, T=70, M=300, D=64, P=P, dtype=dtype, storage=storage)
                problem.on(device).run("triton")
            yield f"latents of {P} in {storage}"


def scores(device: str) -> Iterator[str]:
    """Runs evidence, dense and latent; yields what ran."""
    for dtype in DTYPES:
        for name, sizes in EVIDENCE.items():
            evidence_of(make(**sizes, dtype=dtype)).on(device).run("triton")
            yield f"scores of dense {name} in {dtype}"
        for storage in STORAGE:
            latent = make_latent(B=2, H=4, G=2, N=1, T=9, M=300, D=64, P=37, dtype=dtype, storage=storage)
            evidence_of(latent).on(device).run("triton")
            yield f"scores of latents in {storage}"


PARTS: dict[str, Callable[[str], Iterator[str]]] = {
    "dense": dense,
    "gradients": gradients,
    "latents": latents,
    "scores": scores,
}


def add_parts(parser: argparse.ArgumentParser) -> None:
    """The option that chooses among PARTS."""
    parser.add_argument("--part", choices=list(PARTS), action="append", help="this one only; may be repeated")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts on the GPU; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize_shapes", description=__doc__.split("\n")[0])
    add_parts(parser)
    options = parser.parse_args(arguments)
    try:
        check_device()
    except BackendUnavailableError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for part in options.part or PARTS:
        for name in PARTS[part]("cuda"):
            torch.cuda.synchronize()
            print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
