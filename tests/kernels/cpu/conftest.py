"""The C++ kernels are built once for the whole suite; without a compiler their tests are skipped, and say so."""

from __future__ import annotations

import pytest
import torch

from kblam_kernels import build, native
from kblam_kernels.errors import BuildError

INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx")


@pytest.fixture(scope="session")
def library() -> None:
    """Loads the kernels. A compiler that fails is an error, not a reason to skip."""
    reason = native.unavailable()
    try:
        build.compiler()
    except BuildError:
        if reason is not None:
            pytest.skip(reason)
    assert reason is None


@pytest.fixture(scope="session")
def instruction_sets(library: None) -> list[str]:
    """The kernel tables that this processor runs, to draw from."""
    return [name for name in INSTRUCTION_SETS if torch.ops.kblam_kernels.cpu_instruction_set(name)]


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest, library: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each kernel table that this processor runs."""
    if not torch.ops.kblam_kernels.cpu_instruction_set(request.param):
        pytest.skip(f"this processor does not run {request.param}")
    monkeypatch.setenv(native.ISA_VARIABLE, request.param)
    return str(request.param)
