"""`make gpu-check` and `make gpu-sanitize`: what they would run, where they run at all, and what they need for it."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, gpu_sanitize
from kblam_kernels import BackendUnavailableError
from tests.benchmarks import bare

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")


def in_bare_python(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, bare.__file__, *command], capture_output=True, text=True, cwd=gpu_check.ROOT, env=environment
    )


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a GPU and a CUDA toolkit that is not on PATH."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    tool = tmp_path / "bin" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    return tool


def marks_a_test_for_a_gpu(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.Attribute) and ast.unparse(node) == gpu_check.MARK for node in ast.walk(tree))


def test_the_files_with_gpu_tests_are_found_without_importing_them() -> None:
    every = sorted((gpu_check.ROOT / "tests").rglob("*.py"))
    marked = {str(path.relative_to(gpu_check.ROOT)) for path in every if marks_a_test_for_a_gpu(path)}
    assert marked == set(gpu_check.files())
    assert "tests/models/test_cuda_graph.py" in marked


def test_gpu_tests_are_collected_where_nothing_but_pytest_is_installed() -> None:
    done = in_bare_python("pytest", "--collect-only", "-q", "-m", "gpu", *gpu_check.files())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "error" not in done.stdout.lower()
    assert all(f"{file}::" in done.stdout for file in gpu_check.files())


def test_the_benchmark_runs_where_nothing_but_torch_and_transformers_is_installed(tmp_path: Path) -> None:
    command = ["benchmarks.gpu_bench", "--device", "cpu", "--tiny", "--match", "M50", "--results", str(tmp_path)]
    done = in_bare_python(*command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "tiny model M50" in done.stdout


def test_the_extras_are_missing_in_a_bare_python() -> None:
    code = f"import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, {sorted(bare.EXTRAS)})))"
    there = subprocess.run([sys.executable, "-c", code], cwd=gpu_check.ROOT)
    assert there.returncode == 1, "at least one is installed here, or this test tests nothing"
    assert in_bare_python("benchmarks.gpu_check", "--help").returncode == 0
    import_typer = in_bare_python("typer")
    assert "No module named typer" in import_typer.stderr


def test_tests_run_side_by_side_and_those_that_measure_alone_afterwards() -> None:
    together, alone = gpu_check.commands(12)
    assert together[together.index("-n") + 1] == "12"
    assert "gpu and not alone" in together
    assert "-n" not in alone
    assert "gpu and alone" in alone
    assert together[-len(gpu_check.files()) :] == alone[-len(gpu_check.files()) :] == gpu_check.files()
    assert "-n" not in gpu_check.commands(1)[0]


@pytest.mark.parametrize(("cores", "xdist", "count"), [(16, True, 12), (64, True, 12), (2, True, 1), (16, False, 1)])
def test_workers_are_as_many_as_cores_allow(
    cores: int, xdist: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if xdist else None)
    assert gpu_check.workers() == count


def test_gpu_check_compiles_kernels_and_gives_each_worker_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
        asked.append(env)
        return subprocess.CompletedProcess(command, returncode=len(asked) - 1)

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu_check.main([]) == 1, "the second command failed"
    assert len(asked) == 2
    assert {(env["TRITON_INTERPRET"], env["OMP_NUM_THREADS"]) for env in asked} == {("0", "2")}


@needs_no_gpu
@pytest.mark.parametrize("command", [gpu_check, gpu_sanitize])
def test_without_a_device_one_line_says_so(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2  # type: ignore[attr-defined]
    assert capsys.readouterr().err == "BackendUnavailableError: no CUDA device here: nothing was checked\n"


def test_the_sanitizer_sees_each_tensor_as_an_allocation(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], str]] = []

    def run(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
        asked.append((command, env["PYTORCH_NO_CUDA_MEMORY_CACHING"]))
        return subprocess.CompletedProcess(command, returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert gpu_sanitize.main(["--part", "latents"]) == 0
    (plain, *sanitized), caching = zip(*asked, strict=True)
    assert set(caching) == {"1"}
    assert plain[1:] == ["-m", "benchmarks.sanitize_shapes", "--part", "latents"], (
        "compiles, and fails by itself if it fails"
    )
    assert [command[:3] for command in sanitized] == [[str(toolkit), "--tool", tool] for tool in gpu_sanitize.TOOLS]
    assert all(command[-len(plain) :] == plain for command in sanitized)


def test_one_tool_can_be_asked_for(toolkit: Path) -> None:
    commands = gpu_sanitize.commands(["racecheck"], [])
    assert [command[2] for command in commands[1:]] == ["racecheck"]


def test_an_empty_cuda_home_is_none(toolkit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "")
    with pytest.raises(BackendUnavailableError, match="neither on PATH nor in /usr/local/cuda/bin;"):
        gpu_sanitize.sanitizer()


def test_a_missing_sanitizer_is_named(toolkit: Path) -> None:
    toolkit.unlink()
    with pytest.raises(BackendUnavailableError, match=r"compute-sanitizer is neither on PATH nor in .*CUDA_HOME"):
        gpu_sanitize.commands(gpu_sanitize.TOOLS, [])


@pytest.mark.parametrize(
    ("venv", "given", "expected"),
    [(True, [], "here/bin/python"), (False, [], "python3"), (True, ["PYTHON=other"], "other")],
)
@pytest.mark.parametrize("target", ["gpu-check", "gpu-sanitize", "gpu-bench"])
def test_the_python_is_that_of_the_virtual_environment_where_there_is_one(
    target: str, venv: bool, given: list[str], expected: str, tmp_path: Path
) -> None:
    python = tmp_path / "here" / "bin" / "python"
    if venv:
        python.parent.mkdir(parents=True)
        python.touch()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    command = ["make", "-n", "-C", str(gpu_check.ROOT), f"VENV={tmp_path / 'here'}", *given, target]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"{expected} -m benchmarks." in done.stdout
