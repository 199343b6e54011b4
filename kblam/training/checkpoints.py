"""`checkpoint-N` folders: there whole or not at all, so that a run that is killed goes on from the last one."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from kblam import strict_json
from kblam.adapter import KnowledgeAdapter
from kblam.adapter.files import load_weights
from kblam.errors import TrainingError, argument
from kblam.training.config import setting

_NAME = re.compile(r"checkpoint-(\d+)")
_STATE, _OPTIMIZER = "state.json", "optimizer.pt"


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` at the end of the block; one that is there is of no use any more."""
    fresh = target.with_name(f".{target.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    yield fresh
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all checkpoints, the latest last."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def save_checkpoint(
    folder: Path, step: int, adapter: KnowledgeAdapter, optimizer: torch.optim.Optimizer, run: dict[str, Any], keep: int
) -> Path:
    """Writes `folder/checkpoint-step` and drops all but the last `keep` ones."""
    target = folder / f"checkpoint-{step}"
    with whole_folder(target) as fresh:
        save_state(fresh, adapter, run, step)
        torch.save(optimizer.state_dict(), fresh / _OPTIMIZER)
    for _, old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def save_state(folder: Path, adapter: KnowledgeAdapter, run: dict[str, Any], step: int = 0) -> None:
    """Writes the adapter, and which run it is of."""
    adapter.save_pretrained(folder)
    (folder / _STATE).write_text(json.dumps({"step": step, "run": run}, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(
    path: Path, adapter: KnowledgeAdapter, optimizer: torch.optim.Optimizer, run: dict[str, Any]
) -> int:
    """Fills adapter and optimizer; returns the step that comes next.

    Raises:
        TrainingError: the checkpoint cannot be read, or is of a run with other settings.
    """
    step = load_state(path, adapter, run)
    device = next(adapter.parameters()).device
    optimizer.load_state_dict(torch.load(path / _OPTIMIZER, map_location=device, weights_only=True))
    return step


def load_state(path: Path, adapter: KnowledgeAdapter, run: dict[str, Any]) -> int:
    """Fills the adapter; returns the step that comes next.

    Raises:
        TrainingError: it cannot be read, or is of a run with other settings.
    """
    try:
        state = strict_json.loads((path / _STATE).read_text(encoding="utf-8"))
        before, step = state["run"], int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        again = argument("resume=True", "--resume", ("train",))
        raise TrainingError(f"{path} is not a checkpoint of kblam train: {error}; start without {again}") from error
    other = sorted(name for name in run.keys() | before.keys() if run.get(name) != before.get(name))
    if other:
        changes = ", ".join(f"{setting(name)} was {before.get(name)!r}, is {run.get(name)!r}" for name in other[:4])
        raise TrainingError(f"{path} is of a run with other settings: {changes}; use those, or another output folder")
    load_weights(adapter, path, strict=True)
    return step
