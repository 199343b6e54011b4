"""`report_to: tensorboard`: what the event files hold."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kblam.errors import TrainingError
from kblam.training.checkpoints import LOG
from kblam.training.material import Material
from kblam.training.run import Trainer
from tests.training.conftest import small

Prepare = Callable[..., Material]


def trainer_of(prepared: Prepare, output: Path) -> Trainer:
    return Trainer(small(report_to="tensorboard"), prepared(), output, say=[].append)


def test_tensorboard_that_is_missing_is_told_before_the_work(
    prepared: Prepare, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="report_to is tensorboard, which cannot be imported"):
        trainer_of(prepared, tmp_path)


def test_figures_go_to_tensorboard(prepared: Prepare, tmp_path: Path, monkeypatch: Any) -> None:
    written: list[tuple[str, int]] = []

    class Board:
        def __init__(self, folder: str, purge_step: int) -> None:
            assert (folder, purge_step) == (str(tmp_path), 0)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def flush(self) -> None:
            pass

    module = type(sys)("torch.utils.tensorboard")
    monkeypatch.setattr(module, "SummaryWriter", Board, raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    trainer_of(prepared, tmp_path).fit()
    assert ("stage 2/loss", 6) in written
    assert ("stage 2/held_out/top1", 6) in written


def test_event_files_can_be_read(prepared: Prepare, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed; pip install 'kblam-kernels[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer_of(prepared, tmp_path).fit(stop_after=2)
    # The next part does steps 1 and 2 again: they were done before there was a checkpoint.
    shutil.rmtree(tmp_path / "checkpoint-2")
    trainer_of(prepared, tmp_path).fit(resume=True)
    assert len(list(tmp_path.glob("events.*"))) == 2
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Scalars("stage 2/loss")
    read = {event.step: event.value for event in found}
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    logged = {line["step"]: line["loss"] for line in lines if line["stage"] == 2 and "loss" in line}
    assert read == pytest.approx(logged)
    assert len(found) == len(read) == 6
    assert [event.step for event in events.Scalars("stage 1/retrieval")] == [6], "of the first part"
    assert [event.step for event in events.Scalars("stage 2/held_out/top1")] == [3, 6]
