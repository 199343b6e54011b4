"""What a benchmark that is resumed measures again, what it keeps, and what it does not go on from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import gpu_bench
from kblam.bench import environment, measured, peers, rows, shapes, subjects
from kblam.bench.report import MODEL, Report
from tests.benchmarks.gpu_runs import RUN, ours_in, raising, report_of, rows_of, run


def test_a_resumed_run_measures_what_has_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, "--match", "question") == 0
    before = rows_of(tmp_path)
    stored = report_of(tmp_path)
    stored["rows"] = [row for row in stored["rows"] if row["implementation"] != "composed latent"]
    (tmp_path / "cpu" / "attention.json").write_text(json.dumps(stored))
    assert run(tmp_path, "--match", "question", "--resume") == 0
    after = rows_of(tmp_path)
    assert set(after) == set(before)
    changed = {name for name in after if after[name]["seconds"] != before[name]["seconds"]}
    assert changed == {"composed latent"}
    # Nothing is left: not even inputs are made.
    monkeypatch.setattr(measured, "problem_of", raising(AssertionError("made inputs for nothing")))
    assert run(tmp_path, "--match", "question", "--resume") == 0


@pytest.mark.parametrize("status", ["failed", "does not fit"])
def test_a_resumed_run_tries_again_what_failed_or_did_not_fit(status: str, tmp_path: Path) -> None:
    assert run(tmp_path, "--match", "question") == 0
    stored = report_of(tmp_path)
    for row in stored["rows"]:
        if row["implementation"] == "kblam latent":
            row |= {"status": status, "seconds": None, "note": "then"}
    stored["rows"].append(rows_of(tmp_path)["kblam dense"] | {"implementation": "inputs", "status": status})
    (tmp_path / "cpu" / "attention.json").write_text(json.dumps(stored))
    assert run(tmp_path, "--match", "question", "--resume") == 0
    after = report_of(tmp_path)["rows"]
    assert sorted(row["implementation"] for row in after) == sorted(subjects.names("question", "cpu"))
    assert (rows_of(tmp_path)["kblam latent"]["status"], rows_of(tmp_path)["kblam latent"]["note"]) == ("measured", "")


def test_a_resumed_run_measures_a_warm_row_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, "--match", "decode") == 0
    stored = report_of(tmp_path)
    pairs = sorted((row["implementation"], row["l2"]) for row in stored["rows"])
    assert ("kblam dense", "warm") in pairs
    stored["rows"] = [row for row in stored["rows"] if (row["implementation"], row["l2"]) != ("kblam dense", "warm")]
    (tmp_path / "cpu" / "attention.json").write_text(json.dumps(stored))
    assert run(tmp_path, "--match", "decode", "--resume") == 0
    assert sorted((row["implementation"], row["l2"]) for row in report_of(tmp_path)["rows"]) == pairs
    monkeypatch.setattr(measured, "problem_of", raising(AssertionError("made inputs for nothing")))
    assert run(tmp_path, "--match", "decode", "--resume") == 0


def test_a_warm_row_that_fails_is_one_beside_its_cold_row(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = measured.timing.measure
    failing = raising(RuntimeError("cold alone"))
    monkeypatch.setattr(
        measured.timing, "measure", lambda calls, *a, **o: (failing if len(calls) == 1 else measure)(calls, *a, **o)
    )
    shape = next(shape for shape in shapes.tiny() if shape.phase == "decode")
    found = measured.rows(shape, RUN, lambda name: name != "kblam dense")
    assert [(row.l2, row.status) for row in found] == [("cold", "measured"), ("warm", "failed")]


def test_each_row_that_loses_the_device_is_tried_once_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "rectangular_attention", raising(RuntimeError("an illegal memory access")))
    lost: list[bool] = []
    monkeypatch.setattr(gpu_bench, "is_lost", lambda device: not lost.append(True))
    monkeypatch.setattr(environment, "commit", lambda: "abc")

    def execv(program: str, command: list[str]) -> int:
        assert len(lost) < 20, "goes on for ever"
        raise SystemExit(gpu_bench.main(command[3:]))

    monkeypatch.setattr(gpu_bench.os, "execv", execv)
    monkeypatch.setattr(peers, "PEERS", {"sdpa concat": peers.PEERS["sdpa concat"]})
    with pytest.raises(SystemExit, match="1"):
        run(tmp_path, "--match", "question")
    assert len(lost) == len(ours_in("question"))
    assert sorted(row["implementation"] for row in report_of(tmp_path)["rows"]) == sorted(
        subjects.names("question", "cpu")
    )


def test_inputs_that_lost_the_device_are_not_made_again() -> None:
    report = Report(None, {})
    report.add(rows.Row("a shape", "decode", rows.INPUTS, None, status="failed"))
    assert not report.has("a shape", "kblam dense")
    report.lost = {("a shape", rows.INPUTS)}
    assert report.has("a shape", "kblam dense")
    assert not report.has("another", "kblam dense")


def test_a_whole_model_that_failed_is_tried_again_unless_it_lost_the_device() -> None:
    report = Report(None, {})
    report.add_model({"shape": "toy", "status": "failed"})
    assert not report.has_model("toy")
    report.lost = {("toy", MODEL)}
    assert report.has_model("toy")
    report.add_model({"shape": "toy", "status": "measured"})
    report.lost = set()
    assert report.has_model("toy")
    assert len(report.models) == 1


def test_other_changes_to_a_commit_are_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "commit", lambda: "abc-dirty")
    monkeypatch.setattr(environment, "changes", lambda: "one")
    assert run(tmp_path, "--match", "question") == 0
    assert run(tmp_path, "--match", "question", "--resume") == 0
    monkeypatch.setattr(environment, "changes", lambda: "two")
    assert run(tmp_path, "--match", "question", "--resume") == 2
    message = "was measured with other changes to commit 'abc-dirty' (digest 'one', this run 'two'); commit them"
    assert message in capsys.readouterr().err


def test_a_digest_tells_changes_apart_and_results_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, results = tmp_path / "kblam" / "bench", tmp_path / "benchmarks" / "results"
    for folder in (package, results):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("1")
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "1"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    clean = environment.commit()
    (results / "a.py").write_text("2")
    (results / "new.json").write_text("2")
    assert (environment.commit(), environment.changes()) == (clean, None)
    seen = set()
    for file, text in (("a.py", "2"), ("a.py", "3"), ("new.py", "1"), ("new.py", "2")):
        (package / file).write_text(text)
        assert environment.commit() == f"{clean}-dirty"
        assert environment.changes() == environment.changes()
        seen.add(environment.changes())
    assert len(seen) == 4


@pytest.mark.parametrize(("old", "reason"), [("commit", "has commit 'other'"), (None, "is no report")])
def test_another_report_is_not_continued(
    old: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--match", "question") == 0
    file = tmp_path / "cpu" / "attention.json"
    stored = report_of(tmp_path)
    if old is not None:
        stored["environment"][old] = "other"
    file.write_text(json.dumps(stored if old else {}))
    assert run(tmp_path, "--resume") == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(("option", "name"), [("--quick", "quick"), ("--compile", "compiled")])
def test_rows_of_other_settings_are_not_continued(
    option: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--match", "question") == 0
    before = report_of(tmp_path)
    assert (before["environment"][name], before["environment"]["context"]) == (False, 32)
    assert run(tmp_path, "--match", "question", "--resume", option) == 2
    assert f"has {name} False, this run True; choose another --name" in capsys.readouterr().err
    assert report_of(tmp_path) == before


def test_a_resumed_run_keeps_the_ceilings_that_its_rows_are_shares_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--match", "question") == 0
    stored = report_of(tmp_path)
    stored["rows"] = [row for row in stored["rows"] if row["implementation"] != "composed latent"]
    file = tmp_path / "cpu" / "attention.json"
    file.write_text(json.dumps(stored))
    monkeypatch.setattr(gpu_bench.ceilings, "of", raising(AssertionError("measured the ceilings anew")))
    assert run(tmp_path, "--match", "question", "--resume") == 0
    assert report_of(tmp_path)["ceilings"] == stored["ceilings"]
    row = rows_of(tmp_path)["composed latent"]
    share = row["gigabytes_per_second"] * 1e9 / stored["ceilings"]["read"]
    assert row["of_read_ceiling"] == pytest.approx(share)
    file.write_text(json.dumps(stored | {"ceilings": {"copy": 1.0}}))
    assert run(tmp_path, "--resume") == 2
    assert "has no ceilings that can be read" in capsys.readouterr().err


def test_a_lost_device_leaves_the_rest_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "composed_latent", raising(RuntimeError("an illegal memory access")))
    monkeypatch.setattr(gpu_bench, "is_lost", lambda device: True)
    monkeypatch.setattr(environment, "commit", lambda: "abc")
    asked: list[list[str]] = []

    def execv(program: str, command: list[str]) -> None:
        asked.append(command)
        raise SystemExit(program)

    monkeypatch.setattr(gpu_bench.os, "execv", execv)
    with pytest.raises(SystemExit, match="python"):
        run(tmp_path, "--match", "question", "--seconds", "500")
    ((_, *command),) = asked
    assert command[:2] == ["-m", "benchmarks.gpu_bench"]
    assert command[-6:-1] == [
        "--lost",
        rows_of(tmp_path)["composed latent"]["shape"],
        "composed latent",
        "--resume",
        "--seconds",
    ]
    assert 400 < float(command[-1]) <= 500
    assert list(rows_of(tmp_path))[-1] == "composed latent", "nothing is asked of the device after it"
    asked.clear()
    monkeypatch.setattr(gpu_bench, "is_lost", lambda device: False)
    assert gpu_bench.main(command[2:-2]) == 0
    assert list(rows_of(tmp_path)) == subjects.names("question", "cpu")
    assert not asked
