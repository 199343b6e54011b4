"""What the C++ kernels serve once they are built, and what they leave to the reference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kblam_kernels import BackendUnavailableError, explain
from kblam_kernels.common import build, native
from tests.kernels.cpu import sanitize
from tests.kernels.cpu.building import CALL, runs
from tests.kernels.problems import make


def test_kblam_build_0_turns_it_off(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.BUILD_VARIABLE, "0")
    explanation = explain(CALL.query, CALL.key, CALL.value)
    assert explanation.backend == "reference"
    assert explanation.rejected["cpu"] == "KBLAM_BUILD=0 turns the C++ kernels off"


def test_cpu_tensors_are_served_by_the_cpp_kernels(library: None) -> None:
    explanation = explain(CALL.query, CALL.key, CALL.value)
    assert explanation.backend == "cpu"
    assert list(explanation.rejected) == ["triton"]
    torch.testing.assert_close(CALL.run(backend="auto")[0], CALL.run(backend="reference")[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float64}, "torch.float64"),
        ({"D": 15, "dtype": torch.float32}, "head_dim 15 is odd"),
    ],
    ids=["float64", "odd"],
)
def test_what_the_cpp_kernels_do_not_take_they_say(changes: dict[str, object], reason: str) -> None:
    p = make(**changes)  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=reason):
        p.run(backend="cpu")
    p.run(backend="auto")


def test_importing_builds_nothing(fake_compiler: Path) -> None:
    code = "import kblam_kernels, kblam_kernels.common.build, kblam_kernels.common.native"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert runs(fake_compiler) == 0


def test_an_instruction_set_that_is_not_here_is_refused(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.ISA_VARIABLE, "sve2")
    with pytest.raises(BackendUnavailableError, match="KBLAM_CPU_ISA='sve2'"):
        CALL.run(backend="cpu")


def test_one_compiled_graph_with_the_cpp_kernels(library: None) -> None:
    def call(query: torch.Tensor) -> torch.Tensor:
        return CALL.but(query=query).run(backend="auto")[0] * 2

    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(CALL.query), call(CALL.query))


def test_gradients_pass_through_the_cpp_forward(library: None) -> None:
    p = make(dtype=torch.float32, N=6, T=6)
    for actual, expected in zip(p.gradients(backend="cpu"), p.gradients(backend="reference"), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_sanitizers_find_what_they_build() -> None:
    """`make sanitize` is not part of the suite: it takes minutes."""
    units = [unit.source for unit in build.kernel_units(build.source_folder())]
    assert sanitize.build is build
    assert all(path.is_file() for path in (*sanitize.DRIVERS, *units))
