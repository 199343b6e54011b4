"""The benchmark's whole path on toy shapes, its gate, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_bench, gpu_check, peers, shapes

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")


def test_tiny_run_writes_a_row_for_each_implementation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main(["--device", "cpu", "--tiny", "--results", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "cpu" / "attention.json").read_text())
    assert report["ceilings"]["bytes_per_second"] > 0
    assert {"device", "commit", "torch", "triton"} <= set(report["environment"])
    names = {gpu_bench.OURS, *peers.PEERS}
    assert len(report["rows"]) == len(names) * len(list(shapes.tiny()))
    for row in report["rows"]:
        if row["implementation"] in peers.NEEDS_CUDA:
            assert row["note"] == "needs a CUDA device"
        else:
            assert row["seconds"] > 0
            assert row["relative_error"] < 1e-5
    assert {row["backend"] for row in report["rows"] if row["implementation"] == gpu_bench.OURS} <= {"cpu", "reference"}
    assert "us" in capsys.readouterr().out


def test_a_wrong_peer_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(o: peers.Operands) -> object:
        right = peers.sdpa_concat(o)
        return lambda: right() * 1.01

    def broken(o: peers.Operands) -> object:
        raise RuntimeError("out of memory\nlong story")

    monkeypatch.setattr(peers, "PEERS", {"wrong": wrong, "broken": broken})
    assert gpu_bench.main(["--device", "cpu", "--tiny", "--match", "question", "--results", str(tmp_path)]) == 0
    rows = {r["implementation"]: r for r in json.loads((tmp_path / "cpu" / "attention.json").read_text())["rows"]}
    assert rows["wrong"]["seconds"] is None
    assert "gate" in rows["wrong"]["note"]
    assert rows["broken"]["note"] == "RuntimeError: out of memory"


def test_our_own_wrong_result_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(o: peers.Operands) -> object:
        return lambda: torch.zeros_like(o.query)

    monkeypatch.setattr(gpu_bench, "ours", wrong)
    assert gpu_bench.main(["--device", "cpu", "--tiny", "--match", "question", "--results", str(tmp_path)]) == 1


@needs_no_gpu
def test_refuses_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main([]) == 2
    assert "BackendUnavailableError: no CUDA device here" in capsys.readouterr().err


def test_refuses_real_shapes_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main(["--device", "cpu"]) == 2
    assert "--tiny" in capsys.readouterr().err


@needs_no_gpu
def test_gpu_check_refuses_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    assert "BackendUnavailableError: no CUDA device here: nothing was checked" in capsys.readouterr().err


def test_gpu_check_plans_the_tests_then_the_sanitizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    planned = [" ".join(command) for command in gpu_check.commands(with_sanitizer=True)]
    assert "pytest -q -m gpu tests" in planned[0]
    assert [name for name in gpu_check.SANITIZER_TOOLS if f"--tool {name} " in "\n".join(planned[1:])] == [
        "memcheck",
        "racecheck",
    ]


def test_gpu_check_says_that_the_sanitizer_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(gpu_check.BackendUnavailableError, match="--no-sanitizer"):
        gpu_check.commands(with_sanitizer=True)


@pytest.mark.parametrize("name", sorted(set(peers.PEERS) - peers.NEEDS_CUDA))
@pytest.mark.parametrize("shape", [pytest.param(s, id=s.phase) for s in shapes.tiny()])
def test_peers_compute_the_same_function(name: str, shape: shapes.Shape) -> None:
    o = gpu_bench.operands_of(shape, "cpu", torch.float32)
    ours: Tensor = gpu_bench.ours(o)()
    torch.testing.assert_close(peers.PEERS[name](o)(), ours, rtol=1e-4, atol=1e-5)


def test_operations_and_bytes_of_a_shape() -> None:
    shape = shapes.Shape(shapes.Model("m", 2, 1, 4), "prefill", 3, 2, 5, 7)
    # Visible pairs of a head: query 0 sees 4 prompt columns, query 1 sees 5, each sees 7 knowledge tokens.
    assert shape.flops == 4 * 4 * 3 * 2 * (4 + 5 + 14)
    # Query and output 3*2*2 rows each, keys and values 3*1*5 each, knowledge 2*7 each.
    assert shape.bytes_moved(2) == 2 * 4 * (2 * 12 + 2 * 15 + 2 * 14)
