"""What a run tells while it goes: a line of JSON for each record, TensorBoard's files, and figures in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kblam import strict_json
from kblam.errors import TrainingError
from kblam.training.checkpoints import LOG
from kblam.training.config import setting
from kblam.whole import write_whole

_END = sys.maxsize


class RunLog:
    """The records of one run, in parts or not: each step of each stage is there once, as it was done last.

    Args:
        folder: where they go; made with the first one.
        tensorboard: write its event files there too.

    Raises:
        TrainingError: TensorBoard is asked for and missing.
    """

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        self._folder = folder
        self._writer = summary_writer() if tensorboard else None
        self._board: Any = None  # opened with the first record

    def go_on(self, stage: int, after: int = 0) -> None:
        """Before all that follows a step of a stage is done: drops what an earlier part of the run told of that.

        Raises:
            OSError: the log cannot be read or written.
        """
        file = self._folder / LOG
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        kept = [line.rstrip(b"\r\n") + b"\n" for line in lines if _place(line) <= (stage, after)]
        if kept == lines:
            return
        write_whole(file, b"".join(kept))
        if self._board is not None:
            self._board.close()
            self._board = None

    def write(self, record: dict[str, Any]) -> None:
        """One more; it has its "stage", and a "step" where there are some."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._board is None:
            self._open()
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self._show(record)

    def _open(self) -> None:
        """A file for TensorBoard, where one is asked for, with what the log has.

        Older ones are hidden whole: its readers hide all from a step on or nothing, whatever the stage.
        """
        if self._writer is None:
            return
        self._board = self._writer(str(self._folder), purge_step=0)
        file = self._folder / LOG
        for line in file.read_bytes().splitlines() if file.exists() else ():
            if (record := _record(line)) is not None:
                self._show(record)

    def _show(self, record: dict[str, Any]) -> None:
        if self._board is None:
            return
        for name, value in _scalars(record):
            self._board.add_scalar(f"stage {record['stage']}/{name}", value, record.get("step", 0))
        self._board.flush()


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line of the log says; None if it is none of ours, or was cut when the run was killed."""
    try:
        record = strict_json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(record, dict) and all(isinstance(record.get(name, 0), int) for name in ("stage", "step"))
    return record if is_ours and "stage" in record else None


def _place(line: bytes) -> tuple[int, int]:
    """Where in a run a line was written, as (stage, step): a cut one at the end, what is none of ours before all."""
    if (record := _record(line)) is None:
        return (0, 0) if line.endswith(b"\n") else (_END, 0)
    return record["stage"], record.get("step", _END)


def summary_writer() -> Any:
    """TensorBoard's class that writes event files.

    Raises:
        TrainingError: the package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            f"{setting('report_to')} is tensorboard, which cannot be imported ({error}); "
            "pip install 'kblam-kernels[train]'"
        ) from error
    return SummaryWriter


def in_words(figures: dict[str, float]) -> str:
    """Figures with three digits, on one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())


def means_over(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure the mean over the steps that have it."""
    names = dict.fromkeys(name for step in steps for name in step)
    had = {name: [step[name] for step in steps if name in step] for name in names}
    return {name: sum(values) / len(values) for name, values in had.items()}


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _scalars(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The figures of a record by name, those inside another one by both names."""
    for name, value in record.items():
        if isinstance(value, float):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}/{inner}", figure) for inner, figure in _scalars(value))
