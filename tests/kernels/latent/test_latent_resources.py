"""What the compiler makes of latent decode on sm_80 and sm_90: nothing spills, all fits, tensor cores work."""

from __future__ import annotations

from typing import Any

import pytest

from kblam_kernels.latent import decode_jobs
from kblam_kernels.latent.tiles import TILES, latent_tile, value_parts
from kblam_kernels.resources import Resources, jobs
from kblam_kernels.tiles import SHARED_LIMIT
from tests.kernels.compiled import name_of, report

pytest.importorskip("triton")

JOBS = list(decode_jobs.compile_jobs())
QUICK = [name_of(job) for job in JOBS if not job.extended]


@pytest.fixture(scope="module")
def rows() -> dict[str, Resources]:
    """The quick rows."""
    return report("--quick", "--match", "latent_decode_kernel")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", QUICK)
def test_usual_rows_fit_and_do_not_spill(name: str, rows: dict[str, Resources]) -> None:
    assert rows[name].broken_limits() == []
    assert rows[name].tensor_core_instructions >= 64


def test_every_tile_is_compiled_by_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    registered = [job for job in jobs() if job.kernel == "latent_decode_kernel"]
    assert [job.variant for job in registered] == [job.variant for job in JOBS]
    compiled = {(job.arch, job.tile) for job in registered}
    for _, _, tile in TILES:
        assert {("sm_80", str(tile)), ("sm_90", str(tile))} <= compiled
    assert {job.arch for job in registered} <= set(SHARED_LIMIT)


@pytest.mark.parametrize(
    ("P", "element_size", "arch", "expected"),
    [
        (384, 2, "sm_80", "32x32x4x2 3 chunks"),
        (385, 2, "sm_90", "32x32x8x2 6 chunks"),
        (512, 2, "sm_86", "32x128x8x3 streamed"),
        (1536, 2, "sm_80", "32x128x8x3 streamed"),
        (5, 4, "sm_90", "32x64x8x2 streamed"),
    ],
)
def test_the_tile_of_a_width(P: int, element_size: int, arch: Any, expected: str) -> None:
    assert str(latent_tile(P, element_size, arch)) == expected


def test_value_columns_are_shared_evenly() -> None:
    assert value_parts(1024, latent_tile(1024, 2)) == (2, 4)
    assert value_parts(896, latent_tile(896, 2)) == (2, 4)
    assert value_parts(384, latent_tile(384, 2)) == (1, 3)
    assert value_parts(3072, latent_tile(3072, 2)) == (1, 1)
