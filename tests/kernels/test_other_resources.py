"""Rows of the compiled kernels beyond the usual ones: one of every tile, width and head in CI, all of them on demand.

The forward pass has a test for each of its rows (`test_resources.py`). KBLAM_RESOURCES=all compiles all rows of the
other kernels too, which takes minutes.
"""

from __future__ import annotations

import os
import re

import pytest

from kblam_kernels.evidence import jobs as evidence_jobs
from kblam_kernels.latent import decode_jobs as latent_jobs
from kblam_kernels.pruning import jobs as pruning_jobs
from kblam_kernels.rectangular import decode_jobs as dense_jobs
from kblam_kernels.resources import CompileJob, Resources
from tests.kernels.compiled import name_of, report

pytest.importorskip("triton")

JOBS = [job for module in (dense_jobs, latent_jobs, evidence_jobs, pruning_jobs) for job in module.compile_jobs()]
# Of every tile the row that takes most registers, and heads and widths that no such row has; on every architecture.
CHOSEN = {
    "rectangular_decode_kernel": (
        "bfloat16 D64 everything",
        "bfloat16 D96 everything",
        "bfloat16 D256 everything",
        "float32 D128 everything",
        "float32 D256 everything",
    ),
    "latent_decode_kernel": (
        "bfloat16 P256 D256 everything",
        "bfloat16 P384 D96 everything",
        "float16/int8 P384 D128 everything",
        "bfloat16/int8 P512 D128 everything",
        "bfloat16/int8 P768 D128 everything",
        "bfloat16/int8 P1024 D128 everything",
        "bfloat16 P1536 D128 skipping",
        "bfloat16 P3072 D64 everything",
        "float32 P384 D128 skipping",
        "float32 P384 D256 everything",
    ),
    "evidence_mass_kernel": (
        "dense bf16 of bf16 W256 rows1",
        "latent bf16 of u8 W384 rows1000",
        "latent fp32 of fp32 W384 rows1000",
    ),
    "summed_scores_kernel": ("dense fp32 W256", "latent i8 W1536"),
}
COMPILED = [
    job
    for job in JOBS
    if job.extended and (os.environ.get("KBLAM_RESOURCES") == "all" or job.variant in CHOSEN[job.kernel])
]


def _text(job: CompileJob) -> str:
    """What `--match` looks at."""
    return f"{job.arch} {job.kernel} {job.variant}"


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Resources]]:
    """By kernel: two kernels may have rows of one name."""
    kernels = {job.kernel for job in COMPILED}
    found = report("--match", f"^({'|'.join(re.escape(_text(job)) for job in COMPILED)})$").values()
    return {kernel: {name_of(row): row for row in found if row.kernel == kernel} for kernel in kernels}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("job", COMPILED, ids=_text)
def test_other_rows_fit_and_do_not_spill(job: CompileJob, rows: dict[str, dict[str, Resources]]) -> None:
    row = rows[job.kernel][name_of(job)]
    assert row.broken_limits() == []
    assert 16 < row.registers <= 255


def test_ci_compiles_every_tile_width_and_head() -> None:
    ci = [job for job in JOBS if not job.extended or job.variant in CHOSEN[job.kernel]]
    assert {(job.kernel, job.arch, job.tile) for job in ci} == {(job.kernel, job.arch, job.tile) for job in JOBS}
    assert {(name, job.constants[name]) for job in ci for name in ("P", "HEAD_DIM") if name in job.constants} >= {
        *(("P", width) for width in latent_jobs.WIDTHS),
        *(("HEAD_DIM", head_dim) for head_dim in (64, 96, 128, 256)),
    }
    for kernel, variants in CHOSEN.items():
        assert set(variants) <= {job.variant for job in JOBS if job.kernel == kernel and job.extended}


def test_every_width_has_every_head() -> None:
    latent = [job for job in JOBS if job.kernel == "latent_decode_kernel" and job.arch != "sm_86"]
    pairs = {(job.arch, job.constants["P"], job.constants["HEAD_DIM"]) for job in latent}
    assert pairs >= {
        (arch, width, head_dim)
        for arch in ("sm_80", "sm_90")
        for width in latent_jobs.WIDTHS
        for head_dim in (64, 96, 128, 256)
    }
