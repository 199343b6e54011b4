"""The ablations: a report is there whole or not at all, and one of another run is not printed for this one's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments import ablations

ALWAYS = ("--config", "--cache", "--output")
FIGURES = {"exact": 0.9, "top1_by_layer": {"14": 0.5}}


class Asked(list[Path]):
    """The report files that evaluations were told to write; with `stops` they are stopped half way."""

    stops = stops_training = False

    def __init__(self) -> None:
        super().__init__()
        self.trained: list[dict[str, Any]] = []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Training and evaluation that take no time."""
    files = Asked()

    def kblam(command: str, *words: Any) -> None:
        resumes = "--resume" in words
        words = tuple(word for word in words if word != "--resume")
        given = dict(zip(words[::2], words[1::2], strict=True))
        if command == "train":
            given["--output"].mkdir(parents=True, exist_ok=resumes)  # a run that is there is refused otherwise
            if files.stops_training:
                raise KeyboardInterrupt
            (given["--output"] / "config.json").write_text("{}")
            files.trained.append({name: value for name, value in given.items() if name not in ALWAYS})
            return
        about = {"seed": given["--seed"], "questions": given["--questions"], "commit": ablations.commit()}
        files.append(given["--json"])
        given["--json"].write_text(json.dumps({"sizes": {"1000": FIGURES}} | about))
        if files.stops:
            raise KeyboardInterrupt
        given["--json"].write_text(json.dumps({"sizes": {"1000": FIGURES}, "real": {given["--real"]: FIGURES}} | about))

    monkeypatch.setattr(ablations, "_kblam", kblam)
    monkeypatch.setattr(ablations, "commit", lambda: "abc")
    return files


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["ablations", str(folder), *map(str, options)])
    ablations.main()


def test_an_evaluation_that_was_stopped_is_made_again(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.stops = True
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path)
    asked.stops = False
    run(monkeypatch, tmp_path)
    assert len(asked) == 6, "the first one twice"
    assert capsys.readouterr().out.count("elements") == 5
    run(monkeypatch, tmp_path)
    assert len(asked) == 6, "what is there whole is not made again"
    assert not list(tmp_path.glob("*.part*"))


def test_a_training_that_was_stopped_goes_on(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.stops_training = True
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tmp_path, "--only", "no pointer")
    assert not asked.trained
    asked.stops_training = False
    run(monkeypatch, tmp_path, "--only", "no pointer")
    assert len(asked.trained) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", 3], "everything.json has seed 17, and this run 3"),
        (["--questions", 10], "everything.json has questions 200, and this run 10"),
        (["--real", "airports"], "everything.json has no row of airports"),
        (["--config", "other.yaml"], "nothing says that rows/everything was trained by other.yaml"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else None,
)
def test_what_another_run_left_is_refused(
    options: list[object],
    message: str,
    asked: Asked,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.yaml").write_text("max_steps: 3\n")
    run(monkeypatch, Path("rows"))
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, Path("rows"), *options)
    told = " ".join(capsys.readouterr().err.split())
    assert message in told
    assert "choose another folder, or delete" in told


def test_a_report_of_another_commit_or_none_at_all_is_refused(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path)
    monkeypatch.setattr(ablations, "commit", lambda: "def")
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, tmp_path)
    assert "everything.json has commit 'abc', and this run 'def'" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "everything.json").write_text('{"sizes": ')
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, tmp_path)
    assert "everything.json is not a report of kblam eval" in " ".join(capsys.readouterr().err.split())


def test_a_row_takes_the_whole_budget_and_leaves_one_part_out(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, tmp_path, "--budget", "whole", "--only", "no pointer", "--only", "no stage 1")
    assert asked.trained == [{"--pointer": "false"}, {"--retrieval_steps": "0"}]
    assert capsys.readouterr().out.count("elements") == 2
    run(monkeypatch, tmp_path / "all")
    assert len(asked.trained) == 2 + len(ablations.WITHOUT)
    assert all(settings["--train_entities"] == "3500" for settings in asked.trained[2:])
