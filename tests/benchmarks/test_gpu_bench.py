"""The benchmark's whole path on toy shapes, its gate, what becomes of failures, and its refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_bench
from kblam.bench import environment, measured, peers, problems, rows, shapes, subjects, whole_model
from kblam.bench.operands import Operands
from kblam_kernels import LatentKnowledge
from tests.benchmarks.gpu_runs import RUN, ours_in, raising, report_of, rows_of, run
from tests.fakes import clock

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")
NOT_HERE = dict.fromkeys(peers.NEEDS_CUDA, "needs a CUDA device")
NOT_HERE |= dict.fromkeys(peers.COMPILED, "left out of this run: it is compiled for each shape")


def test_tiny_run_writes_a_row_for_each_implementation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    stored = report_of(tmp_path)
    assert all(stored["ceilings"][name] > 0 for name in ("copy", "read", "matmul"))
    assert {"device", "commit", "torch", "triton"} <= set(stored["environment"])
    for shape in shapes.tiny():
        names = [row["implementation"] for row in stored["rows"] if row["shape"] == shape.name and row["l2"] == "cold"]
        assert names == subjects.names(shape.phase, "cpu")
    for row in stored["rows"]:
        if row["implementation"] in NOT_HERE:
            assert (row["status"], row["note"]) == ("not run", NOT_HERE[row["implementation"]])
        else:
            assert row["status"] == "measured"
            assert 0 < row["p10"] <= row["seconds"] <= row["p90"]
            assert row["relative_error"] < (1e-2 if row["implementation"] == "kblam int8 products" else 1e-5)
            assert row["ratio_to_best_peer"] > 0
            assert row["of_read_ceiling"] > 0
    best = [row for row in stored["rows"] if row["ratio_to_best_peer"] == 1]
    assert {row["shape"] for row in best} == {shape.name for shape in shapes.tiny()}
    assert "x the best peer, " in capsys.readouterr().out


def test_decode_has_rows_with_a_warm_cache_where_inputs_fit(tmp_path: Path) -> None:
    assert run(tmp_path, "--match", "decode") == 0
    assert run(tmp_path, "--match", "prefill", "--name", "prefill.json") == 0
    warm = [row for row in report_of(tmp_path)["rows"] if row["l2"] == "warm"]
    assert "kblam dense" in {row["implementation"] for row in warm}
    assert all(row["seconds"] > 0 for row in warm)
    # Ratios compare warm with warm.
    assert max(row["ratio_to_best_peer"] for row in warm if row["implementation"] not in subjects.OURS) == 1
    prefill = json.loads((tmp_path / "cpu" / "prefill.json").read_text())["rows"]
    assert {row["l2"] for row in prefill} == {"cold"}


def test_a_row_tells_its_kernels_apart(tmp_path: Path) -> None:
    assert run(tmp_path, "--match", "question") == 0
    row = rows_of(tmp_path)["two flash calls + merge"]
    flash = [kernel for kernel in row["kernels"] if "flash_attention" in kernel["name"]]
    assert sum(kernel["launches"] for kernel in flash) == 2, "of one call, whatever the number of copies and rounds"
    assert row["launches"] == sum(kernel["launches"] for kernel in row["kernels"])
    times = [kernel["microseconds"] for kernel in row["kernels"]]
    assert times == sorted(times, reverse=True)


def test_a_profiler_that_is_refused_costs_its_column_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured.kernels, "of", raising(RuntimeError("no permission")))
    assert run(tmp_path, "--match", "question") == 0
    row = rows_of(tmp_path)["kblam latent"]
    assert (row["status"], row["launches"], row["kernels"]) == ("measured", None, [])


def test_a_peer_that_cannot_is_a_row_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdpa = peers.PEERS["sdpa concat"]

    def wrong(o: Operands) -> object:
        right = sdpa(o)
        return lambda: right() * 1.01

    broken, silent = raising(ValueError("not this shape\nlong story")), raising(RuntimeError(""))
    large = raising(torch.OutOfMemoryError("tried to allocate 500 GiB\nlong story"))
    made = {"wrong": wrong, "broken": broken, "silent": silent, "large": large}
    monkeypatch.setattr(peers, "PEERS", made)
    assert run(tmp_path, "--match", "question") == 0
    rows = rows_of(tmp_path)
    assert rows["wrong"]["seconds"] is None
    assert (rows["wrong"]["status"], "not timed" in rows["wrong"]["note"]) == ("failed", True)
    assert (rows["broken"]["status"], rows["broken"]["note"]) == ("not run", "ValueError: not this shape")
    assert (rows["silent"]["status"], rows["silent"]["note"]) == ("not run", "RuntimeError")
    assert (rows["large"]["status"], rows["large"]["note"]) == ("does not fit", "tried to allocate 500 GiB")
    assert rows["kblam dense"]["seconds"] > 0


def test_a_peer_whose_package_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "flash_attn" else object())
    assert peers.reason_against("two flash-attn calls + merge", "cuda") == "flash-attn is not installed"
    assert peers.reason_against("two cuDNN calls + merge", "cuda") is None
    assert peers.reason_against("two cuDNN calls + merge", "cpu") == "needs a CUDA device"


@pytest.mark.parametrize("phase", ["question", "evidence"])
def test_our_own_wrong_result_fails_the_run(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rectangular_attention", "evidence"):
        right = getattr(subjects, name)
        monkeypatch.setattr(subjects, name, lambda *a, right=right, **options: right(*a, **options) * 1.01)
    assert run(tmp_path, "--match", phase) == 1
    assert rows_of(tmp_path)["kblam latent"]["status"] == "failed"
    assert "failed: kblam latent, tiny " + phase in capsys.readouterr().err


@pytest.mark.parametrize("message", ["an illegal memory access\nlong story", ""])
def test_our_own_exception_is_a_row_and_fails_the_run(
    message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "rectangular_attention", raising(RuntimeError(message)))
    assert run(tmp_path, "--match", "decode") == 1
    rows = rows_of(tmp_path)
    assert rows["kblam latent"]["status"] == "failed"
    assert rows["kblam latent"]["note"] == f"RuntimeError: {message[:24]}".removesuffix(": ")
    assert rows["two flash calls + merge"]["seconds"] > 0, "the run went on"


def test_a_judge_that_runs_out_of_memory_is_not_our_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "rectangular_attention", raising(torch.OutOfMemoryError("16 GiB")))
    assert run(tmp_path, "--match", "decode") == 0
    row = rows_of(tmp_path)["kblam latent"]
    assert (row["status"], row["note"]) == ("does not fit", "its judge does not fit: 16 GiB")


def test_knowledge_that_does_not_fit_is_a_row_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LatentKnowledge, "to_dense", raising(torch.OutOfMemoryError("tried to allocate 16 GiB")))
    assert run(tmp_path, "--match", "decode") == 0
    rows = rows_of(tmp_path)
    assert rows["kblam latent"]["seconds"] > 0
    assert rows["kblam dense"]["status"] == "does not fit"
    assert rows["kblam dense"]["note"].endswith("tried to allocate 16 GiB")


@pytest.mark.parametrize(("problem", "status"), [(torch.OutOfMemoryError("1 TiB"), 0), (RuntimeError(""), 1)])
def test_inputs_that_cannot_be_made_are_a_row(
    problem: Exception, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "problem_of", raising(problem))
    assert run(tmp_path, "--match", "decode") == status
    assert rows_of(tmp_path)["inputs"]["status"] == ("does not fit", "failed")[status]


def test_rows_are_written_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    line_of = rows.line_of

    def counting(row: rows.Row) -> str:
        counts.append(len(report_of(tmp_path)["rows"]))
        return line_of(row)

    monkeypatch.setattr(gpu_bench, "line_of", counting)
    assert run(tmp_path, "--match", "question") == 0
    assert counts == list(range(1, len(subjects.names("question", "cpu")) + 1))


def test_a_run_without_git_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.environment("cpu", torch.float32)["commit"] == "unknown"


def test_the_budget_ends_a_run_between_parts_and_names_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(gpu_bench, "time", clock(lambda: now[0]))
    measure = measured.rows

    def slow(*arguments: Any) -> Any:
        yield from measure(*arguments)
        now[0] += 40

    monkeypatch.setattr(measured, "rows", slow)
    monkeypatch.setattr(whole_model, "TOYS", ())
    # Two take 80 seconds, a third one would take 40 more.
    assert run(tmp_path, "--seconds", "110") == 0
    names = [shape.name for shape in shapes.tiny()]
    order = [names[2], names[0], names[1], names[3]]
    stored = report_of(tmp_path)
    assert list(dict.fromkeys(row["shape"] for row in stored["rows"])) == order[:2]
    assert stored["left_out"] == order[2:]
    assert f"left out, for want of time: {order[2]}\n" in capsys.readouterr().out


def test_a_quick_run_is_limited_to_eight_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float | None] = []
    monkeypatch.setattr(gpu_bench.Bench, "over", lambda bench, chosen: given.append(bench.left))
    for options in (["--quick"], ["--quick", "--seconds", "30"], []):
        run(tmp_path, *options)
    assert given[0] is not None
    assert given[1] is not None
    assert 400 < given[0] <= 480
    assert 20 < given[1] <= 30
    assert given[2] is None


@pytest.mark.parametrize("shape", [pytest.param(s, id=s.phase) for s in shapes.tiny()])
def test_the_measured_dtype_passes_its_own_gate(shape: shapes.Shape, tmp_path: Path) -> None:
    """What a GPU run does, in bfloat16, with the calls on the CPU."""
    half = measured.Run("cpu", torch.bfloat16, RUN.limits, compiles=False)
    found = list(measured.rows(shape, half))
    assert {row.note for row in found} <= {"", *NOT_HERE.values()}
    assert {row.implementation for row in found if row.seconds} >= ours_in(shape.phase)


def test_a_quick_run_leaves_the_slow_peers_out() -> None:
    for shape in shapes.tiny():
        x = problems.problem_of(shape, "cpu", torch.float32)
        made = [subject.name for subject in subjects.subjects(shape, x, subjects.names(shape.phase, "cpu", quick=True))]
        assert made == subjects.names(shape.phase, "cpu", quick=True)
        assert not {"sdpa concat", "eager concat", "eager static cache"} & set(made)
        assert ours_in(shape.phase) <= set(made)


def test_copies_are_the_same_numbers_in_other_memory() -> None:
    x = problems.problem_of(next(shapes.tiny()), "cpu", torch.float32)
    copy = x.clone()
    pairs = [
        (x.query, copy.query),
        (x.latents.key, copy.latents.key),
        (x.latents.projection.value_weight, copy.latents.projection.value_weight),
        (x.dense.key, copy.dense.key),
    ]
    for first, second in pairs:
        assert torch.equal(first, second)
        assert first.data_ptr() != second.data_ptr()


def test_the_gate_judges_every_head(tmp_path: Path) -> None:
    """The specification runs a key head at a time: a wrong value of the last head is seen."""
    shape = next(shapes.tiny())
    x = problems.problem_of(shape, "cpu", torch.float32)
    judge = problems.attention_judge(x, x.dense)
    x.dense.value[-1].mul_(1.5)
    other = problems.attention_judge(x, x.dense)
    assert torch.equal(judge.exact[:, :-1], other.exact[:, :-1])
    assert not torch.equal(judge.exact[:, -1], other.exact[:, -1])


@needs_no_gpu
def test_a_match_of_nothing_leaves_an_earlier_file_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "cpu" / "attention.json"
    file.parent.mkdir()
    file.write_text("rows of an hour")
    assert run(tmp_path, "--match", "decod3") == 2
    assert "--match: 'decod3' is in no name of the " in capsys.readouterr().err
    assert file.read_text() == "rows of an hour"


def test_what_cannot_be_measured_or_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main(["--device", "tpu", "--tiny", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "BenchmarkError: --device: 'tpu' is not cpu or cuda\n"
    taken = tmp_path / "taken"
    taken.touch()
    assert run(taken) == 2
    assert "--results: " in capsys.readouterr().err


def test_refuses_without_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main([]) == 2
    assert capsys.readouterr().err.startswith("BackendUnavailableError: no CUDA device here")


def test_refuses_real_shapes_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main(["--device", "cpu"]) == 2
    assert "--tiny" in capsys.readouterr().err


def test_latents_stand_for_the_dense_keys_that_peers_get() -> None:
    for shape in shapes.tiny():
        x = problems.problem_of(shape, "cpu", torch.float32)
        dense, latent = (problems.attention_judge(x, knowledge).exact for knowledge in (x.dense, x.latents))
        torch.testing.assert_close(latent, dense, rtol=1e-4, atol=1e-5)


def test_every_layout_and_every_peer_has_its_row() -> None:
    shape = next(shapes.tiny())
    x = problems.problem_of(shape, "cpu", torch.float32)
    wanted = subjects.names(shape.phase, "cpu")
    names = [subject.name for subject in subjects.subjects(shape, x, wanted)]
    assert names == wanted
    assert subjects.names(shape.phase, "cuda") == [name for name in names if name != "kblam int8 products"]
    assert {"kblam latent", "kblam latent int8", "kblam latent fp8", "kblam dense", "kblam materialise"} <= set(names)
    for attention in ("sdpa", "flex", "eager"):
        assert {f"{attention} concat", f"{attention} static cache"} <= set(names)
    for kernel in ("flash", "cuDNN", "flash-attn", "FlashInfer", "xFormers"):
        assert f"two {kernel} calls + merge" in names
    assert "composed latent" in names
    assert x.quantised(torch.int8).key.dtype == torch.int8


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_a_static_cache_is_not_concatenated_in_the_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = problems.problem_of(next(shapes.tiny()), "cpu", torch.float32)
    cached, anew = (peers.PEERS[f"{name} {way}"](x.operands) for way in ("static cache", "concat"))
    expected = anew()

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("concatenated in a timed call")

    monkeypatch.setattr(torch, "cat", never)
    assert torch.equal(cached(), expected)
    with pytest.raises(AssertionError, match="timed call"):
        anew()
