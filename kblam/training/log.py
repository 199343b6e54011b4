"""What a run tells while it goes: a line of JSON for each record, TensorBoard's files, and figures in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kblam.errors import TrainingError
from kblam.training.checkpoints import LOG
from kblam.training.config import setting


class RunLog:
    """The records of one run.

    Args:
        folder: where they go; made with the first one.
        tensorboard: write its event files there too.

    Raises:
        TrainingError: TensorBoard is asked for and missing.
    """

    def __init__(self, folder: Path, *, tensorboard: bool) -> None:
        self._folder = folder
        self._board = summary_writer()(str(folder)) if tensorboard else None

    def write(self, record: dict[str, Any]) -> None:
        """One more; it has its "stage", and a "step" where there are some."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in _scalars(record):
                self._board.add_scalar(f"stage {record['stage']}/{name}", value, record.get("step", 0))
            self._board.flush()


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
