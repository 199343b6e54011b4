"""Pruning's scores in Triton's interpreter against the specification, and what the compiler makes of them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch

from kblam_kernels import prune
from kblam_kernels.latent import quantise
from kblam_kernels.pruning import jobs, reference
from kblam_kernels.resources import Resources
from tests import tolerances
from tests.kernels.compiled import name_of, report
from tests.kernels.latent import latent_problems
from tests.kernels.launches import Recorder, without_data
from tests.kernels.problems import make
from tests.kernels.score_cases import hold_choice

pytest.importorskip("triton")
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0")
LATENT: dict[str, dict[str, Any]] = {
    "plain": {"M": 70},
    "wide": {"M": 33, "P": 400},
    "prime-width": {"M": 33, "P": 37},
    "M0": {"M": 0},
}
DENSE: dict[str, dict[str, Any]] = {
    "shared": {"M": 70},
    "per-row": {"M": 33, "shared": False},
    "more-batch-rows-than-a-tile": {"B": 19, "M": 33},
    "odd-heads": {"H": 3, "G": 1, "M": 5, "D": 24},
    "wide-heads": {"M": 33, "D": 160},
    "M0": {"M": 0},
}


def hold(rows: torch.Tensor, *knowledge: torch.Tensor | None) -> None:
    from kblam_kernels.pruning import triton_scores

    ours, theirs = (module.summed_scores(rows, *knowledge) for module in (triton_scores, reference))
    assert ours.shape == theirs.shape
    assert tolerances.relative_error(ours, theirs) < 1e-5


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DENSE)
def test_dense(name: str, dtype: torch.dtype) -> None:
    problem = make(**DENSE[name], N=1, dtype=dtype)
    hold(problem.knowledge_query[:, :, 0].float(), problem.knowledge_key, None, None, None)


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("storage", [None, torch.float16, torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", LATENT)
def test_latent(name: str, storage: torch.dtype | None) -> None:
    problem = latent_problems.make(**LATENT[name], B=3, dtype=torch.float32)
    k, scale = problem.knowledge, None
    key = k.key
    if storage is not None:
        key, scale = (key.half(), None) if storage == torch.float16 else quantise(key, storage)
    draw = torch.Generator().manual_seed(0)
    hold(torch.randn(3, 1, key.shape[1], generator=draw), key, k.norm, scale, torch.randn(3, generator=draw))


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("layout", ["dense", "latent"])
def test_the_choice_is_that_of_plain_pytorch(layout: str) -> None:
    problem: Any = latent_problems.make(B=3, M=70, dtype=torch.float32)
    knowledge = problem.knowledge if layout == "latent" else problem.knowledge.to_dense()
    bias = torch.zeros(70).masked_fill(torch.arange(70) % 3 == 0, -float("inf"))
    for shared in (True, False):
        chosen = [
            prune(problem.knowledge_query, knowledge, 9, knowledge_bias=bias, shared=shared, backend=backend)
            for backend in ("triton", "reference")
        ]
        assert torch.equal(chosen[0][2], chosen[1][2])
        for field in dataclasses.fields(chosen[0][0]):
            ours, theirs = (getattr(knowledge, field.name) for knowledge, _, _ in chosen)
            if isinstance(ours, torch.Tensor):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("storage", [None, torch.int8, torch.float8_e4m3fn], ids=str)
def test_the_launcher_looks_at_no_data(storage: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.pruning import triton_scores

    recorder = Recorder()
    monkeypatch.setattr(triton_scores, "summed_scores_kernel", recorder)
    if storage is None:
        arguments = {"rows": torch.ones(3, 4, 16), "key": torch.ones(4, 70, 16)}
        arguments |= dict.fromkeys(("norm", "key_scale", "constant"))
    else:
        arguments = {"rows": torch.ones(3, 1, 16), "key": torch.ones(70, 16, dtype=storage)}
        arguments |= {"norm": torch.ones(70), "key_scale": torch.ones(70), "constant": torch.ones(3)}
    assert triton_scores.summed_scores(**without_data(**arguments)).shape == (3, 70)
    assert len(recorder.launches) == 1


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("shared", [False, True], ids=["per-row", "shared"])
@pytest.mark.parametrize("layout", ["dense", "dense-per-row", "latent", "int8"])
def test_the_choice_is_that_of_float64(layout: str, shared: bool) -> None:
    if layout.startswith("dense"):
        hold_choice(make(B=3, N=3, M=70, shared=layout == "dense", dtype=torch.bfloat16), 9, shared)
    else:
        storage = torch.int8 if layout == "int8" else None
        hold_choice(latent_problems.make(B=3, M=70).to(torch.bfloat16, storage), 9, shared)


@pytest.fixture(scope="module")
def compiled() -> dict[str, Resources]:
    """The quick rows."""
    return report("--quick", "--match", "summed_scores_kernel")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", [name_of(job) for job in jobs.compile_jobs() if not job.extended])
def test_usual_rows_fit_and_do_not_spill(name: str, compiled: dict[str, Resources]) -> None:
    assert compiled[name].broken_limits() == []
