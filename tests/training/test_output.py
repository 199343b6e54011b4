"""What a training run writes into its folder, and what it leaves alone there."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam.errors import TrainingError
from kblam.folder.new import sole_writer
from kblam.knowledge import Triple
from kblam.training import card
from kblam.training.card import write_card
from kblam.training.checkpoints import check_output, checkpoints, sole_run
from kblam.training.estimate import estimate
from kblam.training.run import Trainer
from kblam.whole.unfinished import unfinished_file
from tests.training.conftest import Prepare, Trained, small, trainer_of


def test_a_run_is_never_written_over(prepared: Prepare, tmp_path: Path) -> None:
    trainer_of(prepared, tmp_path).fit(stop_after=3)
    with pytest.raises(TrainingError, match="holds a run already; pass resume=True, or another output"):
        trainer_of(prepared, tmp_path).fit()
    with pytest.raises(TrainingError, match=r"other settings: learning_rate was 0.0012, is 0.5"):
        trainer_of(prepared, tmp_path, learning_rate=0.5).fit(resume=True)
    other = Trainer(small(), prepared(triples=[Triple("Machine 7", "torque", "9 Nm")]), tmp_path, say=[].append)
    told = (
        r"other settings: facts \(triples and the invented world: their number and hash\) was '\d+, \w+', is '\d+, \w+'"
    )
    with pytest.raises(TrainingError, match=told):
        other.fit(resume=True)
    state = (tmp_path / "checkpoint-3" / "state.json").read_text()
    for damaged in ("{", state.replace('"step": 3', '"step": 1, "step": 3')):
        (tmp_path / "checkpoint-3" / "state.json").write_text(damaged)
        with pytest.raises(TrainingError, match=r"checkpoint-3 is damaged: state.json cannot be read \(.*delete that"):
            trainer_of(prepared, tmp_path).fit(resume=True)


@pytest.mark.parametrize("damage", ["cut short", "of something else", "missing"])
@pytest.mark.parametrize("file", ["optimizer.pt", "model.safetensors"])
def test_without_a_damaged_checkpoint_the_one_before_is_taken(
    file: str, damage: str, prepared: Prepare, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained(), tmp_path, dirs_exist_ok=True)
    last, path = tmp_path / "checkpoint-6", tmp_path / "checkpoint-6" / file
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut short" else b"not weights at all")
    with pytest.raises(TrainingError, match=r"checkpoint-6 is damaged: .*; delete that folder, and the run goes on"):
        trainer_of(prepared, tmp_path).fit(resume=True)
    shutil.rmtree(last)
    said: list[str] = []
    trainer_of(prepared, tmp_path, said).fit(resume=True)
    assert f"going on from {tmp_path / 'checkpoint-3'}" in said


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("mine", ["a base model", "another adapter", "a folder", "a card", "checkpoints of others"])
def test_what_is_no_run_is_never_written_over(
    mine: str, resume: bool, prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_of(prepared, tmp_path / "mine")
    if mine == "a base model":
        trainer.material.model.save_pretrained(tmp_path / "mine")
    elif mine == "another adapter":
        trainer.adapter.save_pretrained(tmp_path / "mine")
    else:
        path = {"a folder": "retrieval/notes.txt", "a card": "README.md"}.get(mine, "checkpoint-500/optimizer.pt")
        (tmp_path / "mine" / path).parent.mkdir(parents=True)
        (tmp_path / "mine" / path).write_text("years of work")
    before = contents(tmp_path / "mine")
    with pytest.raises(TrainingError, match="holds something else than a run of kblam train") as told:
        trainer.fit(resume=resume)
    assert "resume" not in str(told.value)
    assert contents(tmp_path / "mine") == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_base_model_beside_a_run_is_not_written_over(prepared: Prepare, tmp_path: Path) -> None:
    trainer_of(prepared, tmp_path).fit(stop_after=3)
    trainer = trainer_of(prepared, tmp_path)
    trainer.material.model.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match=r"something else than a run of kblam train \(config.json\)"):
        trainer.fit(resume=True)


def test_a_run_that_was_killed_while_it_wrote_its_log_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    with unfinished_file(tmp_path / "log.jsonl"):
        assert len(list(tmp_path.iterdir())) == 3, "the file and its lock"
        check_output(tmp_path, resume=False)


def test_what_a_stopped_run_left_is_no_hindrance(prepared: Prepare, tmp_path: Path) -> None:
    for left in (".retrieval.part/config.json", "cache/vectors-0123456789abcdef/x", ".t0_x9abc.part/model.safetensors"):
        (tmp_path / left).parent.mkdir(parents=True)
        (tmp_path / left).touch()
    for left in ("log.jsonl", "events.out.tfevents.1700000000.host.7.0"):
        (tmp_path / left).touch()
    trainer_of(prepared, tmp_path).fit(stop_after=1)
    assert [step for step, _ in checkpoints(tmp_path)] == [1]


def test_two_runs_do_not_write_into_one_folder(prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path)
    told = "another run of kblam train writes to .* now; wait for its end, or choose another output"
    with sole_run(tmp_path):
        before = contents(tmp_path)
        for resume in (False, True):
            with pytest.raises(TrainingError, match=told):
                check_output(tmp_path, resume=resume)
            with pytest.raises(TrainingError, match=told):
                trainer.fit(resume=resume)
        for begin in (trainer.finish, sole_run(tmp_path).__enter__):  # one that looked before the other began
            with pytest.raises(TrainingError, match=told):
                begin()
        assert contents(tmp_path) == before
    assert contents(tmp_path) == {}
    (tmp_path / ".train.lock").touch()  # of a run that was killed
    trainer.fit()
    assert not (tmp_path / ".train.lock").exists()


def test_no_run_begins_where_another_command_makes_a_folder(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "adapter"):
        for resume in (False, True):
            with pytest.raises(TrainingError, match=r"another command writes to .*adapter now; wait for its end"):
                check_output(tmp_path / "adapter", resume=resume)
    check_output(tmp_path / "adapter", resume=False)


def test_while_a_run_goes_on_its_folder_is_its_own(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def look(*_: Any, **__: Any) -> Any:
        with pytest.raises(TrainingError, match="another run of kblam train writes to"):
            check_output(tmp_path, resume=True)
        seen.append("in use")
        raise KeyboardInterrupt

    trainer = trainer_of(prepared, tmp_path)
    for part, begin in (("train_retrieval", trainer.fit), ("calibrated", trainer.finish)):
        monkeypatch.setattr(f"kblam.training.run.{part}", look)
        with pytest.raises(KeyboardInterrupt):
            begin()
        check_output(tmp_path, resume=False)
    assert len(seen) == 2


def test_an_output_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "adapter"):
        with pytest.raises(TrainingError, match=r"file is a file, and a run needs a folder; choose another output"):
            check_output(output, resume=False)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(TrainingError, match=r"is no folder that may be written; choose another output"):
        check_output(tmp_path / "new" / "adapter", resume=False)


@pytest.mark.parametrize(
    ("device", "told"), [("cpu", "4 threads of an"), ("cuda:1", "the card at cuda:1"), ("xpu", "a device of type xpu")]
)
def test_a_card_names_the_device_that_computed(device: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"the card at {device}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    where = torch.device(device)
    # An accelerator of one process says "cuda", which means the first one.
    trainer: Any = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device(where.type)),
        adapter=SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=where)])),
    )
    assert told in card._device(trainer)


def test_a_card_names_a_base_that_the_hub_has(tmp_path: Path) -> None:
    assert card._hub_name("smollm2") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card._hub_name("meta-llama/Llama-3.2-1B-Instruct") == "meta-llama/Llama-3.2-1B-Instruct"
    assert card._hub_name(str(tmp_path)) is None, "a folder, which the hub refuses"
    assert card._hub_name("tiny") is None, "of this package alone"


def test_a_card_that_somebody_wrote_is_kept(prepared: Prepare, tmp_path: Path) -> None:
    said: list[str] = []
    trainer = trainer_of(prepared, tmp_path, said)
    trainer.fit()
    trainer.finish()
    file = tmp_path / "README.md"
    write_card(trainer, 60.0)
    assert "How it was made" in file.read_text(), "in place of the hub's"
    write_card(trainer, 120.0)
    assert "in 2 minutes" in file.read_text()
    changed = file.read_text().replace("in 2 minutes", "in no time")
    for mine in ("# My adapter\n", changed):
        file.write_text(mine)
        write_card(trainer, 180.0)
        assert file.read_text() == mine
        assert said[-1] == f"{file} was changed by hand, so it stays as it is"


def test_the_card_says_what_the_minutes_were_spent_on(prepared: Prepare, tmp_path: Path) -> None:
    first = trainer_of(prepared, tmp_path)
    first.fit(stop_after=3)
    assert not first.resumed
    second = trainer_of(prepared, tmp_path)
    second.fit(resume=True)
    assert estimate(second).startswith("the confidence takes some minutes"), "nothing else is left"
    second.finish()
    for trainer, minutes in (first, "in 1 minute on"), (second, "in parts, the last in 1 minute on"):
        trainer.calibration = second.calibration
        write_card(trainer, 60.0)
        card = (tmp_path / "README.md").read_text()
        assert f"with the settings below, {minutes}" in card
        calibration = trainer.material.calibration
        vectors = trainer.material.vectors, calibration.vectors, calibration.property_vectors
        assert f"\n{sum(each.encoded for each in vectors):,} texts were encoded in this time" in card
