"""What the compiler makes of every kernel and tile on sm_80 and sm_90: nothing spills, all fits, tensor cores work.

CI compiles the usual rows, and of the others one of every tile, width and head; KBLAM_RESOURCES=all compiles all, which
takes minutes. One run of the command serves all tests.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("triton")

from kblam_kernels.common.tiles import SHARED_LIMIT, TILE_VARIABLE, UNLIMITED, Choice, Tile, select
from kblam_kernels.dense import tiles as dense
from kblam_kernels.dense import triton_forward
from kblam_kernels.evidence import tiles as evidence
from kblam_kernels.latent import tiles as latent
from kblam_kernels.tools import resources
from kblam_kernels.tools.cases import ARCHS, WIDTHS, Case, cases
from kblam_kernels.tools.resources import Resources

# Hopper's own prefill is listed where Triton has the Gluon that it was written for.
HOPPER = triton_forward.gluon_kernel()

# Of every tile the row that takes most registers, and heads and widths that no such row has; on every architecture.
CHOSEN = {
    "dense_forward_kernel": None,  # all
    **({} if HOPPER is None else {"dense_hopper_kernel": ()}),
    "dense_decode_kernel": (
        "bfloat16 D64 everything",
        "bfloat16 D96 everything",
        "bfloat16 D256 everything",
        "float32 D128 everything",
        "float32 D256 everything",
    ),
    "dense_backward_rows_kernel": ("bfloat16 D128 backward rows",),
    "dense_backward_columns_kernel": (),
    "latent_decode_kernel": (
        "bfloat16 P256 D128 everything",
        "bfloat16 P384 D128 folded",
        "bfloat16/int8 P384 D128 folded",
        "float16/int8 P384 D128 everything",
        "bfloat16 P512 D128 everything",
        "bfloat16/int8 P512 D128 everything",
        "bfloat16 P768 D128 everything",
        "bfloat16/int8 P768 D128 everything",
        "bfloat16/int8 P1024 D128 everything",
        "bfloat16/fp8 P1536 D128 everything",
        "bfloat16 P3072 D128 everything",
        "float32 P384 D128 everything",
    ),
    **dict.fromkeys(
        ("latent_absorb_kernel", "latent_project_kernel"),
        (
            "bfloat16 P3072 D256 everything",
            "bfloat16 P384 D64 everything",
            "bfloat16 P384 D96 everything",
            "float32 P384 D128 everything",
            "float32 P384 D256 everything",
        ),
    ),
    "evidence_mass_kernel": (
        "dense bfloat16 of bfloat16 W256 rows1",
        "latent bfloat16 of fp8 W384 rows1024",
        "latent float32 of float32 W384 rows1024",
    ),
}


@dataclass(frozen=True)
class Listed:
    """A row of the command before it is compiled: what its launcher would launch."""

    case: Case
    kernel: str
    tile: str
    arguments: dict[str, Any]

    @property
    def text(self) -> str:
        """What `--match` looks at."""
        return f"{self.case.arch} {self.kernel} {self.case.variant}"

    @property
    def in_ci(self) -> bool:
        """Whether every run of the tests compiles it."""
        chosen = CHOSEN[self.kernel]
        return not self.case.extended or chosen is None or self.case.variant in chosen


def listed() -> Iterator[Listed]:
    """Every row. Launches are recorded, so the interpreter may have taken the compiler's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(TILE_VARIABLE, raising=False)
        for case in cases():
            kernel, _, arguments, tile = resources.launch_of(case)
            yield Listed(case, kernel.__name__, str(tile), arguments)


JOBS = list(listed())
CI = [job for job in JOBS if job.in_ci]
COMPILED = JOBS if os.environ.get("KBLAM_RESOURCES") == "all" else CI
# Compiling takes seconds a row, and minutes on a busy machine.
slow = [pytest.mark.slow, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def rows() -> dict[str, Resources]:
    """The command's own rows, from a process where the interpreter is not the compiler."""
    match = f"^({'|'.join(re.escape(job.text) for job in COMPILED)})$"
    command = [sys.executable, "-m", "kblam_kernels", "resources", "--json", "--processes", "2", "--match", match]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert result.returncode in (0, 1), result.stderr
    assert result.stdout, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return {f"{row.arch} {row.kernel} {row.variant}": row for row in (Resources(**fields) for fields in found)}


@pytest.mark.parametrize("job", [pytest.param(job, id=job.text, marks=slow) for job in COMPILED])
def test_no_row_breaks_a_limit(job: Listed, rows: dict[str, Resources]) -> None:
    row = rows[job.text]
    assert row.broken_limits() == []
    assert 16 < row.registers <= 255
    assert row.tile == job.tile
    if job.case.extended:
        return
    if job.kernel == "dense_decode_kernel":
        # Two programs share a multiprocessor of an A100, and sm_86 has room for one.
        assert row.shared_bytes <= SHARED_LIMIT["sm_80"] // 2 <= SHARED_LIMIT["sm_86"]
        assert row.tensor_core_instructions >= 48
    elif job.kernel == "dense_hopper_kernel":
        # Five copies of a step of both products in each warp group.
        assert row.tensor_core_instructions >= 2 * 5 * 16
    elif job.kernel == "latent_decode_kernel":
        # A wgmma does the work of sixteen mma; streamed, both products are loops.
        assert row.tensor_core_instructions >= (16 if "streamed" in row.tile else 64)
    elif job.kernel == "evidence_mass_kernel" and "rows1000" not in job.case.variant:
        # Small enough for 8 programs on a multiprocessor of an A100, which hide each other's waits.
        assert row.shared_bytes <= 50 * 1024


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_rows_that_sm_86_takes_from_sm_80_fit_it(rows: dict[str, Resources], monkeypatch: pytest.MonkeyPatch) -> None:
    """sm_86 has no rows of its own compiled where it takes the tile of sm_80."""
    monkeypatch.delenv(TILE_VARIABLE, raising=False)
    taken = set()
    for job in COMPILED:
        if job.case.arch != "sm_80":
            continue
        if str(resources.launch_of(dataclasses.replace(job.case, arch="sm_86")).tile) == job.tile:
            taken.add(job.kernel)
            assert rows[job.text].shared_bytes <= SHARED_LIMIT["sm_86"], job.text
    assert taken == set(CHOSEN) - {"dense_hopper_kernel"}


def tiles_of(kernel: str) -> Iterator[tuple[str, Tile]]:
    """(architecture, tile) of each row of a kernel's table that some architecture takes."""
    tables: dict[str, Any] = {
        "dense_forward_kernel": dense.FORWARD,
        "dense_decode_kernel": dense.DECODE,
        "dense_hopper_kernel": [Choice(HOPPER.TILE, "the only one", archs=("sm_90",))] if HOPPER else [],
        "dense_backward_rows_kernel": dense.BACKWARD,
        "dense_backward_columns_kernel": dense.BACKWARD,
        "latent_absorb_kernel": [Choice(latent.ABSORB, "the only one", precision=None)],
        "latent_decode_kernel": (*latent.AS_STORED, *latent.CONVERTED, *latent.TILES),
        "latent_project_kernel": [
            Choice(tile, "the only one", precision=precision) for precision, tile in latent.PROJECT.items()
        ],
        "evidence_mass_kernel": evidence.TILES,
    }
    for choice in tables[kernel]:
        width = choice.widths[0] if choice.widths[1] == UNLIMITED else choice.widths[1]
        for arch in set(ARCHS) & set(choice.archs):
            taken = select(tables[kernel], arch, choice.precision, width, choice.most_rows, masked=choice.masked)
            if taken is choice.tile:
                yield arch, choice.tile


@pytest.mark.parametrize("kernel", CHOSEN)
def test_every_tile_is_compiled_in_ci(kernel: str) -> None:
    compiled = {(job.case.arch, job.tile) for job in CI if job.kernel == kernel}
    assert {(arch, str(tile)) for arch, tile in tiles_of(kernel)} <= compiled
    assert {(job.case.arch, job.tile) for job in JOBS if job.kernel == kernel} == compiled


def test_a_stack_is_known_of_one_kernel_and_no_larger() -> None:
    known = dataclasses.replace(GOOD, kernel="dense_hopper_kernel", arch="sm_90", spill_bytes=8)
    assert known.broken_limits() == []
    assert dataclasses.replace(known, spill_bytes=16).broken_limits() == ["spills 16 bytes a thread"]
    assert dataclasses.replace(known, kernel="dense_forward_kernel").broken_limits() == ["spills 8 bytes a thread"]


def test_every_tile_of_sm_86_that_sm_80_has_not_is_compiled() -> None:
    own = {str(choice.tile) for choice in dense.FORWARD if choice.archs == ("sm_86",)}
    assert own <= {job.tile for job in CI if job.case.arch == "sm_86"}
    assert {job.case.arch for job in JOBS} <= set(SHARED_LIMIT)


def test_ci_compiles_every_width_and_head() -> None:
    latents = [job for job in CI if job.kernel == "latent_decode_kernel"]
    assert {job.arguments["LATENT"].WIDTH for job in latents} >= set(WIDTHS)
    for kernel in ("dense_decode_kernel", "latent_absorb_kernel", "latent_project_kernel"):
        assert {job.arguments["HEAD"].WIDTH for job in CI if job.kernel == kernel} >= {64, 96, 128, 256}
    for kernel, variants in CHOSEN.items():
        assert set(variants or ()) <= {job.case.variant for job in JOBS if job.kernel == kernel and job.case.extended}


def test_no_two_rows_have_one_name() -> None:
    assert len({job.text for job in JOBS}) == len(JOBS)


GOOD = Resources("k", "sm_80", "v", "t", 255, 0, 163 * 1024, 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"spill_bytes": 8}, "spills 8 bytes"),
        ({"shared_bytes": 163 * 1024 + 1}, "sm_80 has 166912"),
        ({"tensor_core_instructions": 0}, "does not use the tensor cores"),
    ],
)
def test_broken_limits_are_named(change: dict[str, int], reason: str) -> None:
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
