"""`log.jsonl` of a run that was stopped: each step is there once, as in that of an unbroken run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kblam.training.checkpoints import LOG
from kblam.training.log import RunLog
from kblam.training.run import Trainer
from tests.training.conftest import Prepare, Trained, trainer_of

CHANGES: dict[str, Any] = {"retrieval_steps": 20}


def told(folder: Path) -> list[dict[str, Any]]:
    """The records, but for what no two runs have alike."""
    lines = (folder / LOG).read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def stopped(trainer: Trainer, line: str) -> None:
    """Trains until a line that begins so is said, as if a person had stopped it then."""

    def say(text: str) -> None:
        if text.startswith(line):
            raise KeyboardInterrupt

    trainer.say = say
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(resume=True)


@pytest.mark.parametrize("lines", [["retrieval 10/20"], ["step 2/6"], ["step 5/6"], ["retrieval 20/20", "step 4/6"]])
def test_a_stopped_run_that_goes_on_has_each_step_once(
    lines: list[str], prepared: Prepare, trained: Trained, tmp_path: Path
) -> None:
    whole = trained(finish=True, **CHANGES)
    for line in lines:
        stopped(trainer_of(prepared, tmp_path / "parts", **CHANGES), line)
    last = trainer_of(prepared, tmp_path / "parts", **CHANGES)
    last.fit(resume=True)
    last.finish()
    assert len(told(whole)) == 2 + 6 + 2 + 1
    assert told(tmp_path / "parts") == told(whole)


def test_a_mean_of_steps_before_and_after_a_stop_is_that_of_an_unbroken_run(prepared: Prepare, tmp_path: Path) -> None:
    """The checkpoint of step 3 lies between two lines of figures."""
    changes = {**CHANGES, "logging_steps": 2}
    trainer_of(prepared, tmp_path / "whole", **changes).fit()
    stopped(trainer_of(prepared, tmp_path / "parts", **changes), "step 4/6")
    trainer_of(prepared, tmp_path / "parts", **changes).fit(resume=True)
    assert [line["step"] for line in told(tmp_path / "whole") if "loss" in line] == [2, 4, 6]
    assert told(tmp_path / "parts") == told(tmp_path / "whole")


def test_what_a_batch_has_nothing_of_is_left_out_and_is_no_zero_in_a_mean(prepared: Prepare, tmp_path: Path) -> None:
    """A batch of one question has either an answer or none."""
    changes = {"per_device_train_batch_size": 1, "retrieval_batch_size": 1, "unanswerable": 0.5, "retrieval_steps": 20}
    trainer_of(prepared, tmp_path / "each", **changes).fit()
    trainer_of(prepared, tmp_path / "all", **changes, logging_steps=6).fit()
    each = [line for line in told(tmp_path / "each") if "loss" in line]
    assert 0 < sum("refused" in line for line in each) < len(each) == 6
    assert all(("top1" in line) != ("refused" in line) for line in each)
    assert all("top1" in line["held_out"] or "refused" in line["held_out"] for line in told(tmp_path / "each")[-1:])
    (mean,) = [line for line in told(tmp_path / "all") if "loss" in line]
    for name in ("loss", "mass", "answered", "mass_unanswerable", "refusal", "retrieval"):
        there = [line[name] for line in each if name in line]
        assert mean[name] == sum(there) / len(there)
    assert all(("refusal" in line) != ("retrieval" in line) for line in told(tmp_path / "each") if line["stage"] == 1)


def test_a_new_run_in_the_folder_of_one_that_came_to_nothing_has_a_log_of_its_own(
    prepared: Prepare, tmp_path: Path
) -> None:
    stopped(trainer_of(prepared, tmp_path, **CHANGES), "retrieval 10/20")
    trainer_of(prepared, tmp_path, seed=5).fit()
    assert [(line["stage"], line["step"]) for line in told(tmp_path) if "held_out" not in line] == [
        (1, 6),
        *((2, step) for step in range(1, 7)),
    ]


def test_an_end_that_is_written_again_takes_the_place_of_the_first(prepared: Prepare, tmp_path: Path) -> None:
    trainer_of(prepared, tmp_path, max_steps=0).fit()
    for _ in range(2):
        again = trainer_of(prepared, tmp_path, max_steps=0)
        again.fit(resume=True)
        assert [line["stage"] for line in told(tmp_path)] in ([1], [1, 3]), "nothing is dropped before it is done again"
        again.finish()
        assert [line["stage"] for line in told(tmp_path)] == [1, 3]


def test_a_line_that_was_cut_is_dropped_and_what_is_none_of_ours_stays(tmp_path: Path) -> None:
    mine = ["a note of mine\n", '{"stage": "mine"}\n', "[1]\n"]
    first, second, third = (json.dumps({"stage": 2, "step": step, "loss": 1.5}) for step in (1, 2, 3))
    log, file = RunLog(tmp_path, tensorboard=False), tmp_path / LOG
    file.write_text("".join(mine) + f"{first}\n{second}\n{third[:20]}")
    log.go_on(2, 2)
    assert file.read_text() == "".join(mine) + f"{first}\n{second}\n"
    file.write_text(f"{first}\n{second}")
    log.go_on(2, 2)
    log.write(json.loads(third))
    assert file.read_text() == f"{first}\n{second}\n{third}\n"
    log.go_on(2, 1)
    assert file.read_text() == f"{first}\n"


def test_a_log_that_says_nothing_wrong_is_left_as_it_is(tmp_path: Path) -> None:
    RunLog(tmp_path / "new", tensorboard=False).go_on(1)
    assert not (tmp_path / "new").exists()
    log = RunLog(tmp_path, tensorboard=False)
    log.write({"stage": 2, "step": 4})
    before = (tmp_path / LOG).stat().st_ino
    log.go_on(2, 4)
    assert (tmp_path / LOG).stat().st_ino == before
