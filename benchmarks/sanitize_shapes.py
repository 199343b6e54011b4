"""Small launches of every kernel variant, for compute-sanitizer: `python -m benchmarks.sanitize_shapes`.

The results are checked by `pytest -m gpu`; here only the memory accesses matter.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import torch

from kblam_kernels import evidence, prune
from kblam_kernels.errors import BackendUnavailableError
from tests.kernels.cases import GRID, on
from tests.kernels.latent.latent_problems import make
from tests.kernels.problems import make as dense_problem
from tests.kernels.score_cases import DENSE, dense_of

# Latents of each storage, resident, in two parts and streamed, each with a width that pads the last chunk.
LATENT_WIDTHS = (384, 37, 1024, 1500)
STORAGE = (torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)


def latents(device: str) -> Iterator[str]:
    """Runs latent decode over every storage, with and without skipping; yields what ran."""
    for P in LATENT_WIDTHS:
        for storage in STORAGE:
            for dtype in (torch.bfloat16, torch.float32):
                problem = make(B=2, H=4, G=2, N=1, T=70, M=300, D=64, P=P).to(dtype, storage).on(device)
                for threshold in (0.0, 1e-3):
                    problem.but(skip_threshold=threshold).run("triton")
            yield f"latents of {P} in {storage}"


def scores(device: str) -> Iterator[str]:
    """Runs evidence and pruning, dense and latent; yields what ran."""
    for dtype in (torch.bfloat16, torch.float32):
        for name, sizes in DENSE.items():
            problem = on(dense_problem(**sizes, dtype=dtype), device)
            _, lse = problem.run()
            knowledge = dense_of(problem)
            evidence(problem.knowledge_query, knowledge, lse, knowledge_range=problem.knowledge_range, backend="triton")
            prune(problem.knowledge_query, knowledge, 3, backend="triton")
            yield f"scores of dense {name} in {dtype}"
        for storage in STORAGE:
            latent = make(B=2, H=4, G=2, N=1, T=9, M=300, D=64, P=37).to(dtype, storage).on(device)
            _, lse = latent.run()
            evidence(latent.knowledge_query, latent.knowledge, lse, backend="triton")
            for shared in (False, True):
                prune(latent.knowledge_query, latent.knowledge, 3, shared=shared, backend="triton")
            yield f"scores of latents in {storage}"


def main() -> int:
    """Runs the case grid, the latents and the scores on the GPU in two dtypes; returns the exit status."""
    if not torch.cuda.is_available():
        error = BackendUnavailableError("no CUDA device here")
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for case in GRID:
        for dtype in (torch.bfloat16, torch.float32):
            on(case.problem(dtype), "cuda").run("triton")
        torch.cuda.synchronize()
        print(case.name, flush=True)
    for name in itertools.chain(latents("cuda"), scores("cuda")):
        torch.cuda.synchronize()
        print(name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
