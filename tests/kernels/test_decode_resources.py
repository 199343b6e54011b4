"""What the compiler makes of dense decode on sm_80 and sm_90: nothing spills, all fits, tensor cores work."""

from __future__ import annotations

import pytest

from kblam_kernels.rectangular import decode_jobs
from kblam_kernels.rectangular.decode_tiles import TILES
from kblam_kernels.resources import Resources, jobs
from kblam_kernels.tiles import SHARED_LIMIT
from tests.kernels.compiled import name_of, report

pytest.importorskip("triton")

JOBS = list(decode_jobs.compile_jobs())
QUICK = [name_of(job) for job in JOBS if not job.extended]


@pytest.fixture(scope="module")
def rows() -> dict[str, Resources]:
    """The quick rows."""
    return report("--quick", "--match", "rectangular_decode")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", QUICK)
def test_usual_rows_fit_and_do_not_spill(name: str, rows: dict[str, Resources]) -> None:
    assert rows[name].broken_limits() == []
    # Two programs share a multiprocessor of an A100, and sm_86 has room for one.
    assert rows[name].shared_bytes <= SHARED_LIMIT["sm_80"] // 2 <= SHARED_LIMIT["sm_86"]
    assert rows[name].tensor_core_instructions >= 48


def test_every_tile_is_compiled_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    registered = [job for job in jobs() if job.kernel == "rectangular_decode_kernel"]
    assert [job.variant for job in registered] == [job.variant for job in JOBS]
    for arch in ("sm_80", "sm_90"):
        assert {str(tile) for _, _, tile in TILES} == {job.tile for job in registered if job.arch == arch}
