"""What the compiler makes of every tile on sm_80 and sm_90: nothing spills, all fits, tensor cores work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kblam_kernels import resources, tiles
from kblam_kernels.rectangular import forward_jobs
from kblam_kernels.resources import CompileJob, Resources
from tests.kernels.compiled import name_of, report

pytest.importorskip("triton")

QUICK = [job for job in forward_jobs.compile_jobs() if not job.extended]
EXTENDED = [job for job in forward_jobs.compile_jobs() if job.extended]
# Compiling takes seconds a row, and minutes on a busy machine.
PATIENCE = pytest.mark.timeout(3000)


@pytest.fixture(scope="module")
def quick() -> dict[str, Resources]:
    return report("--quick", "--match", "rectangular_forward_kernel")


@pytest.fixture(scope="module")
def complete(quick: dict[str, Resources]) -> dict[str, Resources]:
    # Triton's cache has the quick rows by now.
    return report("--match", "rectangular_forward_kernel")


@PATIENCE
@pytest.mark.slow
@pytest.mark.parametrize("job", QUICK, ids=name_of)
def test_usual_rows(job: CompileJob, quick: dict[str, Resources]) -> None:
    row = quick[name_of(job)]
    assert row.broken_limits() == []
    assert 16 < row.registers <= 255


@PATIENCE
@pytest.mark.slow
@pytest.mark.parametrize("job", EXTENDED, ids=name_of)
def test_other_rows(job: CompileJob, complete: dict[str, Resources]) -> None:
    assert complete[name_of(job)].broken_limits() == []


@PATIENCE
@pytest.mark.slow
def test_rows_that_sm_86_takes_from_sm_80_fit_it(complete: dict[str, Resources]) -> None:
    own = {key[1:] for key in tiles.table() if key[0] == "sm_86"}
    for job in (*QUICK, *EXTENDED):
        dtype, head_dim, regime, _ = job.variant.split()
        precision = "float32" if dtype == "float32" else "half"
        key = (tiles.bucket_of(int(head_dim.removeprefix("D"))), precision, "prefill" if regime == "masked" else regime)
        if job.arch == "sm_80" and key not in own:
            assert complete[name_of(job)].shared_bytes <= tiles.SHARED_LIMIT["sm_86"], name_of(job)


def test_every_row_of_the_table_is_compiled() -> None:
    compiled = {(job.arch, job.tile) for job in (*QUICK, *EXTENDED)}
    missing = [key for key, tile in tiles.table().items() if (key[0], str(tile)) not in compiled]
    assert missing == []


GOOD = Resources("k", "v", "sm_80", "t", 255, 0, 163 * 1024, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spill_bytes": 8}, "spills 8 bytes"),
        ({"shared_bytes": 163 * 1024 + 1}, "sm_80 has 166912"),
        ({"tensor_core_instructions": 0}, "does not use the tensor cores"),
    ],
)
def test_broken_limits_arename_ofd(change: dict[str, int], reason: str) -> None:
    assert GOOD.broken_limits() == []
    broken = Resources(**{**GOOD.__dict__, **change}).broken_limits()
    assert len(broken) == 1
    assert reason in broken[0]


def test_an_expression_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        resources.main(["--match", "D128 ("])
    assert "--match 'D128 (' is no regular expression" in capsys.readouterr().err


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resources.main([]) == 2
    assert "unset it" in capsys.readouterr().err


def test_listing_the_jobs_imports_no_kernel() -> None:
    """What triton decorates while TRITON_INTERPRET=0 stays compiled: later tests in the process would fail."""
    program = (
        "import sys; from kblam_kernels import resources; list(resources.jobs()); sys.exit('triton' in sys.modules)"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 0
