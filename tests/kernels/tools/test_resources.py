"""What the compiler makes of every kernel and tile on sm_80 and sm_90: nothing spills, all fits, tensor cores work.

All rows are looked at, as the record beside this file has them (`compiled.py`). That it is the record of these kernels
is seen from its keys; one row of each kernel is compiled anew, with KBLAM_RESOURCES=all every row, which takes minutes.
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
import triton

from kblam_kernels.common.tiles import SHARED_LIMIT, TILE_VARIABLE, UNLIMITED, Choice, Tile, select
from kblam_kernels.dense import tiles as dense
from kblam_kernels.dense import triton_forward
from kblam_kernels.evidence import tiles as evidence
from kblam_kernels.latent import tiles as latent
from kblam_kernels.tools import resources
from kblam_kernels.tools.cases import ARCHS, WIDTHS, Case, cases
from kblam_kernels.tools.resources import Resources
from tests.kernels.tools import compiled

# Hopper's own prefill is listed where Triton has the Gluon that it was written for.
HOPPER = triton_forward.gluon_kernel()


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


def listed() -> Iterator[Listed]:
    """Every row. Launches are recorded, so the interpreter may have taken the compiler's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(TILE_VARIABLE, raising=False)
        for case in cases():
            kernel, _, arguments, tile = resources.launch_of(case)
            yield Listed(case, kernel.__name__, str(tile), arguments)


JOBS = list(listed())
KERNELS = tuple(dict.fromkeys(job.kernel for job in JOBS))
# Compiled anew: of each kernel a row, one that the command's quick set has if there is any.
COMPILED = tuple({job.kernel: job.text for job in sorted(JOBS, key=lambda job: not job.case.extended)}.values())
RECORDED_WITH, ROWS = compiled.read()
# Python 3.10 writes a parsed source otherwise than later ones do.
recorded_here = pytest.mark.skipif(
    triton.__version__ != RECORDED_WITH or sys.version_info < (3, 11),
    reason=f"the record is of Triton {RECORDED_WITH} and Python 3.11 or newer",
)


def from_the_compiler(module: str, *arguments: str) -> Any:
    """What a command prints, from a process where the interpreter is not the compiler."""
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@recorded_here
def test_the_record_is_of_these_kernels() -> None:
    keys = from_the_compiler(compiled.__name__, "--keys")
    stale = [name for name, key in keys.items() if name not in ROWS or ROWS[name][0] != key]
    assert (stale, list(ROWS)) == ([], [job.text for job in JOBS]), "run `make resources`"


@recorded_here
@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_record_says_what_the_compiler_says() -> None:
    names = [job.text for job in JOBS] if os.environ.get("KBLAM_RESOURCES") == "all" else COMPILED
    match = f"^({'|'.join(re.escape(name) for name in names)})$"
    found = from_the_compiler("kblam_kernels", "resources", "--json", "--match", match)
    assert {compiled.name_of(row): row for row in (Resources(**fields) for fields in found)} == {
        name: ROWS[name][1] for name in names
    }


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.text)
def test_no_row_breaks_a_limit(job: Listed) -> None:
    _, row = ROWS[job.text]
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


def test_rows_that_sm_86_takes_from_sm_80_fit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """sm_86 has no rows of its own compiled where it takes the tile of sm_80."""
    monkeypatch.delenv(TILE_VARIABLE, raising=False)
    taken = set()
    for job in JOBS:
        if job.case.arch != "sm_80":
            continue
        if str(resources.launch_of(dataclasses.replace(job.case, arch="sm_86")).tile) == job.tile:
            taken.add(job.kernel)
            assert ROWS[job.text][1].shared_bytes <= SHARED_LIMIT["sm_86"], job.text
    assert taken == set(KERNELS) - {"dense_hopper_kernel"}


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


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_tile_is_compiled(kernel: str) -> None:
    listed = {(job.case.arch, job.tile) for job in JOBS if job.kernel == kernel}
    assert {(arch, str(tile)) for arch, tile in tiles_of(kernel)} <= listed


def test_a_stack_is_known_of_one_kernel_and_no_larger() -> None:
    known = dataclasses.replace(GOOD, kernel="dense_hopper_kernel", arch="sm_90", spill_bytes=8)
    assert known.broken_limits() == []
    assert dataclasses.replace(known, spill_bytes=16).broken_limits() == ["spills 16 bytes a thread"]
    assert dataclasses.replace(known, kernel="dense_forward_kernel").broken_limits() == ["spills 8 bytes a thread"]


def test_every_tile_of_sm_86_that_sm_80_has_not_is_compiled() -> None:
    own = {str(choice.tile) for choice in dense.FORWARD if choice.archs == ("sm_86",)}
    assert own <= {job.tile for job in JOBS if job.case.arch == "sm_86"}
    assert {job.case.arch for job in JOBS} <= set(SHARED_LIMIT)


def test_every_width_and_head_is_compiled() -> None:
    latents = [job for job in JOBS if job.kernel == "latent_decode_kernel"]
    assert {job.arguments["LATENT"].WIDTH for job in latents} >= set(WIDTHS)
    for kernel in ("dense_decode_kernel", "latent_absorb_kernel", "latent_project_kernel"):
        assert {job.arguments["HEAD"].WIDTH for job in JOBS if job.kernel == kernel} >= {64, 96, 128, 256}


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--processes", "0"], "--processes must be at least 1; got 0"),
        (["--match", "NOTHING"], "--match 'NOTHING' leaves no row"),
        (["--match", "NOTHING", "--arch", "sm_90", "--json"], "--match 'NOTHING' --arch sm_90 leaves no row"),
    ],
)
def test_what_would_compile_nothing_is_refused(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(SystemExit, match="2"):
        resources.main(arguments)
    output = capsys.readouterr()
    assert said in output.err
    assert output.out == ""


def test_the_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resources.main([]) == 2
    assert "unset it" in capsys.readouterr().err
