"""Evidence in Triton's interpreter, dense and latent, against the specification; what the compiler makes of it."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import BackendUnavailableError, evidence, top_evidence
from kblam_kernels.evidence import jobs
from kblam_kernels.evidence.tiles import TILES, MassTile, mass_tile
from kblam_kernels.latent import quantise
from kblam_kernels.resources import Resources
from tests.kernels.compiled import name_of, report
from tests.kernels.latent import latent_problems
from tests.kernels.launches import Recorder, without_data
from tests.kernels.problems import make
from tests.kernels.score_cases import ABSORBED, BIAS, DENSE, LATENT, dense_of, hold, masses

pytest.importorskip("triton")
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=0")


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", DENSE)
def test_dense(name: str, dtype: torch.dtype) -> None:
    problem = make(**DENSE[name], dtype=dtype)
    hold(masses(problem))


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("name", LATENT)
def test_latent(name: str, dtype: torch.dtype) -> None:
    problem = latent_problems.make(**LATENT[name], dtype=dtype)
    hold(masses(problem), absorbed=ABSORBED[dtype])


@interpreted
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float16], ids=str)
def test_latents_are_read_as_they_are_stored(dtype: torch.dtype) -> None:
    problem = latent_problems.make(N=1, M=70, dtype=torch.float32)
    k, scales = problem.knowledge, dict[str, Tensor]()
    if dtype == torch.float16:
        key = k.key.to(dtype)
    else:
        key, scales["key_scale"] = quantise(k.key, dtype)
        scales["value_scale"] = scales["key_scale"]
    problem = problem.but(knowledge=dataclasses.replace(k, key=key, value=key, **scales))
    hold(masses(problem))


@interpreted
@pytest.mark.parametrize(
    "tile", [MassTile(16, 16, 16, 9, 4, 1), MassTile(64, 64, 16, 1, 4, 1)], ids=["small", "chunk-by-chunk"]
)
def test_other_tiles_give_the_same(tile: MassTile, monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.evidence import triton_mass

    monkeypatch.setattr(triton_mass, "mass_tile", lambda rows, element_size: tile)
    dense = make(B=1, H=2, G=1, N=5, M=70, D=40, knowledge_bias=BIAS, dtype=torch.float32)
    hold(masses(dense))
    latent = latent_problems.make(B=1, H=2, G=1, N=5, M=70, P=40, knowledge_bias=BIAS, dtype=torch.float32)
    hold(masses(latent))


@interpreted
def test_keys_in_a_models_memory_layout() -> None:
    problem = make(N=1, M=40, dtype=torch.float32)
    slots = torch.full((40, 3, 4, 16), float("nan"))
    slots[:, 1] = problem.knowledge_key.transpose(0, 1)
    strided = problem.but(knowledge_key=slots[:, 1].transpose(0, 1))
    assert torch.equal(masses(strided)[0], masses(problem)[0])


@interpreted
def test_tokens_outside_the_range_are_not_read() -> None:
    problem = make(B=1, N=1, M=70, dtype=torch.float32, knowledge_range=torch.tensor([[33, 40]]))
    _, lse = problem.run()
    options: dict[str, Any] = {"knowledge_range": problem.knowledge_range, "backend": "triton"}
    expected = evidence(problem.knowledge_query, dense_of(problem), lse, **options)
    problem.knowledge_key[:, :33] = float("nan")
    problem.knowledge_key[:, 40:] = float("nan")
    assert torch.equal(evidence(problem.knowledge_query, dense_of(problem), lse, **options), expected)


@interpreted
def test_the_best_come_first() -> None:
    problem = make(N=1, M=70, dtype=torch.float32)
    _, lse = problem.run()
    arguments = (problem.knowledge_query, dense_of(problem), lse, 4)
    best, index = top_evidence(*arguments, backend="triton")
    plain, plain_index = top_evidence(*arguments, backend="reference")
    assert torch.equal(index, plain_index)
    torch.testing.assert_close(best, plain)


@pytest.mark.parametrize("storage", [None, torch.int8, torch.float8_e4m3fn], ids=str)
def test_the_launcher_looks_at_no_data(storage: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from kblam_kernels.evidence import triton_mass

    recorder = Recorder()
    monkeypatch.setattr(triton_mass, "evidence_mass_kernel", recorder)
    level = torch.ones(2, 4, 3)
    arguments = {"rows": torch.ones(2, 4, 3, 16), "lse": level, "row_weight": level.half(), "scale": 0.25}
    arguments |= {"bias": torch.ones(2, 70), "knowledge_range": torch.zeros(2, 2, dtype=torch.int32)}
    if storage is None:
        arguments |= {"key": torch.ones(4, 70, 16)} | dict.fromkeys(("norm", "key_scale", "constant"))
    else:
        arguments |= {"key": torch.ones(70, 16, dtype=storage), "constant": level}
        arguments |= {"norm": torch.ones(70), "key_scale": torch.ones(70)}
    assert triton_mass.mass(**without_data(**arguments)).shape == (2, 70)
    assert len(recorder.launches) == 1


def test_float64_is_refused_by_name() -> None:
    problem = make()
    with pytest.raises(BackendUnavailableError, match=r"'triton' cannot serve .*float64"):
        evidence(problem.knowledge_query, dense_of(problem), problem.run()[1], backend="triton")


@pytest.fixture(scope="module")
def compiled() -> dict[str, Resources]:
    """The quick rows."""
    return report("--quick", "--match", "evidence_mass_kernel")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", [name_of(job) for job in jobs.compile_jobs() if not job.extended])
def test_usual_rows_fit_and_do_not_spill(name: str, compiled: dict[str, Resources]) -> None:
    assert compiled[name].broken_limits() == []
    # Small enough for 8 programs on a multiprocessor of an A100, which hide each other's waits.
    if "rows1000" not in name:
        assert compiled[name].shared_bytes <= 50 * 1024


def test_every_tile_is_compiled_by_the_command() -> None:
    assert {str(tile) for _, _, tile in TILES} == {job.tile for job in jobs.compile_jobs()}
    assert str(mass_tile(17, 2)) == "32x32x4x2"
