"""The benchmark's whole path on toy shapes, its gate, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_bench, gpu_check, peers, shapes, subjects
from kblam_kernels import DenseKnowledge, LatentKnowledge

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "cpu" / "attention.json").read_text())
    return report


def run(folder: Path, *options: str) -> int:
    return gpu_bench.main(["--device", "cpu", "--tiny", "--results", str(folder), *options])


def test_tiny_run_writes_a_row_for_each_implementation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    report = report_of(tmp_path)
    assert report["ceilings"]["bytes_per_second"] > 0
    assert {"device", "commit", "torch", "triton"} <= set(report["environment"])
    for shape in shapes.tiny():
        names = [row["implementation"] for row in report["rows"] if row["shape"] == shape.name]
        others = peers.EVIDENCE_PEERS if shape.phase == "evidence" else peers.PEERS
        assert sorted(names) == sorted([*subjects.OURS_IN[shape.phase], *others])
    for row in report["rows"]:
        if row["implementation"] in peers.NEEDS_CUDA:
            assert row["note"] == "needs a CUDA device"
        else:
            assert row["seconds"] > 0
            assert row["relative_error"] < 1e-5
            assert row["ratio_to_best_peer"] > 0
    assert {row["backend"] for row in report["rows"] if row["implementation"] in subjects.OURS} <= {"cpu", "reference"}
    best = [row for row in report["rows"] if row["ratio_to_best_peer"] == 1]
    assert {row["shape"] for row in best} == {shape.name for shape in shapes.tiny()}
    assert "x the best peer" in capsys.readouterr().out


def test_a_wrong_peer_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdpa = peers.PEERS["sdpa concat"]

    def wrong(o: peers.Operands) -> object:
        right = sdpa(o)
        return lambda: right() * 1.01

    def broken(o: peers.Operands) -> object:
        raise ValueError("not this shape\nlong story")

    def large(o: peers.Operands) -> object:
        raise torch.OutOfMemoryError("tried to allocate 500 GiB\nlong story")

    monkeypatch.setattr(peers, "PEERS", {"wrong": wrong, "broken": broken, "large": large})
    assert run(tmp_path, "--match", "question") == 0
    rows = {row["implementation"]: row for row in report_of(tmp_path)["rows"]}
    assert rows["wrong"]["seconds"] is None
    assert "gate" in rows["wrong"]["note"]
    assert rows["broken"]["note"] == "ValueError: not this shape"
    assert rows["large"]["note"] == "does not fit: tried to allocate 500 GiB"
    assert rows["kblam dense"]["seconds"] > 0
    assert rows["kblam dense"]["ratio_to_best_peer"] is None


@pytest.mark.parametrize("phase", ["question", "evidence"])
def test_our_own_wrong_result_fails_the_run(phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rectangular_attention", "evidence"):
        right = getattr(subjects, name)

        def wrong(*arguments: Any, right: Any = right, **options: Any) -> Any:
            result = right(*arguments, **options)
            return result if "backend" in options else result * 1.01

        monkeypatch.setattr(subjects, name, wrong)
    assert run(tmp_path, "--match", phase) == 1


def test_knowledge_that_does_not_fit_is_a_row_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(latents: LatentKnowledge) -> DenseKnowledge:
        raise torch.OutOfMemoryError("tried to allocate 16 GiB")

    monkeypatch.setattr(LatentKnowledge, "to_dense", too_large)
    assert run(tmp_path, "--match", "decode") == 0
    rows = {row["implementation"]: row for row in report_of(tmp_path)["rows"]}
    assert rows["kblam latent"]["seconds"] > 0
    assert rows["kblam dense"]["note"] == "does not fit: tried to allocate 16 GiB"


@pytest.mark.parametrize("shape", [pytest.param(s, id=s.phase) for s in shapes.tiny()])
def test_the_measured_dtype_passes_its_own_gate(shape: shapes.Shape) -> None:
    """What a GPU run does, in bfloat16, with the calls on the CPU."""
    limits = gpu_bench.ceilings.Ceilings(1e9, 1e9)
    rows = gpu_bench.measure(shape, "cpu", torch.bfloat16, limits)
    assert {row.note for row in rows} <= {"", "needs a CUDA device"}
    assert {row.implementation for row in rows if row.seconds} >= set(subjects.OURS_IN[shape.phase])


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


def test_latents_stand_for_the_dense_keys_that_peers_get() -> None:
    for shape in shapes.tiny():
        x = subjects.problem_of(shape, "cpu", torch.float32)
        dense, latent = (subjects.attention_judge(x, knowledge).exact for knowledge in (x.dense, x.latents))
        torch.testing.assert_close(latent, dense, rtol=1e-4, atol=1e-5)


def test_operations_and_bytes_of_a_shape() -> None:
    shape = shapes.Shape(shapes.Model("m", 2, 1, 4, 6), "prefill", 3, 2, 5, 7)
    # Visible pairs of a head: query 0 sees 4 prompt columns, query 1 sees 5, each sees 7 knowledge tokens.
    pairs, rows = 3 * 2 * (4 + 5), 3 * 2 * 2
    assert shape.dense_work.flops == 4 * 4 * (pairs + rows * 7)
    # Query and output, keys and values, knowledge.
    assert shape.dense_work.bytes_moved(2) == 2 * 4 * (2 * rows + 2 * 15 + 2 * 14)
    assert shape.latent_work.flops == 4 * 4 * pairs + 4 * 6 * rows * 7 + 4 * 4 * 6 * rows
    # Both weights, and one copy of the latents with a norm each.
    assert shape.latent_work.bytes_moved(2) == 2 * (4 * (2 * rows + 2 * 15) + 2 * 2 * 4 * 6 + 2 * 7 * 6) + 4 * 7
    # A byte a number, and two scales more.
    assert shape.quantised_work.flops == shape.latent_work.flops
    assert shape.quantised_work.bytes_moved(2) == shape.latent_work.bytes_moved(2) - 2 * 7 * 6 + 8 * 7
    # Keys and values of two heads made from latents of 6, by both weights.
    assert shape.materialise_work.flops == shape.dense_work.flops + 2 * 2 * 7 * 2 * 4 * 6
    made = 2 * (2 * 7 * 6 + 2 * 2 * 4 * 6 + 2 * 2 * 7 * 4) + 4 * 7
    assert shape.materialise_work.bytes_moved(2) == shape.dense_work.bytes_moved(2) + made
    assert shape.dense_evidence_work.bytes_moved(2) == 2 * 4 * (rows + 14) + 4 * 3 * 7
    assert shape.latent_evidence_work.bytes_moved(2) == 2 * (4 * rows + 2 * 4 * 6 + 7 * 6) + 4 * 7 * (1 + 3)


def test_the_registry_covers_models_batches_and_sizes() -> None:
    registry = list(shapes.registry())
    assert len({shape.name for shape in registry}) == len(registry)
    for model in shapes.MODELS:
        decode = {(shape.B, shape.M) for shape in registry if shape.model == model and shape.phase == "decode"}
        sizes = (1_000, 10_000, 100_000)
        assert decode == {(B, M) for B in (1, 8, 32) for M in (*sizes, 1_000_000)}
        prefill = {(shape.B, shape.M) for shape in registry if shape.model == model and shape.phase == "prefill"}
        assert prefill == {(B, M) for B in (1, 8, 32) for M in sizes} | {(1, 1_000_000)}
    assert all(shape.N == shape.T >= 256 for shape in registry if shape.phase == "prefill")


def test_every_layout_and_every_peer_has_its_row() -> None:
    x = subjects.problem_of(next(shapes.tiny()), "cpu", torch.float32)
    names = [subject.name for subject in subjects.subjects(next(shapes.tiny()), "cpu", torch.float32)]
    assert {"kblam latent", "kblam latent int8", "kblam latent fp8", "kblam dense", "kblam materialise"} <= set(names)
    for attention in ("sdpa", "flex", "eager"):
        assert {f"{attention} concat", f"{attention} static cache"} <= set(names)
    assert x.quantised(torch.int8).key.dtype == torch.int8


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_a_static_cache_is_not_concatenated_in_the_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = subjects.problem_of(next(shapes.tiny()), "cpu", torch.float32)
    cached, anew = (peers.PEERS[f"{name} {way}"](x.operands) for way in ("static cache", "concat"))
    expected = anew()

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("concatenated in a timed call")

    monkeypatch.setattr(torch, "cat", never)
    assert torch.equal(cached(), expected)
    with pytest.raises(AssertionError, match="timed call"):
        anew()
